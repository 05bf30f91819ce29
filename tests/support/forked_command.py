"""The `apex` command in processes that are forked from one which has imported it: to import it takes longest.

Each is a real process: it is killed, halted and asked for its exit code as any other.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from apex_ml.faults import HALT
from apex_ml.settings import CODE_ROOT
from tests.support.apex_home import Apex, Done
from tests.support.throwaway_home import SESSION_FOLDER

CLONE_NEWNS = 0x20000
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["apex_ml.cli.main", "apex_ml.cli.steps", "apex_ml.steps.score", "apex_ml.core.candidates.xgboost"]
)


def _main(arguments: tuple[str, ...], environment: Mapping[str, str], out: Path, err: Path, holder: int) -> None:
    os.dup2(os.open(out, os.O_WRONLY), 1)
    os.dup2(os.open(err, os.O_WRONLY), 2)
    if holder:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(os.open(f"/proc/{holder}/ns/mnt", os.O_RDONLY), CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "setns")
    os.chdir(CODE_ROOT)
    os.environ.clear()
    os.environ.update(environment)
    from apex_ml.cli.main import main

    main(list(arguments))


class Forked:
    """`apex ARGUMENTS` under way, in the mount namespace of the process `holder` if given."""

    def __init__(self, apex: Apex, *arguments: str, holder: int = 0, **extra: str) -> None:
        self._files = [Path(name) for name in (_file(), _file())]
        self.process = _FORKS.Process(target=_main, args=(arguments, apex.environment(**extra), *self._files, holder))
        self.process.start()

    def ended(self, seconds: float = 120) -> Done:
        """How it ended, when it has."""
        self.process.join(seconds)
        code = self.process.exitcode
        assert code is not None, "it does not end"
        out, err = (file.read_text() for file in self._files)
        marked = [line for line in out.splitlines() if line.startswith("APEX_RESULT ")]
        return Done(code, json.loads(marked[-1].split(" ", 1)[1]) if marked else None, err, out)

    def close(self) -> None:
        """Kill it if it is still there, and forget what it said."""
        self.process.kill()
        self.process.join(30)
        for file in self._files:
            file.unlink(missing_ok=True)


def _file() -> str:
    handle, name = tempfile.mkstemp(prefix="apex-forked-", dir=os.environ.get(SESSION_FOLDER))
    os.close(handle)
    return name


@contextmanager
def forked(apex: Apex, *arguments: str, holder: int = 0, **extra: str) -> Iterator[Forked]:
    """Begin the command; it does not outlive the block."""
    command = Forked(apex, *arguments, holder=holder, **extra)
    try:
        yield command
    finally:
        command.close()


def call(apex: Apex, *arguments: str, holder: int = 0, **extra: str) -> Done:
    """Run the command to its end."""
    with forked(apex, *arguments, holder=holder, **extra) as command:
        return command.ended()


@contextmanager
def halted(apex: Apex, point: str, *arguments: str) -> Iterator[Forked]:
    """The command standing still at a fault point."""
    with forked(apex, *arguments, APEX_FAULT=point + HALT) as command:
        deadline = time.monotonic() + 60
        while psutil.Process(command.process.pid).status() != psutil.STATUS_STOPPED:
            assert command.process.is_alive() and time.monotonic() < deadline, command.ended(0)
            time.sleep(0.01)
        yield command


def go_on(command: Forked) -> Done:
    """Let a halted command go on to its end."""
    assert command.process.pid is not None
    os.kill(command.process.pid, signal.SIGCONT)
    return command.ended()
