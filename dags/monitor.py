"""Monitor scored rows: drift, quality once outcomes are known, alerts, and a retraining of a degraded champion."""

from __future__ import annotations

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable

from apex_airflow.assets import champion, scored
from apex_airflow.operators.step import StepOperator, step_defaults
from apex_airflow.pipelines import readable_pipelines
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.settings import Settings

settings = Settings.load()

ABOUT = """
### Monitoring
Runs daily, after every scoring, and after every change of the champion, whose baselines apply from then on. `outcomes`
matches the newest raw rows with their scores. `monitor` measures the drift of every drop, day and raw week, and the
quality of every week whose outcomes are known. Alerts appear in `<pipeline>.open_alerts` and in the log, and are sent
to the webhook and by mail when these are configured.

When enough of the champion's newest weeks were significantly worse than at its promotion, or many weeks were slightly
worse, `retrain` triggers `<pipeline>_retrain` with **force** and the reason in the run's note, once per alert.
Otherwise that task is skipped.
Results: `select * from <pipeline>.drift_latest`, `select * from <pipeline>.model_quality_weekly`.
"""


def build(pipeline: PipelineSettings) -> DAG:
    """Return the DAG that monitors a pipeline."""
    options = pipeline.options
    with DAG(
        dag_id=pipeline.dag_id("monitor"),
        description="scored rows → drift, quality, alerts → a retraining, when the champion degrades",
        doc_md=ABOUT.replace("<pipeline>", pipeline.name),
        schedule=AssetOrTimeSchedule(
            timetable=CronTriggerTimetable(options.schedule.monitor, timezone="UTC"),
            assets=scored(pipeline) | champion(pipeline),
        ),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,  # it has nothing to do before the first drop
        default_args={**step_defaults(settings, pipeline), "pool": "apex_monitoring"},
        tags=["apex", pipeline.name, "monitoring"],
    ) as dag:
        outcomes = StepOperator(
            task_id="outcomes",
            step="outcomes",
            args=["--newest"],
            doc_md="Match the classes of the newest validated raw rows with their scores.",
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
            trigger_dag_id=pipeline.dag_id("retrain"),
            conf={"force": True},
            skip_when_already_exists=True,
            doc_md="Retrain when the champion degrades. Skipped when it does not, or this alert caused a run before.",
        ).expand_kwargs(monitor.output)

        outcomes >> monitor >> retrain
    return dag


for each in readable_pipelines(settings):
    build(each)
