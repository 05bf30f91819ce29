"""Follow a DAG run in the terminal until it ends, and print why it failed."""

from __future__ import annotations

import builtins
import re
import time
from collections.abc import Sequence

from rich.console import Console

from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.airflow_runs import DagRun, TaskRun
from apex_ml.platform.embedded.paths import service_log
from apex_ml.platform.reports.task_board import TaskBoard
from apex_ml.settings import Settings

BAD_DROPS = "bad_drops"
"""Task of scoring that is mapped over the drops that cannot be scored, and fails for each."""
POLL_SECONDS = 0.7
STUCK_SECONDS = 180.0
ERROR_LINES = 15
SCHEDULER_LINES = 400
APEX_FAULT = 1
_STEP_EXIT_CODE = re.compile(r"apex [\w-]+ \(exit code (\d+)\)(?:: (?:apex: )?)?")
"""How the message of a failed step begins, as the operator writes it into the log of the task."""
_TASK_EXCEPTION = re.compile(r"(\w+): ")
"""How the message of a task that failed outside its step begins: with the type of the exception."""
_EXPECTED = {error.__name__: error.exit_code for error in (DataError, TransientError, ConfigError)}
NO_TEXT = "no text: its process ended before it could write a log (see `make logs S=airflow-scheduler`)"


def follow_run(
    api: AirflowApi, console: Console, dag_id: str, run_id: str, limit_seconds: float
) -> tuple[DagRun, list[TaskRun]]:
    """Show a run until it is finished; raise TransientError when it makes no progress or takes too long."""
    began = progressed = time.monotonic()
    retries = RetryReporter(api, console)
    with TaskBoard(console, f"{dag_id}  {api.run_url(dag_id, run_id)}") as board:
        while True:
            run = api.dag_run(dag_id, run_id)
            tasks = api.task_runs(dag_id, run_id)
            others = _running_others(api, dag_id, run_id) if run.state == "queued" else []
            waits = bool(others)
            awaits_answer = any(task.state == "awaiting_input" for task in tasks)
            note = f"waiting for the run {others[0].run_id} to end" if waits else ""
            if awaits_answer:
                note = f"waiting for an answer: {api.pages}/required_actions"
            board.show(tasks, note)
            retries.report(run, tasks)
            if run.finished:
                return run, tasks
            now = time.monotonic()
            if waits or any(task.state in ("running", "up_for_retry", "restarting") for task in tasks):
                progressed = now
            if awaits_answer:  # the time of the user does not count
                began = progressed = now
            if now - progressed > STUCK_SECONDS:
                raise TransientError(
                    f"{dag_id}: no task has run for {STUCK_SECONDS:.0f} s although the run is {run.state}: "
                    "`make status` shows whether the scheduler is healthy; a pool without free slots also causes this "
                    f"({api.pages}/pools)"
                )
            if now - began > limit_seconds:
                raise TransientError(
                    f"{dag_id}: not finished after {limit_seconds / 60:.0f} minutes; it continues at "
                    f"{api.run_url(dag_id, run_id)} (the limit follows steps.timeout_minutes)"
                )
            time.sleep(POLL_SECONDS)


def _running_others(api: AirflowApi, dag_id: str, run_id: str) -> list[DagRun]:
    return [other for other in api.dag_runs(dag_id) if other.state == "running" and other.run_id != run_id]


def only_bad_drops(tasks: Sequence[TaskRun]) -> bool:
    """Whether a scoring run failed for bad drops only: the other drops are scored, and scoring continues."""
    return {task.task_id for task in tasks if task.state == "failed"} == {BAD_DROPS}


class RunFailedError(Exception):
    """A DAG run that failed, which is reported already; the command exits with this code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class RetryReporter:
    """Prints why a task is retried, once per try: the retry is minutes away, and a user may fix the cause meanwhile."""

    def __init__(self, api: AirflowApi, console: Console) -> None:
        self._api = api
        self._console = console
        self._reported: set[tuple[str, str, int, int]] = set()

    def report(self, run: DagRun, tasks: Sequence[TaskRun]) -> None:
        """Print the error of every task that waits for its next try and was not reported yet."""
        for task in tasks:
            key = (run.run_id, task.task_id, task.map_index, task.try_number)
            if task.state == "up_for_retry" and key not in self._reported:
                self._reported.add(key)
                errors = self._api.log(run.dag_id, run.run_id, task).errors
                why = errors[-1] if errors else NO_TEXT
                self._console.print(f"  {task.task_id} will be retried after: {why}", markup=False)


def print_failures(api: AirflowApi, settings: Settings, console: Console, run: DagRun, tasks: Sequence[TaskRun]) -> int:
    """Print the error and the log file of every failed task of a run; without an error, the scheduler's errors.

    Return the exit code of the first failed task whose message shows one, else that of a TransientError: a step that
    was killed, timed out or never started.
    """
    exit_codes: list[int] = []
    failed = [task for task in tasks if task.state == "failed"]
    console.print(f"[bold red]{run.dag_id} failed[/]: {api.run_url(run.dag_id, run.run_id)}", highlight=False)
    for task in failed:
        log = api.log(run.dag_id, run.run_id, task)
        exit_codes += [code for error in log.errors if (code := _exit_code(error)) is not None]
        lines = list(dict.fromkeys(log.errors)) or [*(log.lines or [NO_TEXT]), *_scheduler_errors(settings)]
        console.print(f"task {task.name}, try {task.try_number}:", markup=False)
        for line in "\n".join(lines).splitlines()[-ERROR_LINES:]:
            console.print(f"  {line}", markup=False, highlight=False)
        if log.path:
            console.print(f"  log: {log.path}", markup=False, highlight=False)
    return next(iter(exit_codes), TransientError.exit_code)


def failure_reason(api: AirflowApi, run: DagRun, tasks: Sequence[TaskRun]) -> str | None:
    """The first failed task of a run with the first line of its error; None when no task failed."""
    failed = next((task for task in tasks if task.state == "failed"), None)
    if failed is None:
        return None
    log = api.log(run.dag_id, run.run_id, failed)
    error = (log.errors or log.lines or (NO_TEXT,))[-1]
    return f"{failed.name} failed: {_STEP_EXIT_CODE.sub('', error, count=1).strip().partition(chr(10))[0]}"


def skip_reason(api: AirflowApi, run: DagRun, tasks: Sequence[TaskRun]) -> str | None:
    """Why a retraining did not train; None when it did."""
    if not any(task.task_id == "validate" and task.state == "skipped" for task in tasks):
        return None
    return str((api.result(run.dag_id, run.run_id, "validate") or {}).get("skip", "nothing to do"))


def _exit_code(error: str) -> int | None:
    """The exit code of a failed task by its message; None for a step without one: killed, out of time, not started.

    It is 1 for a code that no expected error has, and for a fault of the task outside its step.
    """
    if beginning := _STEP_EXIT_CODE.match(error):
        code = int(beginning[1])
        return code if code in _EXPECTED.values() else APEX_FAULT
    if exception := _TASK_EXCEPTION.match(error):
        return APEX_FAULT if _is_fault(exception[1]) else _EXPECTED.get(exception[1])
    return None


def _is_fault(name: str) -> bool:
    """Whether an exception of this name is a fault of the program: Python's own, but none of the system."""
    kind = getattr(builtins, name, None)
    return isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, OSError | MemoryError)


def _scheduler_errors(settings: Settings) -> list[str]:
    """Return the last errors in the log of the scheduler, which starts the tasks; none when it runs elsewhere."""
    log = service_log(settings, "airflow-scheduler")
    try:
        lines = log.read_text(errors="replace").splitlines()[-SCHEDULER_LINES:]
    except OSError:
        return []
    errors = [line.strip() for line in lines if re.search(r"error|exception|refused|timed out", line, re.IGNORECASE)]
    return [f"from {log}:", *errors[-5:]] if errors else [f"nothing in {log} either"]
