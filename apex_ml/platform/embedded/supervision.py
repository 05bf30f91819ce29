"""The programs of the platform and supervisor's configuration, which starts them and keeps them running."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.errors import ConfigError
from apex_ml.platform.embedded.environment import (
    MARK,
    airflow_environment,
    apex_variables,
    artifacts_place,
    common,
    mlflow_environment,
    supervisor_pairs,
)
from apex_ml.platform.embedded.paths import (
    run_folder,
    service_log,
    supervisor_config,
    supervisor_socket,
)
from apex_ml.platform.embedded.postgres.server import Server
from apex_ml.setting_sources import variable_of
from apex_ml.settings import CODE_ROOT, Settings

TEMPLATE = CODE_ROOT / "deployment" / "local" / "supervisord.conf.j2"


WATCHDOG = "watchdog"


POSTGRES = "postgres"


MLFLOW = "mlflow"


SERVING = "serving"


AIRFLOW = ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")


@dataclass(frozen=True)
class Program:
    """One program under supervisor."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    folder: Path
    user: str | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 15
    # the children of a server end with it when only it gets the signal; those of Airflow do not always
    stop_group: bool = True


def services(settings: Settings) -> tuple[str, ...]:
    """The services that this platform runs; a service whose settings point elsewhere is left out."""
    mlflow = () if settings.mlflow_tracking_uri else (MLFLOW,)
    airflow = () if settings.airflow_url else AIRFLOW
    elsewhere = settings.pg_host or (settings.database_url and not mlflow and not airflow)
    database = () if elsewhere else (POSTGRES,)
    serving = (SERVING,) if settings.serving and settings.runtime == "local" else ()
    return (*database, *mlflow, *airflow, *serving)


def programs(settings: Settings, server: Server, names: Collection[str] | None = None) -> list[Program]:
    """Return the programs of the named services, by default of all that this platform runs itself."""
    builders: dict[str, Callable[[], Program]] = {
        POSTGRES: lambda: _postgres(settings, server),
        MLFLOW: lambda: _mlflow(settings),
    }
    builders |= {name: partial(_airflow, settings, name) for name in AIRFLOW}
    builders[SERVING] = lambda: _serving(settings)
    chosen = services(settings) if names is None else names
    return [build() for name, build in builders.items() if name in chosen]


def _postgres(settings: Settings, server: Server) -> Program:
    return Program(
        POSTGRES,
        server.command(settings),
        {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", MARK: str(settings.home)},
        service_log(settings, POSTGRES),
        # the run folder is closed to the server's OS user
        Path("/"),
        user=server.user,
        stop_signal="INT",  # fast shutdown: disconnects clients, then a checkpoint
        stop_seconds=60,
        stop_group=False,
    )


def _mlflow(settings: Settings) -> Program:
    command = [sys.executable, "-m", "mlflow", "server", "--host", settings.host, "--port", str(settings.mlflow_port)]
    command += ["--workers", "1", "--serve-artifacts", "--allowed-hosts", _allowed_hosts(settings)]
    command += ["--artifacts-destination", artifacts_place(settings, str(settings.state / "mlflow" / "artifacts"))]
    environment = {**common(settings), **mlflow_environment(settings)}
    return Program(MLFLOW, command, environment, service_log(settings, MLFLOW), run_folder(settings))


def _airflow(settings: Settings, name: str) -> Program:
    command = [str(Path(sys.executable).parent / "airflow"), name.removeprefix("airflow-")]
    if name in ("airflow-scheduler", "airflow-triggerer"):
        command.append("--skip-serve-logs")  # their log servers would listen on every interface
    return Program(
        name,
        command,
        {**common(settings), **airflow_environment(settings)},
        service_log(settings, name),
        run_folder(settings),
        # the scheduler waits for its running steps to end
        stop_seconds=20 if name == "airflow-scheduler" else 8,
    )


def _serving(settings: Settings) -> Program:
    # one thread: it answers one request at a time, and the barriers of several threads would only cost time
    environment = {**common(settings), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    # `up` compares them to notice a change in .env; the service itself notices new keys there
    passed = [name for name in Settings.model_fields if _is_passed_to_serving(name)]
    environment |= {variable_of(name): str(getattr(settings, name)) for name in passed}
    command = [str(Path(sys.executable).parent / "apex"), "serve"]
    log = service_log(settings, SERVING)
    return Program(SERVING, command, environment, log, run_folder(settings), stop_seconds=10)


def _is_passed_to_serving(name: str) -> bool:
    return name.startswith("serving_") and name not in ("serving_key", "serving_keys")


def _allowed_hosts(settings: Settings) -> str:
    port = settings.mlflow_port
    names = dict.fromkeys([settings.host, "127.0.0.1", "localhost"])
    return ",".join(f"{name}:{port}" for name in names)


def render(settings: Settings, to_run: Iterable[Program], tick: int = 60) -> str:
    """Supervisor's configuration as text; it holds secrets. ``tick`` is 5, 60 or 3600 seconds between health checks."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["command"] = lambda parts: shlex.join(parts).replace("%", "%%")
    environment.filters["pairs"] = supervisor_pairs
    environment.filters["path"] = _path
    # supervisor replaces % in the place of a program's log twice
    environment.filters["log"] = lambda path: _path(path).replace("%", "%%")
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        socket=supervisor_socket(settings),
        run=run_folder(settings),
        logs=settings.logs,
        root=os.geteuid() == 0,
        tick=tick,
        programs=list(to_run),
        watchdog=Program(
            WATCHDOG,
            [sys.executable, "-m", "apex_ml.platform.embedded.watchdog"],
            # without the secrets: it only checks the health of services
            {**_without_secrets(settings), MARK: str(settings.home), "TZ": "UTC"},
            service_log(settings, WATCHDOG),
            run_folder(settings),
        ),
    )


def _without_secrets(settings: Settings) -> dict[str, str]:
    public = dict(apex_variables(settings))
    for name, field in Settings.model_fields.items():
        if field.annotation is not None and field.annotation.__name__ == "SecretStr":
            public.pop(f"APEX_{name.upper()}", None)
    return public


def _path(path: Path) -> str:
    text = str(path)
    if any(mark in text for mark in (" ;", " #", "\n", '"')):
        raise ConfigError(f'APEX_HOME: supervisor cannot use a path with a double quote, " ;" or " #": {text!r}')
    return text.replace("%", "%%")


def encoded(text: str) -> bytes:
    """The configuration as bytes, independent of the locale; a path keeps bytes that are not valid in its encoding."""
    return text.encode("utf-8", "surrogateescape")


def write_config(settings: Settings, text: str) -> None:
    """Write the configuration, mode 0600 from its first byte on."""
    write_atomically(supervisor_config(settings), encoded(text), mode=0o600)
