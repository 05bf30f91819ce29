"""Alerts that people act on: close one."""

from __future__ import annotations

from dataclasses import dataclass

from apex_ml.adapters.postgres.alerts import PostgresAlerts
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.errors import ConfigError
from apex_ml.settings import Settings


@dataclass(frozen=True)
class ClosedAlert:
    """An alert that a person closed."""

    alert_id: int
    kind: str
    subject: str


def close_alert(settings: Settings, schema: str, alert_id: int, *, who: str, reason: str) -> ClosedAlert:
    """Close an open alert for a person, who gives the reason.

    Raises :class:`~apex_ml.errors.ConfigError` when there is no open alert of this id, for an empty reason, and for an
    alert that monitoring measures: the next monitoring would raise it again.
    """
    if not reason.strip():
        raise ConfigError("apex alerts close: give --reason; the ledger keeps why the alert was closed")
    with transaction(settings, schema) as session:
        kind, subject = PostgresAlerts(session).close(alert_id, who, reason)
    return ClosedAlert(alert_id, kind, subject)
