"""Stop the embedded platform, so that no process of the home is left."""

from __future__ import annotations

import contextlib
import signal

import psutil

from apex_ml.errors import ApexError, ConfigError, TransientError
from apex_ml.platform.embedded.paths import run_folder, supervisor_socket
from apex_ml.platform.embedded.postgres.process import forget_dead_server, postmaster
from apex_ml.platform.embedded.postgres.server import locate_server, remove_server
from apex_ml.platform.embedded.processes import alive, family
from apex_ml.platform.embedded.supervision import AIRFLOW, MLFLOW, POSTGRES, SERVING, WATCHDOG
from apex_ml.platform.embedded.supervisor_client import Supervisor
from apex_ml.platform.embedded.up_lock import hold_up_lock
from apex_ml.settings import Settings


def down(settings: Settings) -> bool:
    """Stop everything, so that no process of this home is left; return whether anything ran.

    Also removes pid and socket files that a power cut left. Data stays. Raises TransientError when a process
    survives even SIGKILL.
    """
    if not settings.state.exists():
        return False
    with hold_up_lock(settings, None):
        return stop_everything(settings)


def destroy(settings: Settings) -> None:
    """Stop the platform and delete its database and its files outside the home; for throwaway platforms."""
    down(settings)
    remove_server(settings)
    folder = run_folder(settings)
    for leftover in folder.glob("supervis*"):
        leftover.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def stop_everything(settings: Settings) -> bool:
    """Stop every process of the platform and return whether there was any. The caller holds the lock."""
    members = family(settings)
    supervisor = Supervisor(settings)
    if supervisor.running():
        with contextlib.suppress(ApexError):  # it can end meanwhile: the rest is ended below
            # the watchdog first, because it would report stopped services; Postgres last, because the others use it
            supervisor.stop([WATCHDOG, SERVING, MLFLOW, *AIRFLOW])
            supervisor.stop([POSTGRES])
        supervisor.shutdown()
        psutil.wait_procs(members, timeout=5)
    _end(settings, members)
    with contextlib.suppress(ConfigError):
        forget_dead_server(locate_server(settings))
    for leftover in (supervisor_socket(settings), run_folder(settings) / "supervisord.pid"):
        leftover.unlink(missing_ok=True)
    return bool(members)


def _end(settings: Settings, members: list[psutil.Process]) -> None:
    """End every process with SIGTERM, then SIGKILL. Check again, because new ones can start meanwhile."""
    for _ in range(3):
        left = {process.pid: process for process in [*members, *family(settings)] if alive(process)}
        if not left:
            return
        database = _database_family(settings)
        _ask([process for pid, process in left.items() if pid not in database], signal.SIGTERM, patience=8)
        # the server last and alone: its children end with it, and INT is its fast shutdown
        _ask([process for pid, process in left.items() if pid in database[:1]], signal.SIGINT, patience=60)
        _ask([process for pid, process in left.items() if pid in database[1:]], signal.SIGTERM, patience=5)
    survivors = ", ".join(f"{process.pid} ({process.name()})" for process in family(settings))
    if survivors:
        raise TransientError(f"these processes of the platform do not end: {survivors}")


def _database_family(settings: Settings) -> list[int]:
    """Process ids of the database server, first, and of its children."""
    server = postmaster(locate_server(settings))
    with contextlib.suppress(psutil.NoSuchProcess):
        return [server.pid, *(child.pid for child in server.children(recursive=True))] if server else []
    return []


def _ask(processes: list[psutil.Process], how: signal.Signals, patience: float) -> None:
    """Send a signal, wait, and kill the remaining processes."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    _, left = psutil.wait_procs(processes, timeout=patience)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)
