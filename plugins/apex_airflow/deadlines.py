"""Deadlines that Airflow watches. A run that takes too long raises an alert, like those of ``<pipeline>_monitor``.

They can stop working after an edit of the DAG (a known bug of Airflow). Therefore `apex status --check` checks them,
too.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference  # type: ignore[attr-defined]  # not in its stub

from apex_ml.contract.pipeline import DagKind, PipelineSettings
from apex_ml.settings import Settings
from apex_ml.wording import counted


async def late(*, schema: str, kind: str, subject: str, message: str, **_: Any) -> None:
    """Raise the alert; runs in the triggerer."""
    from apex_ml.adapters.postgres.alerts import raise_alert

    await asyncio.to_thread(raise_alert, Settings.load(), schema, kind, subject, message)


def deadline(pipeline: PipelineSettings, dag: DagKind, minutes: int) -> DeadlineAlert | None:
    """Return the alert for a run that has not ended `minutes` after it was queued; None if alerts are disabled."""
    if not pipeline.options.alerts.deadlines:
        return None
    dag_id = pipeline.dag_id(dag)
    message = f"a run of {dag_id} has not ended {counted(minutes, 'minute')} after it was queued"
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=minutes),
        callback=AsyncCallback(
            late, kwargs={"schema": pipeline.schema, "kind": f"{dag}_late", "subject": dag_id, "message": message}
        ),
    )
