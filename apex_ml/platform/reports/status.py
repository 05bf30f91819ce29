"""What `apex status` shows: services, what needs attention, then the model, the drops and the last runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC
from functools import partial

from rich.console import Console

from apex_ml.adapters.postgres.champions import champions
from apex_ml.adapters.postgres.connection import DriverError, reading
from apex_ml.adapters.postgres.foreign_model import refuse_foreign_model
from apex_ml.adapters.postgres.views import PostgresViews
from apex_ml.adapters.storage.drops import Inbox
from apex_ml.adapters.storage.waiting import printable
from apex_ml.contract.pipeline import Pipeline
from apex_ml.errors import ApexError, ConfigError
from apex_ml.file_names import hidden, is_temporary
from apex_ml.pipeline_settings import pipeline_file, settings_by_pipeline
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.airflow_api import IMPATIENT, AirflowApi
from apex_ml.platform.airflow_runs import DagRun
from apex_ml.platform.follow import failure_reason, skip_reason
from apex_ml.platform.job_drop import inbox
from apex_ml.platform.reports import job
from apex_ml.platform.reports.attention import show_airflow, show_alerts, show_dags, show_late
from apex_ml.platform.reports.service_table import show_services
from apex_ml.platform.reports.times import duration_text, moment_text
from apex_ml.platform.served_model import former_model
from apex_ml.services.contract_plan import why_champion_cannot_score
from apex_ml.services.inboxes import open_inbox
from apex_ml.settings import Settings
from apex_ml.text import one_line, visible

SHOWN = 5


def show(settings: Settings, console: Console, only: str | None = None) -> bool:
    """Print the services, then a section for each pipeline or for `only` one; return whether all is well.

    All is well when every service, DAG and pool is, no champion is one that cannot score, the online service answers
    with each, no drop failed, nothing is late, and all of this could be checked.
    For each part that needs a stopped service there is one line. Raises :class:`~apex_ml.errors.ConfigError` when there
    is no pipeline of the name `only`.
    """
    if only:
        pipeline_file(settings)
    well = show_services(settings, console)
    well &= _show_part("Airflow", lambda: show_airflow(settings, console), console)
    well &= _show_part("pipelines", lambda: _show_pipelines(settings, console, only), console)
    if settings.runtime == "local":
        console.print(f"passwords: {settings.env_file} (Airflow: admin, viewer)", markup=False, soft_wrap=True)
    return well


def _show_part(title: str, show_part: Callable[[], bool | None], console: Console) -> bool:
    """Show a part of the report, or why it is not known; return whether it is healthy. None has no health."""
    try:
        return show_part() is not False
    except (ApexError, DriverError, OSError) as error:
        reason = str(error).strip()
        if not isinstance(error, ConfigError):  # of a service's own message the first line says enough
            reason = reason.splitlines()[0]
        console.print(f"{title}: unknown, {reason}", markup=False, soft_wrap=True)
        return False


def _show_pipelines(settings: Settings, console: Console, only: str | None) -> bool:
    """Print the section of each pipeline; return whether all are healthy."""
    well = True
    by_pipeline = settings_by_pipeline(settings)
    if not by_pipeline:
        pipeline_file(settings)  # the error that there is none
    by_pipeline = {name: own for name, own in by_pipeline.items() if only in (None, name)}
    for name, own in by_pipeline.items():
        if len(by_pipeline) > 1:
            console.print(f"\npipeline {name}", markup=False)
        well &= _show_part(f"pipeline {name}", partial(_show_pipeline, own, console), console)
    return well


def _show_pipeline(settings: Settings, console: Console) -> bool:
    """Print the parts about the pipeline of the settings; return whether all are healthy."""
    pipeline = load_pipeline(settings)
    if _lacks_tables(settings, pipeline):
        with champions(settings, pipeline.schema, pipeline.model_name) as ledger:
            refuse_foreign_model(ledger, pipeline.name, pipeline.model_name)
        console.print(f"{pipeline.name}: not set up yet: `apex up` makes its tables", markup=False, soft_wrap=True)
        return False
    parts: dict[str, Callable[[Settings, Pipeline, Console], bool | None]] = {
        "DAGs": show_dags,
        "alerts": show_alerts,
        "champion": _champion,
        "online service": _online,
        "drops waiting": _waiting,
        "last retrain runs": _retrain_runs,
        "last scoring runs": _scoring_runs,
        "Data Docs": _data_docs,
        "deadlines": show_late,
    }
    well = True
    for title, part in parts.items():
        well &= _show_part(title, partial(part, settings, pipeline, console), console)
    return well


def _lacks_tables(settings: Settings, pipeline: Pipeline) -> bool:
    """Whether Postgres answers and has no tables of the pipeline. When it does not answer, each part says so."""
    try:
        with reading(settings, pipeline.schema) as session:
            return not PostgresViews(session, pipeline.model_name).exist()
    except ApexError:
        return False


def _champion(settings: Settings, pipeline: Pipeline, console: Console) -> bool:
    current = job.champion(settings, pipeline)
    if current is None:
        console.print(f"champion: none yet; `{pipeline.command('retrain')}` trains one", markup=False)
        return True
    losses = (
        "not measured"
        if current.log_loss is None or current.prior_log_loss is None
        else f"log loss {current.log_loss:.4f} (class prior's {current.prior_log_loss:.4f})"
    )
    since = current.move.decided_at.astimezone(UTC).strftime("%F %T")
    console.print(
        f"champion: {pipeline.model_name} version {current.version}, since {since} UTC ({current.move.action}),"
        f" {losses}",
        markup=False,
        soft_wrap=True,
    )
    reasons = why_champion_cannot_score(settings, pipeline, current.version)
    if reasons:
        console.print(
            f"  version {current.version} cannot score by this contract: {'; '.join(map(one_line, reasons))};"
            f" drops wait: `{pipeline.command('retrain')}`",
            markup=False,
            soft_wrap=True,
        )
    return not reasons


def _online(settings: Settings, pipeline: Pipeline, console: Console) -> bool:
    current = job.champion(settings, pipeline)
    why = former_model(settings, pipeline, current.version) if current is not None else None
    if why is not None:
        console.print(why, markup=False, soft_wrap=True)
    return why is None


def _waiting(settings: Settings, pipeline: Pipeline, console: Console) -> bool:
    if not pipeline.has_inbox_folder:
        remote, folders = open_inbox(settings, pipeline).listed()
        _show_waiting(settings, pipeline, console, sorted(visible(drop.name) for drop in remote))
        for name, why in list(folders.items())[:SHOWN]:
            console.print(f"  {visible(name)} {one_line(why)}", markup=False, soft_wrap=True)
        return True
    folder = inbox(pipeline)
    if not folder.is_dir():
        if os.path.lexists(folder):
            console.print(
                f"inbox is no folder: {folder}; remove it, then `apex up` makes the folder",
                markup=False,
                soft_wrap=True,
            )
        else:
            console.print(f"inbox is missing: {folder}; `apex up` makes it", markup=False, soft_wrap=True)
        return False
    entries = os.listdir(folder)
    delivered = [name for name in entries if not hidden(name)]
    current = Inbox(pipeline)
    drops = current.look() if delivered else []
    _show_waiting(settings, pipeline, console, sorted(visible(printable(drop.name)) for drop in drops))
    unfinished = [reason for drop in drops if (reason := current.unfinished(drop))]
    uploads = sorted(visible(printable(name)) for name in entries if is_temporary(name))
    lines = [
        *unfinished,
        *(f"{visible(printable(name))} {why}" for name, why in (current.folders() if delivered else {}).items()),
        *(f"{name}: left alone until the upload renames it" for name in uploads),
    ]
    for line in lines[:SHOWN]:
        console.print(f"  {one_line(line)}", markup=False, soft_wrap=True)
    if more := len(lines) - len(lines[:SHOWN]):
        console.print(f"  … and {more} more")
    return True


def _show_waiting(settings: Settings, pipeline: Pipeline, console: Console, names: Sequence[str]) -> None:
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    console.print(f"drops waiting: {len(names)}" + (f" ({shown})" if names else ""), markup=False, soft_wrap=True)
    if names and job.champion(settings, pipeline) is None:
        console.print(f"  they wait for the first champion: `{pipeline.command('retrain')}` trains one", markup=False)


def _retrain_runs(settings: Settings, pipeline: Pipeline, console: Console) -> None:
    lines: list[str] = []
    with AirflowApi(settings, **IMPATIENT) as api:
        for run in api.dag_runs(pipeline.dag_id("retrain"), limit=SHOWN):
            state, reason = _outcome(api, run)
            duration = duration_text(run.started, run.ended)
            lines.append(f"{moment_text(run.started)}  {state:<8} {duration:>7}  {run.run_id}")
            lines += [f"  {reason}"] if reason else []
    _rows(console, "last retrain runs", lines)


def _outcome(api: AirflowApi, run: DagRun) -> tuple[str, str | None]:
    """The state of a retraining, and why it failed or was skipped."""
    if not run.finished:
        return run.state, None
    tasks = api.task_runs(run.dag_id, run.run_id)
    if run.state == "failed":
        return run.state, failure_reason(api, run, tasks)
    if reason := skip_reason(api, run, tasks):
        return "skipped", f"skipped: {reason}"
    return run.state, None


def _scoring_runs(settings: Settings, pipeline: Pipeline, console: Console) -> None:
    with reading(settings, pipeline.schema) as session:
        runs = PostgresViews(session, pipeline.model_name).latest_runs(SHOWN)
    _rows(
        console,
        "last scoring runs",
        [
            f"{moment_text(row['finished_at'])}  {row['name']}: {row['rows_scored']:,} scored, "
            f"{row['rows_quarantined']:,} quarantined, version {row['model_version']}, {row['ms_total'] / 1000:.1f} s"
            for row in runs
        ],
    )


def _data_docs(settings: Settings, pipeline: Pipeline, console: Console) -> None:
    console.print(f"Data Docs: {job.newest_data_docs(settings, pipeline) or 'none yet'}", markup=False, soft_wrap=True)


def _rows(console: Console, title: str, lines: list[str]) -> None:
    console.print(f"{title}:" + ("" if lines else " none yet"))
    for line in lines:
        console.print("  " + visible(line), markup=False, soft_wrap=True)
