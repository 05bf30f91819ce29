"""Send alerts by the channels that are configured. Without one they stay in the table and the log."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from apex_ml.adapters.alerts.channel import Channel
from apex_ml.adapters.postgres.alerts import Alert
from apex_ml.discovery import ALERT_CHANNELS, module_names
from apex_ml.settings import Settings


def channel_names() -> list[str]:
    """Names of all channels, whether they are configured or not."""
    return list(module_names(ALERT_CHANNELS))


def channel(name: str) -> Channel:
    """The channel of a name."""
    loaded: Channel = import_module(f"{ALERT_CHANNELS}.{name}").CHANNEL
    return loaded


def channels(settings: Settings) -> list[str]:
    """The channels that are configured."""
    return [name for name in channel_names() if channel(name).is_configured(settings)]


def send(settings: Settings, alerts: Sequence[Alert], only: str | None = None) -> list[str]:
    """Send alerts, all in one message, by one channel or by all that are configured; returns the channels used.

    Raises as :meth:`~apex_ml.adapters.alerts.channel.Channel.send` does.
    """
    used = [name for name in channels(settings) if only in (None, name)]
    for name in used:
        channel(name).send(settings, alerts)
    return used
