"""Send alerts by mail."""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from urllib.parse import SplitResult, unquote, urlsplit

from apex_ml.adapters.alerts.channel import TIMEOUT, Channel, as_text
from apex_ml.adapters.postgres.alerts import Alert
from apex_ml.errors import ConfigError, TransientError
from apex_ml.settings import Settings
from apex_ml.wording import counted

logger = logging.getLogger(__name__)
DEFAULT_PORTS = {"smtp": 587, "smtps": 465}


class Mail(Channel):
    """One mail to all receivers, through a mail server; encrypted when the server offers it."""

    def is_configured(self, settings: Settings) -> bool:
        """Whether there is a receiver."""
        return bool(settings.alert_mail_to)

    def send(self, settings: Settings, alerts: Sequence[Alert]) -> None:
        """Send the mail. Receivers that the server refuses while it accepts others are logged."""
        url = urlsplit(settings.alert_smtp_url.get_secret_value())
        if url.scheme not in DEFAULT_PORTS or not url.hostname:
            raise ConfigError(
                "APEX_ALERT_SMTP_URL: APEX_ALERT_MAIL_TO is set, so give the mail server as"
                " smtp://user:password@host:587 or smtps://…:465"
            )
        message = EmailMessage()
        about = " of ".join(filter(None, (counted(len(alerts), "alert"), alerts[0].pipeline)))
        message["Subject"] = f"Apex: {about}"
        message["To"] = settings.alert_mail_to
        message["From"] = settings.alert_mail_from or settings.alert_mail_to.split(",")[0].strip()
        message.set_content(as_text(alerts))
        port = url.port or DEFAULT_PORTS[url.scheme]
        try:
            refused = _deliver(url, url.hostname, port, message)
        except (OSError, smtplib.SMTPException) as error:
            raise TransientError(
                f"the mail server {url.hostname}:{port} (APEX_ALERT_SMTP_URL): {type(error).__name__}"
            ) from None
        if refused:  # the others have received it: sending it again would reach them twice
            logger.error("mail_refused server=%s receivers=%s (APEX_ALERT_MAIL_TO)", url.hostname, ", ".join(refused))


def _deliver(url: SplitResult, host: str, port: int, message: EmailMessage) -> list[str]:
    """Hand the message to the server; returns the receivers that it refuses."""
    context = ssl.create_default_context()
    server = (
        smtplib.SMTP_SSL(host, port, timeout=TIMEOUT, context=context)
        if url.scheme == "smtps"
        else smtplib.SMTP(host, port, timeout=TIMEOUT)
    )
    with server:
        if url.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls(context=context)
        if url.username:
            server.login(unquote(url.username), unquote(url.password or ""))
        return list(server.send_message(message))


CHANNEL = Mail()
