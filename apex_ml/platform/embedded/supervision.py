"""The programs of the platform, and supervisor, which keeps them running."""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jinja2
import psutil

from apex_ml.errors import ConfigError, TransientError
from apex_ml.platform.embedded import postgres
from apex_ml.platform.embedded.environment import (
    MARK,
    airflow_environment,
    apex_variables,
    common,
    inherited,
    mlflow_environment,
    supervisor_pairs,
)
from apex_ml.platform.embedded.paths import (
    private_folder,
    run_folder,
    service_log,
    supervisor_config,
    supervisor_socket,
)
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
    # a server's own children end with it when it is asked alone; Airflow's do not always
    stop_group: bool = True


@dataclass(frozen=True)
class State:
    """What supervisor knows of a program."""

    name: str
    state: str
    pid: int
    since: int
    why: str


def services(settings: Settings) -> tuple[str, ...]:
    """The services this platform runs itself; one that settings point at elsewhere is left out."""
    mlflow = () if settings.mlflow_tracking_uri else (MLFLOW,)
    airflow = () if settings.airflow_url else AIRFLOW
    elsewhere = settings.pg_host or (settings.database_url and not mlflow and not airflow)
    database = () if elsewhere else (POSTGRES,)
    serving = (SERVING,) if settings.serving and settings.runtime == "local" else ()
    return (*database, *mlflow, *airflow, *serving)


def programs(settings: Settings, server: postgres.Server, names: Collection[str] | None = None) -> list[Program]:
    """The programs of the named services, by default of all that this platform runs itself."""
    wanted = services(settings) if names is None else names
    folder = run_folder(settings)
    binaries = Path(sys.executable).parent
    base = common(settings)
    made: list[Program] = []
    if POSTGRES in wanted:
        environment = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", MARK: str(settings.home)}
        made.append(
            Program(
                POSTGRES,
                server.command(settings),
                environment,
                service_log(settings, POSTGRES),
                # the run folder is closed to the server's OS user
                Path("/"),
                user=server.user,
                stop_signal="INT",  # fast shutdown: disconnects clients, then a checkpoint
                stop_seconds=60,
                stop_group=False,
            )
        )
    if MLFLOW in wanted:
        command = [sys.executable, "-m", "mlflow", "server", "--host", settings.host]
        command += [
            "--port",
            str(settings.mlflow_port),
            "--workers",
            "1",
            "--serve-artifacts",
            "--allowed-hosts",
            _allowed_hosts(settings),
        ]
        command += ["--artifacts-destination", str(settings.state / "mlflow" / "artifacts")]
        made.append(
            Program(MLFLOW, command, {**base, **mlflow_environment(settings)}, service_log(settings, MLFLOW), folder)
        )
    for name in AIRFLOW:
        if name not in wanted:
            continue
        command = [str(binaries / "airflow"), name.removeprefix("airflow-")]
        if name in ("airflow-scheduler", "airflow-triggerer"):
            command.append("--skip-serve-logs")  # their log servers would listen on every interface
        made.append(
            Program(
                name,
                command,
                {**base, **airflow_environment(settings)},
                service_log(settings, name),
                folder,
                # the scheduler waits for its running steps to end
                stop_seconds=20 if name == "airflow-scheduler" else 8,
            )
        )
    if SERVING in wanted:
        # one thread: it answers one request at a time, and threads that meet at barriers would only add to its time
        environment = {**base, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        # told here, so that `up` sees a change of them in .env; new keys the service finds there by itself
        environment |= {variable_of(n): str(getattr(settings, n)) for n in Settings.model_fields if _told(n)}
        command = [str(binaries / "apex"), "serve"]
        made.append(Program(SERVING, command, environment, service_log(settings, SERVING), folder, stop_seconds=10))
    return made


def _told(name: str) -> bool:
    return name.startswith("serving_") and name not in ("serving_key", "serving_keys")


def _allowed_hosts(settings: Settings) -> str:
    port = settings.mlflow_port
    names = dict.fromkeys([settings.host, "127.0.0.1", "localhost"])
    return ",".join(f"{name}:{port}" for name in names)


def render(settings: Settings, wanted: Iterable[Program], tick: int = 60) -> str:
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
        programs=list(wanted),
        watchdog=Program(
            WATCHDOG,
            [sys.executable, "-m", "apex_ml.platform.embedded.watchdog"],
            # without the secrets: it asks no service for more than its health
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
    """The configuration as bytes, whatever the caller's locale; a path keeps bytes that its encoding cannot name."""
    return text.encode("utf-8", "surrogateescape")


def write_config(settings: Settings, text: str) -> None:
    """Write the configuration, mode 0600 from its first byte on."""
    target = supervisor_config(settings)
    half = target.with_suffix(".new")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(encoded(text))
    os.replace(half, target)


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=90)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _SocketTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _SocketConnection(self._path)
        self._connection = host, connection  # what close() closes
        return connection


class Supervisor:
    """The supervisor of one home, reached by its socket."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def _call(self, method: str, *arguments: object) -> Any:
        """One remote call. Raises TransientError when supervisor is not there, ConfigError when it refuses."""
        path = str(supervisor_socket(self.settings))
        # a proxy for each call: the waiting threads of `up` must not share a connection
        with xmlrpc.client.ServerProxy("http://localhost", transport=_SocketTransport(path)) as proxy:
            try:
                return getattr(proxy, f"supervisor.{method}")(*arguments)
            except xmlrpc.client.Fault as error:
                raise ConfigError(f"supervisor: {method} {arguments}: {error.faultString}") from error
            except (OSError, http.client.HTTPException) as error:
                raise TransientError(f"supervisor does not answer on {path}: {error}") from error

    def running(self) -> bool:
        """Whether it answers."""
        if not supervisor_socket(self.settings).exists():
            return False
        try:
            self._call("getState")
        except TransientError:
            return False
        return True

    def pid(self) -> int:
        """Process id of supervisor."""
        return cast(int, self._call("getPID"))

    def states(self) -> dict[str, State]:
        """State of every program, by name."""
        return {
            info["name"]: State(
                info["name"], info["statename"], info["pid"], info["start"], info["spawnerr"] or info["description"]
            )
            for info in self._call("getAllProcessInfo")
        }

    def start(self, names: Iterable[str]) -> None:
        """Start the named programs that do not run; does not wait."""
        states = self.states()
        for name in names:
            if states[name].state not in ("RUNNING", "STARTING"):
                # a fault here means that it was started or failed in between: the wait for health tells
                with contextlib.suppress(ConfigError):
                    self._call("startProcess", name, False)

    def stop(self, names: Iterable[str], timeout: float = 75) -> None:
        """Stop the named programs at the same time and wait until they are gone or ``timeout`` has passed."""
        wanted = set(names) & set(self.states())
        for name in wanted:
            with contextlib.suppress(ConfigError):  # not running
                self._call("stopProcess", name, False)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            states = self.states()
            if not any(states[name].state in ("RUNNING", "STARTING", "STOPPING", "BACKOFF") for name in wanted):
                return
            time.sleep(0.1)

    def restart(self, name: str) -> None:
        """Stop one program, by force if need be, and start it again."""
        self.stop([name])
        self.start([name])

    def shutdown(self) -> None:
        """Stop everything left, then supervisor itself; does not wait."""
        with contextlib.suppress(TransientError, ConfigError):
            self._call("shutdown")

    def launch(self, text: str) -> None:
        """Start supervisor, as a daemon, with this configuration; no program is started.

        Raises ConfigError with what it printed when it does not come up.
        """
        private_folder(run_folder(self.settings))
        self.settings.logs.mkdir(parents=True, exist_ok=True)
        write_config(self.settings, text)
        started = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(supervisor_config(self.settings))],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            # its own files, and those of every service, are UTF-8 whatever the caller's locale
            env={**inherited(self.settings), "PYTHONUTF8": "1"},
        )
        deadline = time.monotonic() + 10
        while started.returncode == 0 and time.monotonic() < deadline:
            if self.running():
                return
            time.sleep(0.02)
        printed = (started.stderr or started.stdout).strip()
        raise ConfigError(f"supervisor did not start: {printed or service_log(self.settings, 'supervisord')}")


def family(settings: Settings) -> list[psutil.Process]:
    """Every live process of this home's platform, also those that supervisor lost (it was killed, or they moved away).

    Recognised by descent from supervisor, by the mark in their environment, by their working folder, and the
    database server by its data folder.
    """
    home, folder = str(settings.home), str(run_folder(settings))
    found: dict[int, psutil.Process] = {}
    python = os.path.realpath(sys.executable)
    for process in psutil.process_iter():
        try:
            # a process title may have overwritten the environment: then the folder and the interpreter tell
            marked = process.environ().get(MARK) == home
            if marked or (process.cwd() == folder and os.path.realpath(process.exe()) == python):
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue
    with contextlib.suppress(TransientError, ConfigError, psutil.Error):
        if supervisor_socket(settings).exists():
            supervisor = psutil.Process(Supervisor(settings).pid())
            found[supervisor.pid] = supervisor
    server = postgres.postmaster(postgres.locate(settings))
    if server is not None:
        found[server.pid] = server
    for process in list(found.values()):
        with contextlib.suppress(psutil.Error):
            found |= {child.pid: child for child in process.children(recursive=True)}
    myself = psutil.Process()
    for relative in [myself, *myself.parents()]:
        found.pop(relative.pid, None)
    return [process for process in found.values() if alive(process)]


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
