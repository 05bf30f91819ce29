"""The deadlines, looked at from outside of Airflow: for cron, by `apex status --check`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from croniter import croniter

from apex_ml.contract.options import Schedule
from apex_ml.contract.pipeline import Pipeline
from apex_ml.platform.airflow_api import IMPATIENT, AirflowApi
from apex_ml.platform.airflow_runs import DagRun
from apex_ml.services.inboxes import open_inbox
from apex_ml.settings import Settings

LOOKED_AT = 20
"""Number of the newest runs of retraining to check."""


def late(settings: Settings, pipeline: Pipeline) -> list[str]:
    """One message for each late drop, and for a nightly retraining that has not ended in time.

    Raises :class:`~apex_ml.errors.TransientError` when Airflow does not answer.
    """
    messages = list(open_inbox(settings, pipeline).late(pipeline.options.scoring.deadline_minutes).values())
    dag_id = pipeline.dag_id("retrain")
    with AirflowApi(settings, **IMPATIENT) as api:
        paused = api.paused(dag_id)
        runs = api.dag_runs(dag_id, limit=LOOKED_AT)
    if not paused and (message := late_retraining(dag_id, pipeline.options.schedule, runs, datetime.now(UTC))):
        messages.append(message)
    return messages


def late_retraining(dag_id: str, schedule: Schedule, runs: list[DagRun], now: datetime) -> str | None:
    """A message when the newest night whose deadline is over has no run that ended well since it was due.

    A platform whose first run is younger than that night owes it nothing.
    """
    allowed = timedelta(minutes=schedule.retrain_deadline_minutes)
    due: datetime = croniter(schedule.retrain, now - allowed).get_prev(datetime)
    started = [run.started for run in runs if run.started]
    if not started or min(started) > due and len(runs) < LOOKED_AT:
        return None
    if any(run.state == "success" and run.ended and run.ended >= due for run in runs):
        return None
    return f"{dag_id}, due at {due:%F %H:%M} UTC, has not ended well by {due + allowed:%F %H:%M} UTC"
