"""Alerts that people act on: send the new ones, list the open ones, close one."""

from __future__ import annotations

from typing import Any

from apex_ml.adapters.postgres import monitoring, warehouse
from apex_ml.errors import ConfigError
from apex_ml.settings import Settings


def close_alert(settings: Settings, alert_id: int, *, who: str, reason: str) -> dict[str, Any]:
    """Close an open alert for a person, who gives the reason; returns its row.

    Raises :class:`~apex_ml.errors.ConfigError` when there is no open alert of this id, for an empty reason, and for an
    alert that monitoring measures: it would be raised again at the next look.
    """
    if not reason.strip():
        raise ConfigError("apex alerts close: give --reason; the ledger keeps why the alert was closed")
    with warehouse.connect(settings) as connection, connection, connection.cursor() as cursor:
        return monitoring.close_alert(cursor, alert_id, who, reason)
