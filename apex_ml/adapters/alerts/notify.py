"""Send alerts: to a webhook as JSON, by mail, or both. Without either they stay in the table and the log."""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import httpx

from apex_ml.adapters.postgres.monitoring import Alert
from apex_ml.errors import ConfigError, TransientError
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)
SECONDS = 10.0
SMTP_PORTS = {"smtp": 587, "smtps": 465}


def channels(settings: Settings) -> list[str]:
    """The channels that are set: webhook, mail."""
    found = ["webhook"] if settings.alert_webhook_url.get_secret_value() else []
    return [*found, "mail"] if settings.alert_mail_to else found


def send(settings: Settings, alerts: Sequence[Alert], only: str | None = None) -> list[str]:
    """Send alerts, all in one message, by one channel or by all that are set; returns the channels used.

    The webhook gets ``{"text": …, "alerts": [{"alert_id", "kind", "subject", "message", "raised_at"}]}``; chat systems
    that take incoming webhooks show the text. Raises :class:`~apex_ml.errors.TransientError` when a receiver does not
    take it, and :class:`~apex_ml.errors.ConfigError` for a mail server that is no smtp:// or smtps:// URL.
    """
    used = [channel for channel in channels(settings) if only in (None, channel)]
    text = "\n".join(f"{a.kind} · {a.subject}: {a.message}" for a in alerts)
    if "webhook" in used:
        _post(settings.alert_webhook_url.get_secret_value(), text, alerts)
    if "mail" in used:
        _mail(settings, f"Apex: {len(alerts)} alert{'s' if len(alerts) > 1 else ''}", text)
    return used


def _post(url: str, text: str, alerts: Sequence[Alert]) -> None:
    where = urlsplit(url).hostname  # the path of a webhook is a secret
    content = [
        {
            "alert_id": a.alert_id,
            "kind": a.kind,
            "subject": a.subject,
            "message": a.message,
            "raised_at": a.raised_at.isoformat(),
        }
        for a in alerts
    ]
    try:
        answer = httpx.post(url, json={"text": text, "alerts": content}, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TransientError(f"the webhook at {where} (APEX_ALERT_WEBHOOK_URL): {type(error).__name__}") from None
    if not answer.is_success:
        raise TransientError(f"the webhook at {where} (APEX_ALERT_WEBHOOK_URL) answers {answer.status_code}")


def _mail(settings: Settings, subject: str, text: str) -> None:
    url = urlsplit(settings.alert_smtp_url.get_secret_value())
    if url.scheme not in SMTP_PORTS or not url.hostname:
        raise ConfigError(
            "APEX_ALERT_SMTP_URL: APEX_ALERT_MAIL_TO is set, so give the mail server as smtp://user:password@host:587"
            " or smtps://…:465"
        )
    message = EmailMessage()
    message["Subject"], message["To"] = subject, settings.alert_mail_to
    message["From"] = settings.alert_mail_from or settings.alert_mail_to.split(",")[0].strip()
    message.set_content(text)
    port = url.port or SMTP_PORTS[url.scheme]
    try:
        context = ssl.create_default_context()
        if url.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(url.hostname, port, timeout=SECONDS, context=context)
        else:
            server = smtplib.SMTP(url.hostname, port, timeout=SECONDS)
        with server:
            if url.scheme == "smtp" and server.has_extn("starttls"):
                server.starttls(context=context)
            if url.username:
                server.login(unquote(url.username), unquote(url.password or ""))
            refused = server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise TransientError(
            f"the mail server {url.hostname}:{port} (APEX_ALERT_SMTP_URL): {type(error).__name__}"
        ) from None
    if refused:  # the others have it: to send it again would reach them twice
        logger.error("mail_refused server=%s receivers=%s (APEX_ALERT_MAIL_TO)", url.hostname, ", ".join(refused))
