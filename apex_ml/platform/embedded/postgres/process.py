"""The running server: its process, whether it answers, and a connection of its superuser."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from apex_ml.adapters.postgres.administration import LoginError, connect_superuser
from apex_ml.adapters.postgres.connection import Connection
from apex_ml.errors import ConfigError, TransientError
from apex_ml.platform.embedded.postgres.account import last_lines, run_as
from apex_ml.platform.embedded.postgres.binaries import wheel_binaries
from apex_ml.platform.embedded.postgres.server import ADMIN, Server
from apex_ml.settings import Settings


def postmaster(server: Server) -> psutil.Process | None:
    """The running server of this data folder, supervised or not."""
    try:
        pid = int((server.data / "postmaster.pid").read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == server.data.resolve():
            return process
    except (OSError, ValueError, psutil.Error):
        pass
    return None


def is_running(server: Server) -> bool:
    """Whether a server of this data folder runs."""
    return postmaster(server) is not None


def forget_dead_server(server: Server) -> None:
    """Remove the pid file and sockets that a power cut left; without it a reused pid could stop the next start."""
    if is_running(server):
        return
    (server.data / "postmaster.pid").unlink(missing_ok=True)
    for leftover in server.socket.glob(".s.PGSQL.*") if server.socket.is_dir() else []:
        leftover.unlink(missing_ok=True)


def wait_until_ready(settings: Settings, server: Server, timeout: float = 60) -> None:
    """Return when the superuser can log in. Raises TransientError when that takes longer than ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            superuser_connection(settings, server).close()
            return
        except LoginError as error:
            if "password authentication failed" in str(error):
                raise ConfigError(
                    f"the running Postgres has another password of {ADMIN} than {settings.env_file}: "
                    "run `apex down` and `apex up`"
                ) from error
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Postgres does not answer on {server.socket}: {last_lines(str(error))}"
                ) from error
        time.sleep(0.05)


def superuser_connection(settings: Settings, server: Server, database: str = "postgres") -> Connection:
    """A connection of the superuser, who logs in by the socket alone. Raises LoginError."""
    return connect_superuser(settings, server.socket, ADMIN, database)


def server_answers(settings: Settings, timeout: int = 3) -> tuple[bool, str]:
    """Whether the server answers in its protocol, and its message. Starting up counts as alive."""
    command = [str(wheel_binaries() / "pg_isready"), "-h", settings.host, "-p", str(settings.pg_port)]
    done = run_as([*command, "-t", str(timeout)])
    detail = done.stdout.strip().partition(" - ")[2] or done.stderr.strip()
    return done.returncode in (0, 1), detail
