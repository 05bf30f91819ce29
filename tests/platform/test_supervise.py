"""The configuration of supervisor, and what is in the environment of each program."""

from __future__ import annotations

import configparser
import io
import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from apex_ml.errors import ConfigError
from apex_ml.platform.embedded import environment, supervision
from apex_ml.platform.embedded.env_file import SECRETS, ensure_env, remember_option
from apex_ml.platform.embedded.paths import (
    SOCKET_PATH_LIMIT,
    private_folder,
    run_folder,
    supervisor_config,
    supervisor_socket,
)
from apex_ml.platform.embedded.postgres.server import Server
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.throwaway_home import open_folder


@pytest.fixture
def rendered(settings: Settings) -> tuple[Settings, str]:
    """Settings with secrets, and the configuration for them."""
    settings = ensure_env(settings)
    server = Server(Path("/wheel/bin"), settings.state / "postgres", Path("/sockets"), None)
    return settings, supervision.render(settings, supervision.programs(settings, server))


def _sections(text: str) -> Iterator[tuple[str, configparser.SectionProxy]]:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read_string(text)
    yield from ((name, parser[name]) for name in parser.sections() if ":" in name)


def test_every_service_restarts_and_logs_with_rotation(rendered: tuple[Settings, str]) -> None:
    settings, text = rendered
    programs = {name.partition(":")[2]: part for name, part in _sections(text) if name.startswith("program:")}
    assert tuple(programs) == supervision.services(settings) == ("postgres", "mlflow", *supervision.AIRFLOW, "serving")
    for name, part in programs.items():
        assert part["autorestart"] == "true" and part["autostart"] == "false"
        assert part["stdout_logfile"] == str(settings.logs / f"{name}.log")
        assert part["stdout_logfile_maxbytes"] == "10MB"


def test_secrets_are_in_environments_only(rendered: tuple[Settings, str]) -> None:
    settings, text = rendered
    secrets = [getattr(settings, name).get_secret_value() for name in SECRETS]
    for name, part in _sections(text):
        for key, value in part.items():
            if key != "environment":
                assert not any(secret in value for secret in secrets), (name, key)
    parts = dict(_sections(text))
    mlflow = parts["program:mlflow"]["environment"]
    assert settings.pg_mlflow_password.get_secret_value() in mlflow
    assert settings.pg_airflow_password.get_secret_value() not in mlflow
    for name in ("program:postgres", "eventlistener:watchdog"):
        assert not any(secret in parts[name]["environment"] for secret in secrets)


def test_files_with_secrets_are_closed_and_no_other_has_one(rendered: tuple[Settings, str]) -> None:
    settings, text = rendered
    supervision.write_config(settings, text)
    environment.write_airflow_passwords(settings)
    secrets = [getattr(settings, name).get_secret_value() for name in SECRETS]
    holders = set()
    for path in settings.home.rglob("*"):
        if path.is_file() and any(secret in path.read_text() for secret in secrets):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            holders.add(path)
    passwords = settings.state / "airflow" / "passwords.json"
    assert holders == {settings.env_file, supervisor_config(settings), passwords}
    assert json.loads(passwords.read_text()).keys() == {"admin", "viewer"}


def test_supervisor_reads_the_rendered_file(rendered: tuple[Settings, str]) -> None:
    """Supervisor's own parser gives each program the intended environment."""
    settings, text = rendered
    folder = private_folder(run_folder(settings))  # supervisor refuses folders that are not there
    settings.logs.mkdir()
    supervision.write_config(settings, text)
    code = (
        "import json, sys; from supervisor.options import ServerOptions; o = ServerOptions();"
        "o.realize(['-c', sys.argv[1]]);"
        "print(json.dumps({p.name: p.environment for g in o.process_group_configs for p in g.process_configs}))"
    )
    command = [sys.executable, "-c", code, str(supervisor_config(settings))]
    try:
        read = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    finally:
        folder.rmdir()
    for name in supervision.AIRFLOW:
        expected = {**environment.common(settings), **environment.airflow_environment(settings)}
        assert read[name] == expected


def test_services_bind_to_the_host_and_serve_no_logs(rendered: tuple[Settings, str]) -> None:
    settings, text = rendered
    parts = dict(_sections(text))
    assert f"listen_addresses={settings.host}" in parts["program:postgres"]["command"]
    assert f"--host {settings.host}" in parts["program:mlflow"]["command"]
    for name in ("airflow-scheduler", "airflow-triggerer"):
        assert parts[f"program:{name}"]["command"].endswith("--skip-serve-logs")


def test_outside_servers_are_not_started(settings: Settings) -> None:
    outside = settings.model_copy(update={"mlflow_tracking_uri": "http://elsewhere"})
    assert supervision.services(outside) == ("postgres", *supervision.AIRFLOW, "serving")
    all_outside = outside.model_copy(update={"airflow_url": "http://there", "database_url": "postgresql://a@b/c"})
    assert supervision.services(all_outside) == ("serving",)
    assert supervision.services(all_outside.model_copy(update={"serving": False})) == ()


def test_settings_of_a_caller_reach_the_programs_and_those_of_env_do_not(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("APEX_TRIALS=5\nAPEX_RAW_URL=/in/env\n")
    variables = environment.apex_variables(Settings.load(home=tmp_path, seed=7))
    assert variables == {"APEX_HOME": str(tmp_path), "APEX_ORDERS__MODEL__SEED": "7"}


def test_a_remembered_folder_restarts_nothing_at_the_next_command(tmp_path: Path) -> None:
    """`RAW=folder make run` and then `make run` mean the same platform."""
    first = remember_option(Settings.load(home=tmp_path), "orders", "locations", "raw", "/my/raw")
    assert environment.apex_variables(first) == environment.apex_variables(Settings.load(home=tmp_path))


def test_shell_of_the_caller_does_not_configure_services(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW__CORE__EXECUTOR", "MLFLOW_TRACKING_URI", "PGPASSWORD", "PYTHONPATH", "APEX_TRIALS"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    kept = environment.inherited(settings)
    assert kept["AWS_PROFILE"] == "mine"
    assert not {"AIRFLOW__CORE__EXECUTOR", "MLFLOW_TRACKING_URI", "PGPASSWORD", "PYTHONPATH", "APEX_TRIALS"} & set(kept)


@pytest.mark.parametrize("value", ['a"b', "a ;b", "a #b", "a\nb", "'a'"])
def test_value_that_supervisor_would_cut_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="APEX_RAW_URL"):
        environment.supervisor_pairs({"APEX_RAW_URL": value})


def test_percent_is_escaped() -> None:
    assert environment.supervisor_pairs({"A": "100%"}) == 'A="100%%"'


def test_long_home_gets_a_short_socket(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path / ("long" * 30))
    assert len(str(supervisor_socket(settings))) <= SOCKET_PATH_LIMIT
    other = Settings.load(home=tmp_path / ("other" * 30))
    assert supervisor_socket(settings) != supervisor_socket(other)


def test_private_folder_refuses_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ConfigError, match="is not a folder of user id"):
        private_folder(tmp_path / "link")
    assert stat.S_IMODE(private_folder(target).stat().st_mode) == 0o700


def test_no_configuration_names_this_machine() -> None:
    for path in (CODE_ROOT / "deployment" / "local").iterdir():
        assert str(CODE_ROOT) not in path.read_text(), path
        assert os.access(path, os.R_OK)


def test_rendering_is_stable(rendered: tuple[Settings, str]) -> None:
    """`up` compares it with the running one: any chance difference would restart the platform every time."""
    settings, text = rendered
    server = Server(Path("/wheel/bin"), settings.state / "postgres", Path("/sockets"), None)
    second = ensure_env(Settings.load(home=settings.home, **_ports(settings)))
    assert supervision.render(second, supervision.programs(second, server)) == text
    assert io.StringIO(text).readline().startswith(";")


def _ports(settings: Settings) -> dict[str, int]:
    return {name: getattr(settings, name) for name in ("pg_port", "mlflow_port", "airflow_port", "serving_port")}


@pytest.mark.parametrize("name", ["ho%me", "100%", "%(here)s", "a b", "ñandú's", "a#b;c", "back\\slash", "a,b=c"])
def test_supervisor_reads_a_home_with_unusual_characters(name: str) -> None:
    with open_folder() as folder:  # short enough for a socket
        settings = Settings.load(home=folder / name)
        run_folder(settings).mkdir(parents=True)
        settings.logs.mkdir()
        server = Server(Path("/pg/bin"), settings.state / "postgres", settings.state / "socket", None)
        expected = supervision.programs(settings, server)
        config = folder / "supervisord.conf"
        config.write_text(supervision.render(settings, expected))
        options = ServerOptions()
        options.realize(["-c", str(config)])
        result = {program.name: program for group in options.process_group_configs for program in group.process_configs}
        for program in expected:
            read = result[program.name]
            assert read.stdout_logfile == str(program.log) and read.directory == str(program.folder)
            assert shlex.split(read.command) == program.command
            assert read.environment == program.environment
        assert result["watchdog"].stderr_logfile == str(settings.logs / "watchdog.log")
