"""Let challengers score the champion's drops in shadow, off the critical path."""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable

from apex_airflow.operators.step import StepOperator, step_defaults
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.settings import Settings

settings = Settings.load()
pipeline = load_pipeline_settings(settings)
options = pipeline.options

with DAG(
    dag_id="orders_shadow",
    description="challengers score what the champion has scored",
    doc_md="""
### Shadow
With `shadow: {days: N}` in the pipeline's file, every challenger that was not promoted also scores the drops that the
champion has scored, for N days after its training. It runs on the sweep's schedule, in its own pool, after a drop is
committed: no drop waits for it or fails because of it. Compare with `select * from orders.shadow_comparison`.
""",
    schedule=CronTriggerTimetable(options.schedule.sweep, timezone="UTC") if options.shadow.days else None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # shadow.days is its switch
    default_args={**step_defaults(settings, pipeline), "pool": "orders_shadow"},
    tags=["apex", "scoring"],
) as dag:
    StepOperator(
        task_id="shadow",
        step="shadow",
        doc_md="Score every drop that a challenger has not scored yet. Skipped when there is none.",
    )
