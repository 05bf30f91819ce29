"""A step as a command, and the runner that executes it as a local process."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

RESULT_MARK = "APEX_RESULT "
GRACE_SECONDS = 2.0  # Airflow sends SIGKILL 5 s after SIGTERM: be done before
TAIL_LINES = 200
MESSAGE_LINES = 20
MESSAGE_CHARACTERS = 2000

Emit = Callable[[str], None]


@dataclass(frozen=True)
class StepCommand:
    """One step to run: the arguments of ``apex`` and the variables to add to its environment.

    ``task`` is the unique name of the task (with the index of a mapped one), ``number`` counts its tries, and
    ``seconds`` is the time limit that holds even when Airflow is gone.
    """

    args: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    number: int = 1
    seconds: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The end of a step. A negative exit code is the signal that killed it; ``stopped`` means that Airflow sent it."""

    exit_code: int
    result: dict[str, Any] | None
    tail: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def message(self) -> str:
        """The step's own error message: from its last ``apex:`` line on, else its last line."""
        lines = [line for line in self.tail if line.strip()]
        starts = [index for index, line in enumerate(lines) if line.startswith("apex: ")]
        message = lines[starts[-1] :][:MESSAGE_LINES] if starts else lines[-1:]
        return "\n".join(message)[:MESSAGE_CHARACTERS] or "no output"


class Runner(Protocol):
    """Runs a step and returns its outcome."""

    def run(self, command: StepCommand, emit: Emit) -> Outcome:
        """Run to the end; pass every line of output to ``emit`` immediately."""
        ...

    def kill(self) -> None:
        """Stop the step and everything it started. Safe to call at any time, also from a signal handler."""
        ...


def find_result(line: str) -> dict[str, Any] | None:
    """Return the result in a line of output, None when there is none.

    >>> find_result('50%|## | APEX_RESULT {"rows": 3} trailing noise')
    {'rows': 3}
    >>> find_result("rows=3") is None
    True
    """
    start = line.rfind(RESULT_MARK)
    if start < 0:
        return None
    try:
        decoder = json.JSONDecoder(parse_constant=lambda name: None)  # XCom takes no NaN
        result, _ = decoder.raw_decode(line[start + len(RESULT_MARK) :].lstrip())
    except json.JSONDecodeError:
        return None
    return result if isinstance(result, dict) else None


def apex_program() -> tuple[str, ...]:
    """Return the ``apex`` command of the environment that runs Airflow."""
    script = Path(sys.executable).with_name("apex")
    return (str(script),) if script.exists() else (sys.executable, "-m", "apex_ml.cli.main")


class ResultOfLines:
    """Reads the result from a step's output, and keeps the last lines of the rest."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.result: dict[str, Any] | None = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def take(self, line: str) -> None:
        """Pass on one line."""
        self._emit(line)
        match = find_result(line)
        if match is None:
            self.tail.append(line)
        else:
            self.result = match


class LocalRunner:
    """Runs a step in its own process group on this machine.

    The group ends with the step: killed by :meth:`kill`, on any exception of the reader (a timeout), and when this
    process itself is killed.
    """

    def __init__(self, program: Sequence[str] | None = None) -> None:
        self.program = tuple(program or apex_program())
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(self, command: StepCommand, emit: Emit) -> Outcome:
        """Run to the end; pass every line of stdout and stderr to ``emit`` immediately."""
        guard = (sys.executable, "-I", "-S", str(Path(__file__).with_name("parent_death.py")), str(os.getpid()))
        # A step does not need Airflow's secrets and settings.
        inherited = {name: value for name, value in os.environ.items() if not name.lstrip("_").startswith("AIRFLOW_")}
        self._process = subprocess.Popen(
            [*guard, *self.program, *command.args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**inherited, "PYTHONUNBUFFERED": "1", **command.env},
            start_new_session=True,
        )
        output = ResultOfLines(emit)
        try:
            for line in read_lines(self._process):
                output.take(line)
            exit_code = self._process.wait()
        finally:
            stopped = self._stopped
            self.kill()
        return Outcome(exit_code, output.result, tuple(output.tail), stopped)

    def kill(self) -> None:
        """End the whole group: SIGTERM, and after two seconds SIGKILL for the rest."""
        process = self._process
        if process is None:
            return
        self._stopped = True
        for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 0.5)):
            try:
                os.killpg(process.pid, number)
            except (ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
                return
            if _group_ended(process, seconds):
                return


def _group_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait until the group has no process, at most for the timeout."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process.poll()  # reap the step itself, because its zombie would keep the group alive
        try:
            os.killpg(process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return True
        time.sleep(0.02)
    return False


def read_lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield the lines of a process immediately, until it ends.

    A child process can hold the pipe open, so the lines end with the process, not with the pipe. Of a line that is
    redrawn with carriage returns (a progress bar) only the last state is returned. Bytes that are not UTF-8 are
    replaced.
    """
    assert process.stdout is not None
    pending = b""
    with process.stdout as pipe, selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if selector.select(timeout=0.5):
                chunk = os.read(pipe.fileno(), 65536)
                if not chunk:
                    break
                *lines, pending = (pending + chunk).split(b"\n")
                yield from (text_of(line) for line in lines)
            elif process.poll() is not None:
                break
    if pending:
        yield text_of(pending)


def text_of(line: bytes) -> str:
    """The last state of a line, as text."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", errors="replace")
