"""Make a former champion champion again, from a form."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from apex_airflow.assets import champion
from apex_airflow.operators.step import StepOperator, step_defaults
from apex_airflow.pipelines import readable_pipelines
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.settings import Settings

settings = Settings.load()

ABOUT = """
### Rollback
Trigger it and fill in the form: the reason, and the version; by default the previous champion. The ledger records who
did it and why (`apex champion`, or `select * from <pipeline>.model_history`). A drop that is being scored keeps the
version it started with; the next drop is scored by the restored version.

The next `<pipeline>_retrain` may promote a challenger over that version, on evidence as always. Pause
`<pipeline>_retrain` to prevent this.
"""


def build(pipeline: PipelineSettings) -> DAG:
    """Return the DAG that rolls back the champion of a pipeline."""
    with DAG(
        dag_id=pipeline.dag_id("rollback"),
        description="back to a former champion, with a reason",
        doc_md=ABOUT.replace("<pipeline>", pipeline.name),
        schedule=None,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,  # a rollback must not wait until a user unpauses its DAG
        default_args={**step_defaults(settings, pipeline), "pool": "apex_champion"},
        tags=["apex", pipeline.name, "champion"],
        params={
            "reason": Param(type="string", minLength=3, description="Reason; recorded in the ledger."),
            "version": Param(
                None,
                type=["null", "integer"],
                minimum=1,
                description="Version to restore. Empty: the previous champion.",
            ),
        },
    ) as dag:
        StepOperator(
            task_id="rollback",
            step="rollback",
            args=[
                "--reason={{ params.reason }}",
                "{{ '--to=' ~ params.version if params.version }}",
                "{{ '--who=' ~ dag_run.triggering_user_name ~ ' in Airflow' if dag_run.triggering_user_name }}",
            ],
            emits=champion(pipeline),
            emits_if="moved",
            doc_md="Move the alias `champion` to the version, with the usual protocol, and record who did it and why.",
        )
    return dag


for each in readable_pipelines(settings):
    build(each)
