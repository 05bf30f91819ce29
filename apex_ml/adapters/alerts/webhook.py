"""Send alerts to a webhook as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from apex_ml.adapters.alerts.channel import TIMEOUT, Channel, as_text
from apex_ml.adapters.postgres.alerts import Alert
from apex_ml.errors import TransientError
from apex_ml.settings import Settings


class Webhook(Channel):
    """Posts ``{"text": …, "alerts": [{"pipeline", "alert_id", "kind", "subject", "message", "raised_at"}]}``.

    Chat systems with incoming webhooks show the text.
    """

    def is_configured(self, settings: Settings) -> bool:
        """Whether there is a URL."""
        return bool(settings.alert_webhook_url.get_secret_value())

    def send(self, settings: Settings, alerts: Sequence[Alert]) -> None:
        """Post the alerts. Every answer other than 2xx is a failure."""
        url = settings.alert_webhook_url.get_secret_value()
        host = urlsplit(url).hostname  # the path of a webhook is a secret
        content = [
            {
                "pipeline": a.pipeline,
                "alert_id": a.alert_id,
                "kind": a.kind,
                "subject": a.subject,
                "message": a.message,
                "raised_at": a.raised_at.isoformat(),
            }
            for a in alerts
        ]
        try:
            response = httpx.post(url, json={"text": as_text(alerts), "alerts": content}, timeout=TIMEOUT)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TransientError(f"the webhook at {host} (APEX_ALERT_WEBHOOK_URL): {type(error).__name__}") from None
        if not response.is_success:
            raise TransientError(f"the webhook at {host} (APEX_ALERT_WEBHOOK_URL) answers {response.status_code}")


CHANNEL = Webhook()
