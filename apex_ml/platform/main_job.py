"""The main job: platform up, retrain, score a fresh drop, and say how it went."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from apex_ml.adapters.postgres.views import ViewRow
from apex_ml.adapters.storage.local import check_parquet, data_files, hidden, local_folder, write_atomically
from apex_ml.contract.model import load_contract
from apex_ml.errors import ApexError, ConfigError, DataError, TransientError
from apex_ml.json_text import json_text
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.airflow_api import AirflowApi, DagRun, TaskRun
from apex_ml.platform.airflow_state import RETRAIN, SCORE
from apex_ml.platform.embedded.home_record import refuse_contradiction
from apex_ml.platform.embedded.paths import service_log
from apex_ml.platform.reports import job
from apex_ml.platform.reports.task_board import TaskBoard
from apex_ml.services.held_back import find_held_back
from apex_ml.services.run_folder import StepContext, latest_manifest
from apex_ml.settings import Settings
from apex_ml.simulate.files import is_simulated
from apex_ml.steps.removal import INVENTED
from apex_ml.wording import counted

BAD_DROPS = "bad_drops"
"""Task of apex_score that is mapped over drops that cannot be scored, and fails for each."""
STEPS_IN_RETRAIN = 6
SIMULATED_ORDERS = 1_250_000
DROP_ORDERS = 100_000
POLL_SECONDS = 0.7
STUCK_SECONDS = 180.0
ERROR_LINES = 15
INTERRUPTED = 130
SCHEDULER_LINES = 400
NO_TEXT = "no text: its process ended before it could write a log (see `make logs S=airflow-scheduler`)"
PIPE_WIDTH = 120


def run_main_job(settings: Settings, raw: str | None, drop: Path | None = None, invented: bool = False) -> int:
    """Bring the platform up, retrain, score a drop and report; return the exit code.

    ``raw`` is the folder of raw parquet files of this and all coming runs; without it the one in the settings, which
    is filled by the simulator when it is empty. The drop is ``drop``, a file; without it generated orders when the raw
    data is generated or with ``invented``, else the newest day of the raw data, which is held back from training. What
    was scored before is not scored again. A retrain without new raw data is a success. A failed step prints its error
    and log and returns 1. Ctrl-C leaves the platform up.

    Raises :class:`~apex_ml.errors.ConfigError` for a folder without parquet files or a drop that is none, and
    :class:`~apex_ml.errors.TransientError` when something is waited for in vain.
    """
    from apex_ml.platform.embedded.env_file import remember
    from apex_ml.platform.embedded.start import up

    began = time.monotonic()
    console = _console()
    if drop is not None and invented:
        raise ConfigError("--drop and --invented: give one of them")
    if drop is not None:
        check_drop(drop)
    refuse_contradiction(settings)
    if raw:
        folder = raw_folder(raw)
        settings = remember(settings, "APEX_RAW_URL", str(folder))
        console.print(f"Raw data: {folder}; remembered in {settings.env_file}, nightly runs use it too", markup=False)
    with simulated_raw(settings, console):
        settings = up(settings)
    invented = invented or (drop is None and has_generated_raw(settings))
    held = drop is None and not invented
    with _staying_up(console, settings), AirflowApi(settings) as api:
        for dag_id in (RETRAIN, SCORE):
            api.unpause(dag_id)
        conf: dict[str, Any] = ({"raw": settings.raw} if raw else {}) | ({"without_newest_day": True} if held else {})
        run_id = _retrain(api, settings, console, conf)
        if run_id is None:
            return 1
        champion = job.champion(settings)
        if champion is None:
            console.print(
                "There is no champion yet: the challenger was not promoted. Drops wait until there is one. "
                "The reasons: select * from apex.model_history",
                markup=False,
            )
            job.print_places(console, settings, job.newest_data_docs(settings))
            return 0
        made: _Drop | None
        if invented:
            made = _invented_drop(settings)
        elif drop is not None:
            made = _named_drop(drop)
        else:
            made = _held_back_drop(settings, console, api.result(RETRAIN, run_id, "validate") or {})
        summary = None if made is None else _score_drop(api, settings, console, made)
        if made is not None and summary is None:
            return 1
        job.print_champion(console, settings, champion)
        if summary is not None:
            job.print_drop(console, settings, summary)
        job.print_places(console, settings, job.newest_data_docs(settings))
        console.print(f"Done in {time.monotonic() - began:.1f} s. The platform stays up; `make down` stops it.")
    return 0


def retrain(settings: Settings, *, force: bool = False, split: str | None = None, trials: int | None = None) -> int:
    """Run apex_retrain alone on the running platform and wait for it; return the exit code.

    Raises :class:`~apex_ml.errors.TransientError` when Airflow is not up.
    """
    console = _console()
    asked = {"force": force or None, "split": split, "trials": trials}
    with _staying_up(console, settings), AirflowApi(settings, patience=5.0) as api:
        api.unpause(RETRAIN)
        conf = {name: value for name, value in asked.items() if value is not None}
        if _retrain(api, settings, console, conf) is None:
            return 1
        champion = job.champion(settings)
        if champion is None:
            console.print("There is no champion yet.")
        else:
            job.print_champion(console, settings, champion)
    return 0


def inbox(settings: Settings) -> Path:
    """Return the folder where drops arrive."""
    return local_folder(settings.drops, "APEX_DROPS_URL") / "inbox"


def raw_folder(raw: str) -> Path:
    """Return the absolute folder of raw data.

    Raises :class:`~apex_ml.errors.ConfigError` when it is missing or holds no parquet file.
    """
    folder = local_folder(raw, "RAW").resolve()
    try:
        files = data_files(folder, "RAW")
    except DataError as error:
        raise ConfigError(str(error)) from error
    for file in files:
        with contextlib.suppress(ApexError):
            check_parquet(file)
            return folder
    raise ConfigError(f"RAW={folder}: no parquet file among its {counted(len(files), 'file')}, e.g. {files[0].name}")


@contextlib.contextmanager
def simulated_raw(settings: Settings, console: Console) -> Iterator[None]:
    """Fill an empty default raw folder with simulated orders while the block runs; wait for them at its end.

    A folder that a person chose is never filled. Raises :class:`~apex_ml.errors.ConfigError` when the simulator fails.
    """
    folder = Path(settings.raw)
    if settings.raw_url or (folder.is_dir() and any(not hidden(name) for name in os.listdir(folder))):
        yield
        return
    refuse_foreign_simulation(settings)
    console.print(f"No raw data in {folder}: simulating {SIMULATED_ORDERS:,} orders", markup=False)
    command = [str(Path(sys.executable).with_name("apex")), "simulate", "--orders", str(SIMULATED_ORDERS)]
    # A process of its own gives its memory back before the training begins.
    simulator = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "APEX_HOME": str(settings.home)},
    )
    try:
        yield
        output, _ = simulator.communicate()
    finally:
        if simulator.poll() is None:
            simulator.terminate()
            simulator.wait()
    if simulator.returncode:
        raise ConfigError(f"apex simulate failed (exit code {simulator.returncode}):\n{output.strip()}")
    console.print(output.strip(), markup=False)


def refuse_foreign_simulation(settings: Settings) -> None:
    """Raise ConfigError when the simulator's orders are not those of the contract."""
    from apex_ml.simulate.process import load_process

    contract, process = load_contract(settings.contract), load_process()
    theirs = (contract.entity, contract.timestamp, contract.target)
    if theirs != (process.entity, process.timestamp, process.target):
        raise ConfigError(
            f"no raw data in {settings.raw}, and of the contract {settings.contract} ({', '.join(theirs)}) none can be"
            " generated: put parquet files there, or name your folder: RAW=/path/to/parquet make run"
        )


def next_run_number(settings: Settings) -> int:
    """Return 1, 2, 3, … over all main jobs of this home; concurrent callers get different numbers."""
    settings.state.mkdir(parents=True, exist_ok=True)
    counter = settings.state / "run_counter.json"
    with (settings.state / "run_counter.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            number = int(json.loads(counter.read_text())["runs"]) + 1
        except FileNotFoundError:
            number = 1
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'{counter}: damaged, expected {{"runs": N}}; remove it to count from 1 again') from error
        write_atomically(counter, json_text({"runs": number}).encode())
    return number


def _retrain(api: AirflowApi, settings: Settings, console: Console, conf: dict[str, Any]) -> str | None:
    """Trigger apex_retrain, show its progress and its outcome; return the run's id, None when it failed."""
    run_id = api.trigger(RETRAIN, conf)
    limit = settings.step_timeout_minutes * 60.0 * STEPS_IN_RETRAIN
    run, tasks = _follow(api, console, RETRAIN, run_id, limit)
    if run.state == "failed":
        print_failures(api, settings, console, run, tasks)
        return None
    if any(task.task_id == "validate" and task.state == "skipped" for task in tasks):
        reason = (api.result(RETRAIN, run_id, "validate") or {}).get("skip", "nothing to do")
        console.print(f"Not retrained: {reason}", markup=False)
        return run_id
    promotion = api.result(RETRAIN, run_id, "promote") or {}
    outcome = "promoted" if promotion.get("promoted") else "not promoted"
    reasons = "; ".join(str(reason) for reason in promotion.get("reasons", ()))
    console.print(f"Challenger {outcome}{': ' if reasons else ''}{reasons}", markup=False)
    return run_id


def _follow(
    api: AirflowApi, console: Console, dag_id: str, run_id: str, limit_seconds: float
) -> tuple[DagRun, list[TaskRun]]:
    """Show a run until it is finished; raise TransientError when it moves no more or takes too long."""
    began = moved = time.monotonic()
    retries = _Retries(api, console)
    with TaskBoard(console, f"{dag_id}  {api.run_url(dag_id, run_id)}") as board:
        while True:
            run = api.dag_run(dag_id, run_id)
            tasks = api.task_runs(dag_id, run_id)
            others = [other for other in api.dag_runs(dag_id) if other.state == "running" and other.run_id != run_id]
            waits = run.state == "queued" and bool(others)
            asked = any(task.state == "awaiting_input" for task in tasks)
            note = f"waiting for the run {others[0].run_id} to end" if waits else ""
            if asked:
                note = f"waiting for a person's answer: {api.pages}/required_actions"
            board.show(tasks, note)
            retries.tell(run, tasks)
            if run.finished:
                return run, tasks
            now = time.monotonic()
            if waits or any(task.state in ("running", "up_for_retry", "restarting") for task in tasks):
                moved = now
            if asked:  # a person's time is not the run's
                began = moved = now
            if now - moved > STUCK_SECONDS:
                raise TransientError(
                    f"{dag_id}: no task has run for {STUCK_SECONDS:.0f} s although the run is {run.state}: "
                    "`make status` tells whether the scheduler is well; a pool without free slots also does this "
                    f"({api.pages}/pools)"
                )
            if now - began > limit_seconds:
                raise TransientError(
                    f"{dag_id}: not finished after {limit_seconds / 60:.0f} minutes, it goes on at "
                    f"{api.run_url(dag_id, run_id)} (the limit follows APEX_STEP_TIMEOUT_MINUTES)"
                )
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class _Drop:
    """A drop that is to be scored: its content, the name under which it goes into the inbox, what is said of it."""

    name: str
    content: bytes
    what: str

    @property
    def sha256(self) -> str:
        """What the ledger knows it by."""
        return hashlib.sha256(self.content).hexdigest()


def has_generated_raw(settings: Settings) -> bool:
    """Whether all raw files are generated ones, so that generated orders of the same clients harm nobody's data."""
    folder = local_folder(settings.raw, "APEX_RAW_URL")
    try:
        return is_simulated(folder, data_files(folder, "APEX_RAW_URL"))
    except DataError:  # the retraining says what is wrong with it
        return False


def check_drop(path: Path) -> None:
    """Raise :class:`~apex_ml.errors.ConfigError` for a drop that no inbox would take."""
    if not path.is_file():
        raise ConfigError(f"--drop {path}: there is no such file")
    if hidden(path.name):
        raise ConfigError(f"--drop {path}: its name is that of an unfinished file; rename it")
    try:
        check_parquet(path)
    except DataError as error:
        raise ConfigError(f"--drop {path}: {error}") from error


def _named_drop(path: Path) -> _Drop:
    return _Drop(path.name, path.read_bytes(), f"the file {path}")


def _invented_drop(settings: Settings) -> _Drop:
    """Generate orders of the clients of the raw data, dated the day after its newest."""
    from apex_ml.simulate.drop import make_drop

    number, as_of = next_run_number(settings), _as_of(settings)
    with tempfile.TemporaryDirectory(prefix="apex-drop-") as folder:
        path = Path(folder) / f"{INVENTED}{as_of}-{number:04}.parquet"
        made = make_drop(settings.raw, as_of, DROP_ORDERS, number, path, load_contract(settings.contract))
        what = (
            f"{counted(made.rows, 'invented order')} of {counted(made.clients, 'client')} dated {as_of}, seed {number}"
        )
        return _Drop(path.name, path.read_bytes(), what)


def _held_back_drop(settings: Settings, console: Console, validated: dict[str, Any]) -> _Drop | None:
    """The newest day of the raw data, as validate held it back, now or in an earlier run."""
    found = find_held_back(StepContext(settings, load_pipeline(settings), "main"), str(validated.get("data_sha256")))
    if found is None:
        console.print(
            "No drop: the raw data holds one day only, or the run that held its newest day back was removed. "
            "Put a file into the inbox, or name one: DROP=file.parquet make run",
            markup=False,
        )
        return None
    held, path = found
    what = f"the {held['orders']:,} orders of {held['day']}, the newest day of the raw data, held back from training"
    return _Drop(f"held-back-{held['day']}.parquet", path.read_bytes(), what)


def _score_drop(api: AirflowApi, settings: Settings, console: Console, drop: _Drop) -> ViewRow | None:
    """Put a drop in the inbox and wait for apex_score to notice it; return its summary, None when that failed.

    One whose content was scored before is not put there again.
    """
    known = job.drop_summary(settings, drop.sha256)
    if known is not None and known["state"] == "done":
        console.print(
            f"Drop: {drop.name}, {drop.what}: this content was scored already, as {known['name']} by version"
            f" {known['model_version']} at {known['finished_at']:%Y-%m-%d %H:%M} UTC; there is nothing new to score",
            markup=False,
        )
        return known
    before = {run.run_id for run in api.dag_runs(SCORE)}
    target = inbox(settings) / drop.name
    if target.exists() and target.read_bytes() != drop.content:
        raise ConfigError(f"{target}: another file of this name waits to be scored; give the drop another name")
    console.print(f"Drop: {drop.name}, {drop.what}; {SCORE} will notice it", markup=False)
    if not target.exists():
        write_atomically(target, drop.content)
    began = time.monotonic()
    limit = settings.step_timeout_minutes * 60.0
    retries = _Retries(api, console)
    with TaskBoard(console, f"{SCORE}  {api.pages}/dags/{SCORE}") as board:
        while True:
            summary = job.drop_summary(settings, drop.sha256)
            runs = [run for run in api.dag_runs(SCORE) if run.run_id not in before or not run.finished]
            tasks = {run.run_id: api.task_runs(SCORE, run.run_id) for run in runs if run.started is not None}
            shown = next(iter(tasks.values()), [])
            board.show(shown, "" if shown else "waiting for the inbox to be looked at")
            if summary is not None and summary["state"] == "done":
                console.print(f"Scored {time.monotonic() - began:.1f} s after it lay in the inbox")
                return summary
            if summary is not None and summary != known:  # as it was before, it tells of an earlier delivery
                console.print(f"{drop.name} was refused: {summary['reason']}", markup=False)
                return None
            for run in runs:
                retries.tell(run, tasks.get(run.run_id, []))
                # an earlier run cannot have listed this drop: its failure is about others
                if run.state == "failed" and run.run_id not in before and not only_bad_drops(tasks.get(run.run_id, [])):
                    print_failures(api, settings, console, run, tasks.get(run.run_id, []))
                    return None
            if time.monotonic() - began > limit:
                raise TransientError(
                    f"{target}: not scored after {limit / 60:.0f} minutes (APEX_STEP_TIMEOUT_MINUTES); "
                    f"see {api.pages}/dags/{SCORE} and `make logs S=airflow-triggerer`"
                )
            time.sleep(POLL_SECONDS)


def only_bad_drops(tasks: Sequence[TaskRun]) -> bool:
    """Whether a run of apex_score is red for bad drops alone: the others are scored, and so is what comes next."""
    return {task.task_id for task in tasks if task.state == "failed"} == {BAD_DROPS}


class _Retries:
    """Prints why a task is tried again, once a try: the retry is minutes away, and a person may fix it meanwhile."""

    def __init__(self, api: AirflowApi, console: Console) -> None:
        self._api = api
        self._console = console
        self._told: set[tuple[str, str, int, int]] = set()

    def tell(self, run: DagRun, tasks: Sequence[TaskRun]) -> None:
        """Print the error of every task that waits for its next try and was not told yet."""
        for task in tasks:
            key = (run.run_id, task.task_id, task.map_index, task.try_number)
            if task.state == "up_for_retry" and key not in self._told:
                self._told.add(key)
                errors = self._api.log(run.dag_id, run.run_id, task).errors
                why = errors[-1] if errors else NO_TEXT
                self._console.print(f"  {task.task_id} is tried again after: {why}", markup=False)


def print_failures(
    api: AirflowApi, settings: Settings, console: Console, run: DagRun, tasks: Sequence[TaskRun]
) -> None:
    """Print the error and the log's place of every failed task of a run; without an error what the scheduler logged."""
    failed = [task for task in tasks if task.state == "failed"]
    console.print(f"[bold red]{run.dag_id} failed[/]: {api.run_url(run.dag_id, run.run_id)}", highlight=False)
    for task in failed:
        log = api.log(run.dag_id, run.run_id, task)
        lines = list(dict.fromkeys(log.errors)) or [*(log.lines or [NO_TEXT]), *_scheduler_errors(settings)]
        console.print(f"task {task.name}, try {task.try_number}:", markup=False)
        for line in "\n".join(lines).splitlines()[-ERROR_LINES:]:
            console.print(f"  {line}", markup=False, highlight=False)
        if log.path:
            console.print(f"  log: {log.path}", markup=False, highlight=False)


def _scheduler_errors(settings: Settings) -> list[str]:
    """The last errors in the log of the scheduler, which starts the tasks; where it runs elsewhere there are none."""
    log = service_log(settings, "airflow-scheduler")
    try:
        lines = log.read_text(errors="replace").splitlines()[-SCHEDULER_LINES:]
    except OSError:
        return []
    found = [line.strip() for line in lines if re.search(r"error|exception|refused|timed out", line, re.IGNORECASE)]
    return [f"from {log}:", *found[-5:]] if found else [f"nothing in {log} either"]


def _as_of(settings: Settings) -> date:
    """Return the day after the newest order that a model has learned from."""
    manifest = latest_manifest(StepContext(settings, load_pipeline(settings), "main"), "elt", lambda _: True)
    if manifest is None:
        raise DataError(f"no finished elt step below {settings.processed}: retrain first (make train)")
    return date.fromisoformat(manifest["result"]["as_of"])


@contextlib.contextmanager
def _staying_up(console: Console, settings: Settings) -> Iterator[None]:
    """Say at Ctrl-C that only the watching has ended, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(
            f"\nStopped watching. The platform stays up and its runs go on: {settings.airflow_address};"
            " `make down` stops it.",
            markup=False,
        )
        sys.exit(INTERRUPTED)


def _console() -> Console:
    # soft wrap: an address or a path stays in one piece
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)  # a pipe has no width: rich would fold tables at 80
    return console
