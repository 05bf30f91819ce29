"""The whole platform, brought up once on its own home and ports."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from throwaway_home import open_folder, throwaway

from apex_ml.errors import ConfigError
from apex_ml.platform import commands, embedded, health, supervise
from apex_ml.platform.ports import listener
from apex_ml.settings import Settings


def _call(settings: Settings, path: str, data: object = None, token: str = "") -> object:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    body = None if data is None else json.dumps(data).encode()
    with urllib.request.urlopen(urllib.request.Request(settings.airflow + path, body, headers), timeout=30) as answer:
        return json.load(answer)


def _token(settings: Settings, user: str) -> str:
    password = getattr(settings, f"airflow_{user}_password").get_secret_value()
    answer = _call(settings, "/auth/token", {"username": user, "password": password})
    assert isinstance(answer, dict)
    return str(answer["access_token"])


@pytest.mark.platform
@pytest.mark.timeout(300)
def test_platform_comes_up_answers_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_folder() as home:
        settings = throwaway(home)
        try:
            settings = embedded.up(settings)
            found = health.check(settings, supervise.services(settings))
            assert {name: one.ok for name, one in found.items()} == dict.fromkeys(supervise.services(settings), True)

            admin, viewer = _token(settings, "admin"), _token(settings, "viewer")
            pools = _call(settings, "/api/v2/pools", token=admin)
            assert isinstance(pools, dict)
            slots = {pool["name"]: pool["slots"] for pool in pools["pools"]}
            assert {name: slots[name] for name in embedded.POOLS} == {n: s for n, (s, _) in embedded.POOLS.items()}
            with pytest.raises(urllib.error.HTTPError, match="403"):
                _call(settings, "/api/v2/pools", {"name": "mine", "slots": 1}, viewer)
            with pytest.raises(urllib.error.HTTPError, match="401"):
                _call(settings, "/auth/token", {"username": "admin", "password": "wrong"})

            family = supervise.family(settings)
            addresses = {
                connection.laddr.ip
                for process in family
                for connection in process.net_connections(kind="inet")
                if connection.status == "LISTEN"
            }
            assert addresses == {"127.0.0.1"}
            secrets = [settings.pg_airflow_password, settings.pg_mlflow_password, settings.airflow_jwt_secret]
            for process in family:
                assert not any(secret.get_secret_value() in " ".join(process.cmdline()) for secret in secrets)

            # a second `up` leaves everything alone, also with another platform's shell around it
            before = supervise.Supervisor(settings).states()
            embedded.up(Settings.load(home=home, **_ports(settings)))
            assert {s.pid for s in supervise.Supervisor(settings).states().values()} == {s.pid for s in before.values()}

            monkeypatch.setenv("APEX_HOME", str(home))
            for name, port in _ports(settings).items():
                monkeypatch.setenv(f"APEX_{name.upper()}", str(port))
            status = CliRunner().invoke(commands.status, ["--check"])
            assert status.exit_code == 0, status.output
            assert "champion: none yet" in status.output and "drops waiting: 0" in status.output
            assert CliRunner().invoke(commands.mlflow_ui).output.strip() == settings.tracking_uri

            assert embedded.down(settings)
            assert supervise.family(settings) == []
            assert all(listener(port) is None for port in _ports(settings).values())
            status = CliRunner().invoke(commands.status, ["--check"])
            assert status.exit_code == 20 and "The platform is down" in status.output
            assert isinstance(CliRunner().invoke(commands.mlflow_ui).exception, Exception)
        finally:
            embedded.destroy(settings)


def test_taken_port_stops_up_before_anything_starts(settings: Settings) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", settings.airflow_port))
        held.listen(1)
        with pytest.raises(ConfigError, match="APEX_AIRFLOW_PORT"):
            embedded.up(settings)
    assert supervise.family(settings) == []
    assert not (settings.state / "postgres").exists()


def test_down_of_a_new_home_makes_nothing(settings: Settings) -> None:
    assert not embedded.down(settings)
    assert list(settings.home.iterdir()) == []


def test_logs_are_listed_and_an_unknown_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "airflow-scheduler.log").write_text("".join(f"line {i}\n" for i in range(300)))
    (tmp_path / "logs" / "steps.log").write_text("step_done\n")
    runner = CliRunner()
    listed = runner.invoke(commands.logs).output
    assert "airflow-scheduler" in listed and "steps" in listed and "(not written yet)" in listed
    assert runner.invoke(commands.logs, ["scheduler", "-n", "2"]).output == "line 298\nline 299\n"
    unknown = runner.invoke(commands.logs, ["nope"]).exception
    assert isinstance(unknown, ConfigError) and "airflow-scheduler" in str(unknown)
    missing = runner.invoke(commands.logs, ["mlflow"]).exception
    assert isinstance(missing, ConfigError) and "never started" in str(missing)


def _ports(settings: Settings) -> dict[str, int]:
    return {name: getattr(settings, name) for name in ("pg_port", "mlflow_port", "airflow_port", "serving_port")}
