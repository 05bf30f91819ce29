"""A client of supervisor, which keeps the programs of the platform running, over its unix socket."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from apex_ml.errors import ConfigError, TransientError
from apex_ml.platform.embedded.environment import (
    inherited,
)
from apex_ml.platform.embedded.paths import (
    private_folder,
    run_folder,
    service_log,
    supervisor_config,
    supervisor_socket,
)
from apex_ml.platform.embedded.supervision import write_config
from apex_ml.settings import Settings


@dataclass(frozen=True)
class State:
    """Supervisor's state of a program."""

    name: str
    state: str
    pid: int
    since: int
    why: str


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
        """One remote call. Raises TransientError when supervisor does not answer, ConfigError when it refuses."""
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
        """Whether supervisor answers."""
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
                # a fault here means that it started or failed meanwhile, which the wait for health detects
                with contextlib.suppress(ConfigError):
                    self._call("startProcess", name, False)

    def stop(self, names: Iterable[str], timeout: float = 75) -> None:
        """Stop the named programs at the same time and wait until they are gone or ``timeout`` has passed."""
        running = set(names) & set(self.states())
        for name in running:
            with contextlib.suppress(ConfigError):  # not running
                self._call("stopProcess", name, False)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            states = self.states()
            if not any(states[name].state in ("RUNNING", "STARTING", "STOPPING", "BACKOFF") for name in running):
                return
            time.sleep(0.1)

    def restart(self, name: str) -> None:
        """Stop one program, by force if necessary, and start it again."""
        self.stop([name])
        self.start([name])

    def shutdown(self) -> None:
        """Stop all remaining programs, then supervisor itself; does not wait."""
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
            # supervisor's files, and those of every service, are UTF-8, independent of the caller's locale
            env={**inherited(self.settings), "PYTHONUTF8": "1"},
        )
        deadline = time.monotonic() + 10
        while started.returncode == 0 and time.monotonic() < deadline:
            if self.running():
                return
            time.sleep(0.02)
        printed = (started.stderr or started.stdout).strip()
        raise ConfigError(f"supervisor did not start: {printed or service_log(self.settings, 'supervisord')}")
