"""Let challengers score the champion's drops in shadow, off the critical path."""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable

from apex_airflow.operators.step import StepOperator, step_defaults
from apex_ml.settings import Settings

settings = Settings.load()

with DAG(
    dag_id="apex_shadow",
    description="challengers score what the champion has scored",
    doc_md="""
### Shadow
With `APEX_SHADOW_DAYS` above 0, every challenger that was not promoted also scores the drops that the champion has
scored, for that many days after its training. It runs on the sweep's schedule, in its own pool, after a drop is
committed: no drop waits for it or fails because of it. Compare with `select * from apex.shadow_comparison`.
""",
    schedule=CronTriggerTimetable(settings.sweep_schedule, timezone="UTC") if settings.shadow_days else None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # APEX_SHADOW_DAYS is its switch
    default_args={**step_defaults(settings), "pool": "apex_shadow"},
    tags=["apex", "scoring"],
) as dag:
    StepOperator(
        task_id="shadow",
        step="shadow",
        doc_md="Score every drop that a challenger has not scored yet. Skipped when there is none.",
    )
