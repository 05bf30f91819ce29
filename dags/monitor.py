"""Monitor scored orders: drift, quality once outcomes are known, alerts, and a retraining of a degraded champion."""

from __future__ import annotations

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable

from apex_airflow.assets import CHAMPION, SCORED
from apex_airflow.operators.step import StepOperator, step_defaults
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.settings import Settings

settings = Settings.load()
pipeline = load_pipeline_settings(settings)
options = pipeline.options

with DAG(
    dag_id="orders_monitor",
    description="scored orders → drift, quality, alerts → a retraining, when the champion degrades",
    doc_md="""
### Monitoring
Runs daily, after every scoring, and after every change of the champion, whose baselines apply from then on. `outcomes`
matches the newest raw orders with their scores. `monitor` measures the drift of every drop, day and raw week, and the
quality of every week whose outcomes are known. Alerts appear in `orders.open_alerts` and in the log, and are sent to
the webhook and by mail when these are configured.

When enough of the champion's newest weeks were significantly worse than at its promotion, or many weeks were slightly
worse, `retrain` triggers `orders_retrain` with **force** and the reason in the run's note, once per alert. Otherwise
that task is skipped.
Results: `select * from orders.drift_latest`, `select * from orders.model_quality_weekly`.
""",
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable(options.schedule.monitor, timezone="UTC"), assets=SCORED | CHAMPION
    ),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # it has nothing to do before the first drop
    default_args={**step_defaults(settings, pipeline), "pool": "apex_monitoring"},
    tags=["apex", "monitoring"],
) as dag:
    outcomes = StepOperator(
        task_id="outcomes",
        step="outcomes",
        args=["--newest"],
        doc_md="Match the channels of the newest validated raw orders with their scores.",
    )
    monitor = StepOperator(
        task_id="monitor",
        step="monitor",
        returns="retrain",
        trigger_rule="all_done",
        doc_md="Measure drift and quality, raise alerts. Also runs when `outcomes` failed.",
    )
    retrain = TriggerDagRunOperator.partial(
        task_id="retrain",
        trigger_dag_id="orders_retrain",
        conf={"force": True},
        skip_when_already_exists=True,
        doc_md="Retrain when the champion degrades. Skipped when it does not, or when this alert already caused a run.",
    ).expand_kwargs(monitor.output)

    outcomes >> monitor >> retrain
