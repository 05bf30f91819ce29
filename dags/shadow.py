"""Let challengers score the champion's drops in shadow, off the critical path."""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable

from apex_airflow.operators.step import StepOperator, step_defaults
from apex_airflow.pipelines import readable_pipelines
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.settings import Settings

settings = Settings.load()

ABOUT = """
### Shadow
With `shadow: {days: N}` in the pipeline's file, every challenger that was not promoted also scores the drops that the
champion has scored, for N days after its training. It runs on the sweep's schedule, in its own pool, after a drop is
committed: no drop waits for it or fails because of it. Compare with `select * from <pipeline>.shadow_comparison`.
"""


def build(pipeline: PipelineSettings) -> DAG:
    """Return the DAG in which the challengers of a pipeline score in shadow."""
    options = pipeline.options
    with DAG(
        dag_id=pipeline.dag_id("shadow"),
        description="challengers score what the champion has scored",
        doc_md=ABOUT.replace("<pipeline>", pipeline.name),
        schedule=CronTriggerTimetable(options.schedule.sweep, timezone="UTC") if options.shadow.days else None,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,  # shadow.days is its switch
        default_args={**step_defaults(settings, pipeline), "pool": "apex_shadow"},
        tags=["apex", pipeline.name, "scoring"],
    ) as dag:
        StepOperator(
            task_id="shadow",
            step="shadow",
            doc_md="Score every drop that a challenger has not scored yet. Skipped when there is none.",
        )
    return dag


for each in readable_pipelines(settings):
    build(each)
