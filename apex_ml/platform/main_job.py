"""The main job: bring the platform up, retrain, score a fresh drop, and report the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from apex_ml.adapters.postgres.views import ViewRow
from apex_ml.contract.pipeline import DagKind, Pipeline
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.airflow_runs import DagRun, TaskRun
from apex_ml.platform.embedded.home_record import refuse_contradiction
from apex_ml.platform.follow import (
    POLL_SECONDS,
    RetryReporter,
    RunFailedError,
    follow_run,
    only_bad_drops,
    print_failures,
    skip_reason,
)
from apex_ml.platform.job_drop import JobDrop, check_drop, deliver, generated_drop, held_back_drop, named_drop
from apex_ml.platform.raw_data import has_generated_raw, raw_place, sample_raw
from apex_ml.platform.reports import job
from apex_ml.platform.reports.task_board import TaskBoard
from apex_ml.platform.served_model import former_model
from apex_ml.services.json_record import JsonRecord
from apex_ml.services.results import ValidateResult
from apex_ml.settings import Settings

STEPS_IN_RETRAIN = 6
MAIN_DAGS: tuple[DagKind, ...] = ("retrain", "score")
"""The DAGs that the main job switches on."""
INTERRUPTED = 130
PIPE_WIDTH = 120


@dataclass(frozen=True, kw_only=True)
class RetrainParameters(JsonRecord):
    """The parameters of a retraining; for None the DAG has the value."""

    raw: str | None = None
    without_newest_day: bool | None = None
    force: bool | None = None
    split: str | None = None
    trials: int | None = None


def run_main_job(settings: Settings, raw: str | None, drop: Path | None = None, invented: bool = False) -> int:
    """Bring the platform up, retrain, score a drop and report; return the exit code.

    ``raw`` is the folder of raw files of this and all later runs; without it the one in the settings, which
    is filled with sample data when it is empty. The drop is ``drop``, a file; without it generated rows when the raw
    data is generated or with ``invented``, else the newest day of the raw data, which is held back from training.
    Content that was scored before is not scored again. A retrain without new raw data is a success. A failed step
    prints its error and log; its exit code is returned, or 20 when it is not known. Ctrl-C leaves the platform up.

    Raises :class:`~apex_ml.errors.ConfigError` for a folder without raw files or a drop of another format, and
    :class:`~apex_ml.errors.TransientError` after a timeout.
    """
    began = time.monotonic()
    console = _console()
    if drop is not None and invented:
        raise ConfigError("--drop and --invented: give one of them")
    if drop is not None:
        check_drop(drop, load_pipeline(settings).contract.files)
    settings = _bring_up(settings, raw, console)
    invented = invented or (drop is None and has_generated_raw(settings))

    def work() -> None:
        if _train_and_score(settings, console, bool(raw), drop, invented):
            console.print(f"Done in {time.monotonic() - began:.1f} s. The platform stays up; `make down` stops it.")

    return _exit_code_of(work, settings, console)


def _train_and_score(settings: Settings, console: Console, has_raw: bool, drop: Path | None, invented: bool) -> bool:
    """Retrain, score a drop and report; return whether there is a champion that scored it."""
    pipeline = load_pipeline(settings)
    holds_back = drop is None and not invented
    parameters = RetrainParameters(
        raw=pipeline.locations.raw if has_raw else None, without_newest_day=True if holds_back else None
    )
    with AirflowApi(settings) as api:
        for kind in MAIN_DAGS:
            api.unpause(pipeline.dag_id(kind))
        run_id = _retrain(api, settings, console, pipeline, parameters)
        champion = job.champion(settings, pipeline)
        if champion is None:
            console.print(
                "There is no champion yet: the challenger was not promoted. Drops wait until there is one. "
                f"The reasons: select * from {pipeline.schema}.model_history",
                markup=False,
            )
            job.print_places(console, settings, job.newest_data_docs(settings, pipeline))
            return False
        chosen: JobDrop | None
        if invented:
            chosen = generated_drop(settings, pipeline)
        elif drop is not None:
            chosen = named_drop(drop)
        else:
            chosen = held_back_drop(settings, pipeline, console, _validated(api, pipeline, run_id))
        summary = None if chosen is None else _score_drop(api, settings, console, pipeline, chosen)
        _report(settings, console, pipeline, champion, summary)
    return True


def _validated(api: AirflowApi, pipeline: Pipeline, run_id: str) -> ValidateResult | None:
    """The result of the step validate in a run; None without one."""
    content = api.result(pipeline.dag_id("retrain"), run_id, ValidateResult.STEP)
    return None if content is None else ValidateResult.from_json(content)


def _bring_up(settings: Settings, raw: str | None, console: Console) -> Settings:
    """Remember the folder of raw data, fill an empty one, and bring the platform up meanwhile."""
    from apex_ml.platform.embedded.env_file import remember_option
    from apex_ml.platform.embedded.start import up

    refuse_contradiction(settings)
    if raw:
        pipeline = load_pipeline(settings)
        place = raw_place(raw, pipeline.contract.files)
        settings = remember_option(settings, pipeline.name, "locations", "raw", place)
        console.print(f"Raw data: {place}; remembered in {settings.env_file}, nightly runs use it too", markup=False)
    with sample_raw(settings, console):
        return up(settings)


def _report(
    settings: Settings, console: Console, pipeline: Pipeline, champion: job.Champion, summary: ViewRow | None
) -> None:
    job.print_champion(console, pipeline, champion)
    if summary is not None:
        job.print_drop(console, settings, pipeline, summary)
    job.print_places(console, settings, job.newest_data_docs(settings, pipeline))


def retrain(settings: Settings, *, force: bool = False, split: str | None = None, trials: int | None = None) -> int:
    """Retrain on the running platform and wait for it; return the exit code, that of a failed step.

    Raises :class:`~apex_ml.errors.TransientError` when Airflow is not up.
    """
    console = _console()
    pipeline = load_pipeline(settings)
    parameters = RetrainParameters(force=force or None, split=split, trials=trials)

    def work() -> None:
        with AirflowApi(settings, patience=5.0) as api:
            api.unpause(pipeline.dag_id("retrain"))
            _retrain(api, settings, console, pipeline, parameters)
        champion = job.champion(settings, pipeline)
        if champion is None:
            console.print("There is no champion yet.")
        else:
            job.print_champion(console, pipeline, champion)
            if (former := former_model(settings, pipeline, champion.version)) is not None:
                console.print(former, markup=False)

    return _exit_code_of(work, settings, console)


def _retrain(
    api: AirflowApi, settings: Settings, console: Console, pipeline: Pipeline, parameters: RetrainParameters
) -> str:
    """Trigger a retraining, show its progress and its outcome; return the run's id.

    Raises RunFailedError with the exit code of the failed step.
    """
    dag_id = pipeline.dag_id("retrain")
    run_id = api.trigger(dag_id, parameters.to_json())
    limit = pipeline.options.steps.timeout_minutes * 60.0 * STEPS_IN_RETRAIN
    run, tasks = follow_run(api, console, dag_id, run_id, limit)
    if run.state == "failed":
        raise RunFailedError(print_failures(api, settings, console, run, tasks))
    if reason := skip_reason(api, run, tasks):
        console.print(f"Not retrained: {reason}", markup=False)
        return run_id
    promotion = api.result(dag_id, run_id, "promote") or {}
    outcome = "promoted" if promotion.get("promoted") else "not promoted"
    reasons = "; ".join(str(reason) for reason in promotion.get("reasons", ()))
    console.print(f"Challenger {outcome}{': ' if reasons else ''}{reasons}", markup=False)
    return run_id


def _score_drop(api: AirflowApi, settings: Settings, console: Console, pipeline: Pipeline, drop: JobDrop) -> ViewRow:
    """Put a drop in the inbox and wait until it is scored; return its summary.

    Content that was scored before is not put there again. Raises RunFailedError for a drop that is not scored.
    """
    known = job.drop_summary(settings, pipeline, drop.sha256)
    if known is not None and known["state"] == "done":
        console.print(
            f"Drop: {drop.name}, {drop.description}: this content was scored already, as {known['name']} by version"
            f" {known['model_version']} at {known['finished_at']:%Y-%m-%d %H:%M} UTC; there is nothing new to score",
            markup=False,
        )
        return known
    return _deliver(api, settings, console, pipeline, drop, known)


def _deliver(
    api: AirflowApi, settings: Settings, console: Console, pipeline: Pipeline, drop: JobDrop, known: ViewRow | None
) -> ViewRow:
    """Put a drop in the inbox and follow the scoring until the ledger has more than the `known` summary of it."""
    dag_id = pipeline.dag_id("score")
    earlier_runs = {run.run_id for run in api.dag_runs(dag_id)}
    console.print(f"Drop: {drop.name}, {drop.description}; {dag_id} will notice it", markup=False)
    deliver(pipeline, drop)
    began = time.monotonic()
    limit = pipeline.options.steps.timeout_minutes * 60.0
    retries = RetryReporter(api, console)
    with TaskBoard(console, f"{dag_id}  {api.pages}/dags/{dag_id}") as board:
        while True:
            summary = job.drop_summary(settings, pipeline, drop.sha256)
            runs = [run for run in api.dag_runs(dag_id) if run.run_id not in earlier_runs or not run.finished]
            tasks = {run.run_id: api.task_runs(dag_id, run.run_id) for run in runs if run.started is not None}
            shown = next(iter(tasks.values()), [])
            board.show(shown, "" if shown else "waiting for the drop to be noticed")
            if summary is not None and summary["state"] == "done":
                console.print(f"Scored {time.monotonic() - began:.1f} s after it arrived in the inbox")
                return summary
            if summary is not None and summary != known:  # an unchanged summary belongs to an earlier delivery
                console.print(f"{drop.name} was rejected: {summary['reason']}", markup=False)
                raise RunFailedError(DataError.exit_code)
            for run in runs:
                retries.report(run, tasks.get(run.run_id, []))
            # an earlier run cannot have listed this drop: its failure concerns other drops
            new_runs = [run for run in runs if run.run_id not in earlier_runs]
            if failed := _failed_run(new_runs, tasks):
                raise RunFailedError(print_failures(api, settings, console, failed, tasks.get(failed.run_id, [])))
            if time.monotonic() - began > limit:
                raise TransientError(
                    f"{drop.name}: not scored after {limit / 60:.0f} minutes (steps.timeout_minutes); "
                    f"see {api.pages}/dags/{dag_id} and `make logs S=airflow-triggerer`"
                )
            time.sleep(POLL_SECONDS)


def _failed_run(runs: list[DagRun], tasks: dict[str, list[TaskRun]]) -> DagRun | None:
    """The first run that failed for another reason than bad drops."""
    failed = (run for run in runs if run.state == "failed" and not only_bad_drops(tasks.get(run.run_id, [])))
    return next(failed, None)


def _exit_code_of(work: Callable[[], None], settings: Settings, console: Console) -> int:
    """Do the work of a command; return 0, the exit code of a failed step, or 130 after Ctrl-C."""
    try:
        work()
    except RunFailedError as failed:
        return failed.exit_code
    except KeyboardInterrupt:
        console.print(
            f"\nStopped watching. The platform stays up and its runs continue: {settings.airflow_address};"
            " `make down` stops it.",
            markup=False,
        )
        return INTERRUPTED
    return 0


def _console() -> Console:
    # soft wrap keeps an address or a path in one piece
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)  # a pipe has no width: rich would fold tables at 80
    return console
