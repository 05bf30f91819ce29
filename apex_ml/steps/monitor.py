"""Step monitor: drift of what is scored, quality of what was scored, alerts, and whether to retrain.

All of it comes from Postgres: the scoring runs keep their profiles, the models those of their examples. Only the drift
of raw orders reads files, those of the newest validated run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.postgres.alerts import DRIFT, DROP_LATE, QUALITY, UNSEEN, PostgresAlerts
from apex_ml.adapters.postgres.connection import begin, connect
from apex_ml.adapters.postgres.drift import PostgresDrift
from apex_ml.adapters.postgres.quality import PostgresQuality
from apex_ml.adapters.postgres.scoring_profiles import PostgresProfiles
from apex_ml.adapters.postgres.versions import PostgresVersions
from apex_ml.adapters.storage.drops import Inbox
from apex_ml.errors import ApexError
from apex_ml.faults import reach
from apex_ml.services import champion_ledger as protocol
from apex_ml.services.alert_delivery import send_alerts
from apex_ml.services.drift_monitoring import (
    DriftCheck,
    check_drift_of_days,
    check_drift_of_online_days,
    check_drift_of_runs,
)
from apex_ml.services.quality_monitoring import degradation_alerts, evaluate_weeks
from apex_ml.services.raw_drift import check_drift_of_raw_rows
from apex_ml.services.run_folder import StepContext
from apex_ml.services.scoring_results import MonitorResult, RetrainRequest

logger = logging.getLogger(__name__)


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
    with connect(settings) as connection:
        with begin(connection) as session:
            alerts, ledger = PostgresAlerts(session), PostgresDrift(session, context.model_name)
            ledger.lock()
            about = PostgresVersions(session, context.model_name).about()
            drift = DriftCheck(context, PostgresProfiles(session, context.model_name), ledger, about)
            runs = check_drift_of_runs(drift)
            days = check_drift_of_days(drift)
            online = check_drift_of_online_days(drift)
            raw = 0
            with _noted(unseen, "raw orders"):
                raw = check_drift_of_raw_rows(context, ledger)
            raised, resolved = alerts.set_open(DRIFT, ledger.drifting(version))
            reach("drift_written")
        with begin(connection) as session:
            alerts = PostgresAlerts(session)
            PostgresDrift(session, context.model_name).lock()
            quality = PostgresQuality(session, context.model_name)
            weeks = evaluate_weeks(context, quality, about)
            worse = {} if version is None else degradation_alerts(context, quality, version)
            more, gone = alerts.set_open(QUALITY, worse)
            degraded = alerts.open_of_kind(QUALITY)
            late: list[str] = []
            in_time: list[str] = []
            with _noted(unseen, "inbox"):
                waiting = Inbox(settings).late(settings.drop_deadline_minutes)
                late, in_time = alerts.set_open(DROP_LATE, waiting)
            blind, seen = alerts.set_open(UNSEEN, unseen)
            alerts.resolve_late()
            alerts.resolve_small_drops()
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
        retrain=tuple(RetrainRequest(trigger_run_id=f"degraded__alert_{a.alert_id}", note=a.message) for a in degraded),
    )


@contextmanager
def _noted(unseen: dict[str, str], what: str) -> Iterator[None]:
    """Note what cannot be read, so that the rest of the monitoring goes on and its alerts are sent."""
    try:
        yield
    except (ApexError, OSError) as error:
        logger.error("not_monitored what=%s reason=%s", what, error)
        unseen[what] = f"{what} cannot be monitored: {error}"
