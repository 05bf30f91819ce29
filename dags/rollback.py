"""Make a former champion champion again, from a form."""

from __future__ import annotations

from airflow.sdk import DAG, Param

from apex_airflow.assets import CHAMPION
from apex_airflow.operators.step import StepOperator, step_defaults
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.settings import Settings

settings = Settings.load()
pipeline = load_pipeline_settings(settings)

with DAG(
    dag_id="orders_rollback",
    description="back to a former champion, with a reason",
    doc_md="""
### Rollback
Trigger it and fill in the form: the reason, and the version; by default the previous champion. The ledger records who
did it and why (`apex champion`, or `select * from orders.model_history`). A drop that is being scored keeps the version
it started with; the next drop is scored by the restored version.

The next `orders_retrain` may promote a challenger over that version, on evidence as always. Pause `orders_retrain` to
prevent this.
""",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # a rollback must not wait until a user unpauses its DAG
    default_args={**step_defaults(settings, pipeline), "pool": "orders_champion"},
    tags=["apex", "champion"],
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
        emits=CHAMPION,
        emits_if="moved",
        doc_md="Move the alias `champion` to the version, with the usual protocol, and record who did it and why.",
    )
