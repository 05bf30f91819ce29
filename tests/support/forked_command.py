"""The `apex` command in processes that are forked from one which has imported it: to import it takes longest.

Each is a real process: it is killed, halted and asked for its exit code as any other. What reads the environment while
it is imported has read that of the tests, so a test about such variables starts a process of its own.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_ml.settings import CODE_ROOT
from tests.support.throwaway_home import SESSION_FOLDER

CLONE_NEWNS = 0x20000
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.forked_command", "tests.support.imported_steps"])


@dataclass(frozen=True)
class Done:
    """How a command ended. `code` is negative for a signal; `result` is the APEX_RESULT line of `out`."""

    code: int
    result: dict[str, Any] | None
    err: str
    out: str = ""

    @classmethod
    def of(cls, code: int, out: str, err: str) -> Done:
        """The same from the exit code and what was printed."""
        marked = [line for line in out.splitlines() if line.startswith("APEX_RESULT ")]
        return cls(code, json.loads(marked[-1].split(" ", 1)[1]) if marked else None, err, out)


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

    def __init__(self, arguments: tuple[str, ...], environment: Mapping[str, str], holder: int = 0) -> None:
        self._files = [Path(name) for name in (_file(), _file())]
        self.process = _FORKS.Process(target=_main, args=(arguments, dict(environment), *self._files, holder))
        self.process.start()

    def ended(self, seconds: float = 300) -> Done:
        """How it ended, when it has."""
        self.process.join(seconds)
        code = self.process.exitcode
        out, err = (file.read_text() for file in self._files)
        assert code is not None, f"it does not end: {err[-2000:]}"
        return Done.of(code, out, err)

    def go_on(self) -> Done:
        """Let it go on to its end after it was halted."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGCONT)
        return self.ended()

    def close(self) -> None:
        """Kill the process if it still runs, and discard its output."""
        self.process.kill()
        self.process.join(30)
        for file in self._files:
            file.unlink(missing_ok=True)


def _file() -> str:
    handle, name = tempfile.mkstemp(prefix="apex-forked-", dir=os.environ.get(SESSION_FOLDER))
    os.close(handle)
    return name


@contextmanager
def forked(arguments: tuple[str, ...], environment: Mapping[str, str], holder: int = 0) -> Iterator[Forked]:
    """Begin the command; it does not outlive the block."""
    command = Forked(arguments, environment, holder)
    try:
        yield command
    finally:
        command.close()
