"""Send the open alerts by every channel, each alert once by each channel."""

from __future__ import annotations

import logging
from dataclasses import replace

from apex_ml.adapters.alerts import notify
from apex_ml.adapters.postgres.alerts import PostgresAlerts, only_sender
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.errors import ApexError
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)
MAX_IN_MESSAGE = 20
"""Maximum number of alerts in one message: chat systems refuse a long text completely."""


def send_alerts(settings: Settings, pipeline: PipelineSettings) -> list[str]:
    """Send the open alerts of a pipeline by each channel that has not accepted them; returns those that accepted some.

    A channel that fails is logged, and only that channel is tried again by the next call: no alert is sent twice. Many
    alerts are sent in several messages, so that a message that is refused holds back few others.
    """
    schema = pipeline.schema
    if mail_to := pipeline.options.alerts.mail_to:
        settings = settings.model_copy(update={"alert_mail_to": mail_to})
    channels, used = notify.channels(settings), []
    with only_sender(settings, schema):
        with transaction(settings, schema) as session:
            unsent = PostgresAlerts(session).unsent()
        for alert in unsent:
            logger.warning("alert_open kind=%s subject=%s message=%s", alert.kind, alert.subject, alert.message)
        for channel in channels:
            if _send_by(settings, pipeline, channel):
                used.append(channel)
        with transaction(settings, schema) as session:
            PostgresAlerts(session).mark_sent(channels)
    return used


def _send_by(settings: Settings, pipeline: PipelineSettings, channel: str) -> int:
    """Send the alerts that a channel has not accepted yet; returns how many it accepted."""
    schema = pipeline.schema
    with transaction(settings, schema) as session:
        alerts = [replace(a, pipeline=pipeline.name) for a in PostgresAlerts(session).undelivered(channel)]
    delivered = failures = 0
    for first in range(0, len(alerts), MAX_IN_MESSAGE):
        batch = alerts[first : first + MAX_IN_MESSAGE]
        try:
            notify.send(settings, batch, channel)
        except ApexError as error:
            logger.error("alerts_not_sent channel=%s alerts=%s reason=%s", channel, len(batch), error)
            failures += 1
            if failures > 1:  # the fault is not the message: the receiver does not answer
                break
            continue
        with transaction(settings, schema) as session:
            PostgresAlerts(session).mark_delivered(channel, [alert.alert_id for alert in batch])
        delivered, failures = delivered + len(batch), 0
    return delivered
