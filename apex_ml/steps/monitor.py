"""Step monitor: drift of what is scored, quality of what was scored, alerts, and whether to retrain.

All of it comes from Postgres: the scoring runs keep their profiles, the models those of their examples. Only the drift
of raw orders reads files, those of the newest validated run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.postgres import monitoring, warehouse
from apex_ml.adapters.postgres.monitoring import DRIFT
from apex_ml.adapters.storage.drops import Inbox
from apex_ml.errors import ApexError
from apex_ml.faults import reach
from apex_ml.services import champion_ledger as protocol
from apex_ml.services.alert_delivery import send_alerts
from apex_ml.services.drift_monitoring import check_drift_of_days, check_drift_of_online_days, check_drift_of_runs
from apex_ml.services.quality_monitoring import degradation_alerts, evaluate_weeks
from apex_ml.services.raw_drift import check_drift_of_raw_rows
from apex_ml.services.run_folder import StepContext
from apex_ml.services.scoring_results import MonitorResult, RetrainRequest

logger = logging.getLogger(__name__)

QUALITY = "quality"


def monitor(context: StepContext) -> MonitorResult:
    """Check what is new since the last call. A second call changes nothing.

    Drift is tested for every scoring run of enough orders, every day of scoring, every day of recorded online answers
    and the newest week of raw orders; quality is evaluated for every week of orders with new outcomes. Alerts are
    raised once and resolved when their cause is gone. Raw orders or an inbox that cannot be read raise an alert of
    their own and stop nothing else. While the champion counts as degraded, `retrain` in the result holds one dictionary
    with the run to trigger, `trigger_run_id`, and the reason, `note`: the same run at every call, so that it is
    triggered once.
    """
    settings = context.settings
    champion = protocol.resolve(settings, Registry(settings, context.model_name))
    unseen: dict[str, str] = {}
    version = champion.version if champion else None
    with warehouse.connect(settings) as connection:
        with connection, connection.cursor() as cursor:
            monitoring.lock(cursor)
            about = monitoring.known_about(cursor, context.model_name)
            runs = check_drift_of_runs(context, cursor, about)
            days = check_drift_of_days(context, cursor, about)
            online = check_drift_of_online_days(context, cursor, about)
            raw = 0
            with _noted(unseen, "raw orders"):
                raw = check_drift_of_raw_rows(context, cursor)
            drifting = monitoring.drifting(cursor, context.model_name, version)
            raised, resolved = monitoring.set_alerts(cursor, DRIFT, drifting)
            reach("drift_written")
        with connection, connection.cursor() as cursor:
            monitoring.lock(cursor)
            weeks = evaluate_weeks(context, cursor, about)
            worse = {} if version is None else degradation_alerts(context, cursor, version)
            more, gone = monitoring.set_alerts(cursor, QUALITY, worse)
            alerts = monitoring.open_alerts(cursor, QUALITY)
            late: list[str] = []
            in_time: list[str] = []
            with _noted(unseen, "inbox"):
                waiting = Inbox(settings).late(settings.drop_deadline_minutes)
                late, in_time = monitoring.set_alerts(cursor, monitoring.DROP_LATE, waiting)
            blind, seen = monitoring.set_alerts(cursor, monitoring.UNSEEN, unseen)
            monitoring.resolve_late(cursor)
            monitoring.resolve_small_drops(cursor)
    for subject in (*raised, *more, *late, *blind):
        logger.warning("alert_raised subject=%s", subject)
    return MonitorResult(
        run=context.run,
        step="monitor",
        runs_judged=runs,
        days_judged=days,
        online_days_judged=online,
        raw_weeks_judged=raw,
        weeks_judged=weeks,
        alerts_raised=(*raised, *more, *late, *blind),
        alerts_resolved=(*resolved, *gone, *in_time, *seen),
        sent=tuple(send_alerts(settings)),
        # named after the alert, so that a second call asks for no second run
        retrain=tuple(RetrainRequest(trigger_run_id=f"degraded__alert_{a.alert_id}", note=a.message) for a in alerts),
    )


@contextmanager
def _noted(unseen: dict[str, str], what: str) -> Iterator[None]:
    """Note what cannot be read, so that the rest of the monitoring goes on and its alerts are sent."""
    try:
        yield
    except (ApexError, OSError) as error:
        logger.error("not_monitored what=%s reason=%s", what, error)
        unseen[what] = f"{what} cannot be monitored: {error}"
