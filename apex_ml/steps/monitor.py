"""Step monitor: drift of the scored rows, quality of the predictions, alerts, and whether to retrain.

Its data comes from Postgres, which holds the profiles of scoring runs and of the models' examples. Only the drift of
raw rows reads files, those of the newest validated run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.postgres.alerts import DRIFT, DROP_LATE, QUALITY, UNSEEN, AlertChanges, PostgresAlerts
from apex_ml.adapters.postgres.connection import PsycopgSession, begin, connect
from apex_ml.adapters.postgres.drift import PostgresDrift
from apex_ml.adapters.postgres.quality import PostgresQuality
from apex_ml.adapters.postgres.scoring_profiles import PostgresProfiles
from apex_ml.adapters.postgres.versions import PostgresVersions
from apex_ml.core.version_reference import VersionReference
from apex_ml.errors import ApexError
from apex_ml.faults import reach
from apex_ml.services import champion_ledger
from apex_ml.services.alert_delivery import send_alerts
from apex_ml.services.drift_monitoring import (
    DriftCheck,
    check_drift_of_days,
    check_drift_of_online_days,
    check_drift_of_runs,
)
from apex_ml.services.inboxes import open_inbox
from apex_ml.services.quality_monitoring import degradation_alerts, evaluate_weeks
from apex_ml.services.raw_drift import check_drift_of_raw_rows
from apex_ml.services.run_folder import StepContext
from apex_ml.services.scoring_results import MonitorResult, RetrainRequest

logger = logging.getLogger(__name__)


def monitor(context: StepContext) -> MonitorResult:
    """Check what is new since the last call. A second call changes nothing.

    Drift is tested for every scoring run of enough rows, every day of scoring, every day of recorded online answers
    and the newest week of raw rows. Quality is evaluated for every week of rows with new outcomes. An alert is
    raised once and resolved when its cause is gone. Raw rows or an inbox that cannot be read raise an alert of their
    own, and everything else is still monitored. While the champion is degraded, `retrain` in the result holds the run
    to trigger, `trigger_run_id`, and the reason, `note`: the same run at every call, so that it is triggered once.
    """
    settings = context.settings
    champion = champion_ledger.resolve(settings, context.schema, Registry(settings, context.model_name))
    version = champion.version if champion else None
    noted = _Noted()
    with connect(settings, context.schema) as connection:
        with begin(connection) as session:
            PostgresDrift(session, context.model_name).lock()
            references = PostgresVersions(session, context.model_name).references()
            tested = _test_drift(context, session, references, version, noted)
            reach("drift_written")
        with begin(connection) as session:
            PostgresDrift(session, context.model_name).lock()
            weeks = _evaluate_quality(context, session, references, version, noted)
            alerts = PostgresAlerts(session)
            degraded = alerts.open_of_kind(QUALITY)
            with noted.unreadable("inbox"):
                late = open_inbox(context.settings, context.pipeline).late(
                    context.pipeline.options.scoring.deadline_minutes
                )
                noted.add(alerts.set_open(DROP_LATE, late))
            noted.add(alerts.set_open(UNSEEN, noted.not_monitored))
            alerts.resolve_late()
            alerts.resolve_small_drops()
    for subject in noted.raised:
        logger.warning("alert_raised subject=%s", subject)
    return MonitorResult(
        run=context.run,
        step="monitor",
        runs_tested=tested.runs,
        days_tested=tested.days,
        online_days_tested=tested.online_days,
        raw_weeks_tested=tested.raw_weeks,
        weeks_evaluated=weeks,
        alerts_raised=tuple(noted.raised),
        alerts_resolved=tuple(noted.resolved),
        sent=tuple(send_alerts(settings, context.pipeline)),
        # the name of the alert, so that a second call asks for no second run
        retrain=tuple(RetrainRequest(trigger_run_id=f"degraded__alert_{a.alert_id}", note=a.message) for a in degraded),
    )


@dataclass
class _Noted:
    """The alerts that changed, and what could not be monitored."""

    raised: list[str] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    not_monitored: dict[str, str] = field(default_factory=dict)
    """Messages by subject."""

    def add(self, changes: AlertChanges) -> None:
        """Add the changes of one kind of alert."""
        self.raised += changes.raised
        self.resolved += changes.resolved

    @contextmanager
    def unreadable(self, subject: str) -> Iterator[None]:
        """Note a subject that cannot be read, so that the rest is monitored and its alerts are sent."""
        try:
            yield
        except (ApexError, OSError) as error:
            logger.error("not_monitored what=%s reason=%s", subject, error)
            self.not_monitored[subject] = f"{subject} cannot be monitored: {error}"


@dataclass(frozen=True)
class _Tested:
    """The number of new tests for drift."""

    runs: int
    days: int
    online_days: int
    raw_weeks: int


def _test_drift(
    context: StepContext,
    session: PsycopgSession,
    references: Mapping[int, VersionReference],
    version: int | None,
    noted: _Noted,
) -> _Tested:
    """Test everything new for drift; the open alerts are then those of the champion."""
    ledger = PostgresDrift(session, context.model_name)
    check = DriftCheck(context, PostgresProfiles(session, context.model_name), ledger, references)
    runs, days, online_days = check_drift_of_runs(check), check_drift_of_days(check), check_drift_of_online_days(check)
    raw_weeks = 0
    with noted.unreadable("raw rows"):
        raw_weeks = check_drift_of_raw_rows(context, ledger)
    noted.add(PostgresAlerts(session).set_open(DRIFT, ledger.drifting(version)))
    return _Tested(runs, days, online_days, raw_weeks)


def _evaluate_quality(
    context: StepContext,
    session: PsycopgSession,
    references: Mapping[int, VersionReference],
    version: int | None,
    noted: _Noted,
) -> int:
    """Evaluate the weeks with new outcomes, and whether the champion is degraded; returns the number of weeks."""
    quality = PostgresQuality(session, context.model_name)
    weeks = evaluate_weeks(context, quality, references)
    degraded = {} if version is None else degradation_alerts(context, quality, version)
    noted.add(PostgresAlerts(session).set_open(QUALITY, degraded))
    return weeks
