"""What a channel is: one way to send alerts to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from apex_ml.adapters.postgres.alerts import Alert
from apex_ml.settings import Settings

TIMEOUT = 10.0
"""Seconds that a channel waits for its receiver."""


class Channel(Protocol):
    """One way to send alerts. One module a channel, with the instance in CHANNEL."""

    def is_configured(self, settings: Settings) -> bool:
        """Whether the settings name a receiver. A channel of your own asks ``alert_channel_option``."""
        ...

    def send(self, settings: Settings, alerts: Sequence[Alert]) -> None:
        """Send alerts in one message.

        Raises :class:`~apex_ml.errors.TransientError` when the receiver does not accept the message; these alerts are
        then sent again later. Raises :class:`~apex_ml.errors.ConfigError` when the settings are wrong. An error names
        no secret.
        """
        ...


def as_text(alerts: Sequence[Alert]) -> str:
    """The alerts as text, one a line."""
    return "\n".join(f"{a.pipeline and f'{a.pipeline} · '}{a.kind} · {a.subject}: {a.message}" for a in alerts)
