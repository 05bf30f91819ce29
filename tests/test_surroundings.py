"""What a shell exports for other tools does not come between the platform's own clients and its services."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from requests.utils import should_bypass_proxies

from apex_ml.platform.embedded.environment import inherited
from apex_ml.platform.embedded.psql import psql_call
from apex_ml.settings import Settings
from apex_ml.surroundings import own_hosts, shielded
from tests.support.apex_home import COMMAND

LIBPQ = ("PGSSLMODE", "PGOPTIONS", "PGSERVICE", "PGHOSTADDR", "PGPASSFILE", "PGREQUIREAUTH", "PGTARGETSESSIONATTRS")
SHELL = dict.fromkeys([*LIBPQ, "MLFLOW_RUN_ID", "MLFLOW_TRACKING_TOKEN", "HTTP_PROXY", "AWS_PROFILE"], "x")


def names(settings: Settings, **more: str) -> set[str]:
    return set(shielded({**SHELL, **more}, settings)) - {"NO_PROXY", "no_proxy"}


def test_the_shell_does_not_configure_the_platforms_services(tmp_path: Path) -> None:
    assert names(Settings.load(home=tmp_path)) == {"HTTP_PROXY", "AWS_PROFILE"}


def test_external_services_use_the_shell_configuration(tmp_path: Path) -> None:
    away = Settings.load(
        home=tmp_path, database_url="postgresql://a@db.example.org/x", mlflow_tracking_uri="https://mlflow.example.org"
    )
    assert names(away) == {*SHELL} - {"MLFLOW_RUN_ID"}
    without = shielded(SHELL, away)["NO_PROXY"]
    assert not should_bypass_proxies("https://mlflow.example.org/health", without)
    assert not should_bypass_proxies("https://hooks.example.org/x", without)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:5000/x", "http://localhost:8080/", "http://[::1]:1/", "http://10.0.0.7/"]
)
@pytest.mark.parametrize("variables", ["", "intranet.example.org", "*"])
def test_own_addresses_bypass_every_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, variables: str
) -> None:
    kept = shielded(
        {"no_proxy": variables, "HTTP_PROXY": "http://127.0.0.1:9"}, Settings.load(home=tmp_path, host="10.0.0.7")
    )
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, kept.get(name, ""))
    assert should_bypass_proxies(url, None)
    if variables:
        assert should_bypass_proxies("http://intranet.example.org/", None)


def test_in_containers_the_services_of_the_network_are_internal(tmp_path: Path) -> None:
    settings = Settings.load(
        home=tmp_path, runtime="docker", pg_host="postgres", mlflow_tracking_uri="http://mlflow:5000",
        airflow_url="http://airflow-api-server:8080", docker_host="tcp://docker-proxy:2375", serving_host="serving",
    )  # fmt: skip
    assert {"postgres", "mlflow", "airflow-api-server", "docker-proxy", "serving"} <= {*own_hosts(settings)}
    assert names(settings) == {"HTTP_PROXY", "AWS_PROFILE"}
    elsewhere = Settings.load(home=tmp_path, runtime="docker", mlflow_tracking_uri="https://mlflow.example.org")
    assert "mlflow.example.org" not in own_hosts(elsewhere)


def test_services_and_psql_start_without_shell_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(home=tmp_path, pg_reader_password="r")
    assert not {*LIBPQ, "MLFLOW_RUN_ID", "MLFLOW_TRACKING_TOKEN"} & set(inherited(settings))
    assert "127.0.0.1" in inherited(settings)["NO_PROXY"].split(",") and inherited(settings)["HTTP_PROXY"] == "x"
    _, environment = psql_call(settings)
    assert {name for name in environment if name.startswith("PG")} == {
        "PGPASSWORD", "PGOPTIONS", "PGAPPNAME", "PGCONNECT_TIMEOUT"
    }  # fmt: skip
    away = Settings.load(home=tmp_path, reader_database_url="postgresql://a@db.example.org/x", pg_host="db.example.org")
    assert psql_call(away)[1]["PGSSLMODE"] == "x"


def test_every_command_starts_without_shell_variables(tmp_path: Path) -> None:
    code = (
        "import os, click, apex_ml.cli.main as cli\n"
        "cli.COMMANDS['probe'] = ('__main__:probe', '')\n"
        "@click.command()\n"
        "def probe(): print(os.environ.get('PGSSLMODE'), os.environ['no_proxy'])\n"
        "cli.main(['probe'])"
    )
    environment = {"PATH": os.environ["PATH"], "APEX_HOME": str(tmp_path), **SHELL}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "localhost,127.0.0.1,::1"]


@pytest.mark.parametrize("command", [["champion"], ["mlflow-ui"], ["loadtest", "--rows", "1"]])
def test_a_shell_full_of_variables_changes_no_error(tmp_path: Path, command: list[str]) -> None:
    """Nothing listens on these ports. The error says that, and not that a certificate or a proxy is missing."""
    ports = {
        "APEX_PG_PORT": "9",
        "APEX_MLFLOW_PORT": "10",
        "APEX_SERVING_PORT": "11",
        "APEX_PG_READER_PASSWORD": "x",
        "APEX_PIPELINE": "orders",
    }
    environment = {"PATH": os.environ["PATH"], "APEX_HOME": str(tmp_path), **ports}
    plain = subprocess.run([*COMMAND, *command], env=environment, capture_output=True, text=True, check=False)
    odd = {
        "SSL_CERT_FILE": "/dev/null/nothing",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "PGSERVICE": "prod",
        "COLUMNS": "20",
    }
    changed = subprocess.run([*COMMAND, *command], env=environment | odd, capture_output=True, text=True, check=False)
    assert changed.returncode == plain.returncode and changed.stderr.endswith(plain.stderr)
    assert plain.returncode == 20, plain.stderr


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("ALL_PROXY", "quic://proxy:1080", False),
        ("https_proxy", "http://[proxy", False),
        ("HTTPS_PROXY", "proxy:3128", True),
        ("https_proxy", "https://u:p@proxy:3128", True),
        ("SSL_CERT_FILE", "/dev/null/nothing", False),
        ("REQUESTS_CA_BUNDLE", "/dev/null/nothing", False),
        ("SSL_CERT_FILE", "/dev/null", True),
    ],
)
def test_variables_that_break_every_client_are_dropped(tmp_path: Path, name: str, value: str, kept: bool) -> None:
    """httpx fails of a proxy that it cannot use also where it would not use it."""
    assert (name in shielded({name: value}, Settings.load(home=tmp_path))) == kept
