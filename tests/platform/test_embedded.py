"""Commands of the embedded platform that need none; a whole one is brought up by tests/e2e/test_a_new_platform.py."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from apex_ml.cli import platform
from apex_ml.errors import ConfigError
from apex_ml.platform.embedded import processes, start, stop
from apex_ml.settings import Settings


def test_a_taken_port_is_reported_before_anything_starts(settings: Settings) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", settings.airflow_port))
        held.listen(1)
        with pytest.raises(ConfigError, match="APEX_AIRFLOW_PORT"):
            start.up(settings)
    assert processes.family(settings) == []
    assert not (settings.state / "postgres").exists()


def test_down_of_a_new_home_creates_nothing(settings: Settings) -> None:
    assert not stop.down(settings)
    assert list(settings.home.iterdir()) == []


def test_logs_are_listed_and_an_unknown_name_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "airflow-scheduler.log").write_text("".join(f"line {i}\n" for i in range(300)))
    (tmp_path / "logs" / "steps.log").write_text("step_done\n")
    runner = CliRunner()
    listed = runner.invoke(platform.logs).output
    assert "airflow-scheduler" in listed and "steps" in listed and "(not written yet)" in listed
    assert runner.invoke(platform.logs, ["scheduler", "-n", "2"]).output == "line 298\nline 299\n"
    unknown = runner.invoke(platform.logs, ["nope"]).exception
    assert isinstance(unknown, ConfigError) and "airflow-scheduler" in str(unknown)
    missing = runner.invoke(platform.logs, ["mlflow"]).exception
    assert isinstance(missing, ConfigError) and "never started" in str(missing)
