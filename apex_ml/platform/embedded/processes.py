"""The processes that belong to the platform of one home."""

from __future__ import annotations

import contextlib
import os
import sys

import psutil

from apex_ml.errors import ConfigError, TransientError
from apex_ml.platform.embedded.environment import (
    MARK,
)
from apex_ml.platform.embedded.paths import (
    run_folder,
    supervisor_socket,
)
from apex_ml.platform.embedded.postgres.process import postmaster
from apex_ml.platform.embedded.postgres.server import locate_server
from apex_ml.platform.embedded.supervisor_client import Supervisor
from apex_ml.settings import Settings


def family(settings: Settings) -> list[psutil.Process]:
    """Every live process of this home's platform, also those that supervisor lost (it was killed, or they moved away).

    Recognised by descent from supervisor, by the mark in their environment, by their working folder, and the
    database server by its data folder.
    """
    home, folder = str(settings.home), str(run_folder(settings))
    processes_by_pid: dict[int, psutil.Process] = {}
    python = os.path.realpath(sys.executable)
    for process in psutil.process_iter():
        try:
            # a process title can overwrite the environment: then the folder and the interpreter identify the process
            marked = process.environ().get(MARK) == home
            if marked or (process.cwd() == folder and os.path.realpath(process.exe()) == python):
                processes_by_pid[process.pid] = process
        except (psutil.Error, OSError):
            continue
    with contextlib.suppress(TransientError, ConfigError, psutil.Error):
        if supervisor_socket(settings).exists():
            supervisor = psutil.Process(Supervisor(settings).pid())
            processes_by_pid[supervisor.pid] = supervisor
    server = postmaster(locate_server(settings))
    if server is not None:
        processes_by_pid[server.pid] = server
    for process in list(processes_by_pid.values()):
        with contextlib.suppress(psutil.Error):
            processes_by_pid |= {child.pid: child for child in process.children(recursive=True)}
    myself = psutil.Process()
    for relative in [myself, *myself.parents()]:
        processes_by_pid.pop(relative.pid, None)
    return [process for process in processes_by_pid.values() if alive(process)]


def alive(process: psutil.Process) -> bool:
    """Whether the process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
