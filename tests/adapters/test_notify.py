"""Alerts by mail, to a mail server that runs here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword

from apex_ml.adapters import alerts as package
from apex_ml.adapters.alerts.notify import channels, send
from apex_ml.adapters.postgres.alerts import Alert
from apex_ml.errors import ConfigError, TransientError
from apex_ml.settings import Settings
from tests.support.mail_server import Mailbox, mail_server

ALERTS = (
    Alert(1, "drift", "estrellas_txt", "drop a.parquet: estrellas_txt drifted: PSI 0.310", datetime.now(UTC)),
    Alert(2, "quality", "version 3", "version 3 was worse in 3 of its last 4 weeks, größer", datetime.now(UTC)),
)
PASSWORD = "p@ss:word/1"


def settings_of(port: int, user: str = "", to: str = "ops@example.org, data@example.org") -> Settings:
    return Settings.load(alert_mail_to=to, alert_smtp_url=f"smtp://{user}127.0.0.1:{port}")


def test_all_alerts_are_sent_in_one_mail_to_every_receiver() -> None:
    mailbox = Mailbox()
    with mail_server(mailbox) as server:
        assert send(settings_of(server.port), ALERTS) == ["mail"]
    (envelope,) = mailbox.envelopes
    assert envelope.rcpt_tos == ["ops@example.org", "data@example.org"]
    mail = message_from_bytes(envelope.content, policy=default)
    assert (mail["Subject"], mail["From"]) == ("Apex: 2 alerts", "ops@example.org")
    text = mail.get_content()
    assert all(f"{a.kind} · {a.subject}: {a.message}" in text for a in ALERTS)


def test_an_alert_names_its_pipeline() -> None:
    mailbox = Mailbox()
    with mail_server(mailbox) as server:
        send(settings_of(server.port), [replace(alert, pipeline="visits") for alert in ALERTS])
    mail = message_from_bytes(mailbox.envelopes[0].content, policy=default)
    assert mail["Subject"] == "Apex: 2 alerts of visits"
    assert mail.get_content().splitlines()[0].startswith("visits · drift · estrellas_txt: drop a.parquet")


def test_a_password_with_url_characters_is_not_changed() -> None:
    inputs = []

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword) -> AuthResult:
        inputs.append((data.login, data.password))
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)

    mailbox = Mailbox()
    options = {"authenticator": authenticate, "auth_require_tls": False}
    with mail_server(mailbox, **options) as server:
        send(settings_of(server.port, "apex:p%40ss%3Aword%2F1@"), ALERTS[:1])
        assert inputs == [(b"apex", PASSWORD.encode())] and len(mailbox.envelopes) == 1
        with pytest.raises(TransientError, match="APEX_ALERT_SMTP_URL.*SMTPAuthenticationError") as refused:
            send(settings_of(server.port, "apex:wrong-secret@"), ALERTS[:1])
        assert "wrong-secret" not in str(refused.value) and len(mailbox.envelopes) == 1


class Refuses(Mailbox):
    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        return "550 no such user"


def test_an_unavailable_server_is_a_transient_error() -> None:
    with mail_server(Refuses()) as server:
        port = server.port
        with pytest.raises(TransientError, match=f"127.0.0.1:{port}.*SMTPRecipientsRefused"):
            send(settings_of(port), ALERTS)
    with pytest.raises(TransientError, match=f"127.0.0.1:{port}.*ConnectionRefusedError"):
        send(settings_of(port), ALERTS)


def test_a_line_break_in_a_subject_adds_no_header() -> None:
    mailbox = Mailbox()
    name = "a.parquet\nBcc: thief@example.org"
    with mail_server(mailbox) as server:
        send(settings_of(server.port), [Alert(3, "bad_drop", name, "x", datetime.now(UTC))])
    (envelope,) = mailbox.envelopes
    assert envelope.rcpt_tos == ["ops@example.org", "data@example.org"]
    assert message_from_bytes(envelope.content, policy=default)["Bcc"] is None


@pytest.mark.parametrize("url", ["", "mail.example.org:587", "http://mail.example.org"])
def test_a_mail_server_without_an_smtp_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="APEX_ALERT_SMTP_URL"):
        send(Settings.load(alert_mail_to="ops@example.org", alert_smtp_url=url), ALERTS)


CHANNEL_FILE = """
from pathlib import Path

from apex_ml.adapters.alerts.channel import as_text


class Pager:
    def is_configured(self, settings):
        return bool(settings.alert_channel_option("pager"))

    def send(self, settings, alerts):
        Path(settings.alert_channel_option("pager")).write_text(as_text(alerts), encoding="utf-8")


CHANNEL = Pager()
"""


@pytest.fixture
def folder_of_channels(tmp_path: Path) -> Iterator[Path]:
    """A temporary folder of channel modules, which Apex finds like its own."""
    folder = tmp_path / "channels"
    folder.mkdir()
    package.__path__.append(str(folder))
    yield folder
    package.__path__.remove(str(folder))
    sys.modules.pop("apex_ml.adapters.alerts.pager", None)


def test_one_file_adds_a_channel(folder_of_channels: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="APEX_ALERT_CHANNELS.*names no channel: pager; there are webhook, mail"):
        Settings.load(alert_channels=json.dumps({"pager": "x"}))
    (folder_of_channels / "pager.py").write_text(CHANNEL_FILE)
    assert channels(Settings.load()) == []
    settings = Settings.load(alert_channels=json.dumps({"pager": str(tmp_path / "page")}))
    assert channels(settings) == ["pager"] and send(settings, ALERTS) == ["pager"]
    assert (tmp_path / "page").read_text(encoding="utf-8").count("\n") == 1
    assert str(tmp_path) not in repr(settings.alert_channels)


@pytest.mark.parametrize("text", ["pager", "[]", '{"mail": 1}'])
def test_options_of_channels_are_texts_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="APEX_ALERT_CHANNELS.*no JSON object"):
        Settings.load(alert_channels=text)
