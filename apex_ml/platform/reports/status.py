"""What `apex status` shows: services, what needs attention, then the model, the drops and the last runs."""

from __future__ import annotations

import os
from datetime import UTC

from rich.console import Console

from apex_ml.adapters.postgres.connection import DriverError, reading
from apex_ml.adapters.postgres.views import PostgresViews
from apex_ml.adapters.storage.drops import Inbox, printable
from apex_ml.errors import ApexError, ConfigError
from apex_ml.file_names import hidden, is_temporary
from apex_ml.pipeline_schema import SCHEMA
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.airflow_api import IMPATIENT, AirflowApi
from apex_ml.platform.airflow_runs import DagRun
from apex_ml.platform.airflow_state import RETRAIN
from apex_ml.platform.follow import failure_reason, skip_reason
from apex_ml.platform.job_drop import inbox
from apex_ml.platform.reports import job
from apex_ml.platform.reports.attention import show_airflow, show_alerts, show_late
from apex_ml.platform.reports.service_table import show_services
from apex_ml.platform.reports.times import duration_text, moment_text
from apex_ml.settings import Settings
from apex_ml.text import one_line, visible

SHOWN = 5


def show(settings: Settings, console: Console) -> bool:
    """Print everything; return whether all is well.

    All is well when every service, DAG and pool is, no drop failed, nothing is late, and all of this could be checked.
    For each part that needs a stopped service there is one line.
    """
    well = show_services(settings, console)
    for title, part in (
        ("Airflow", show_airflow),
        ("alerts", show_alerts),
        ("champion", _champion),
        ("drops waiting", _waiting),
        ("last retrain runs", _retrain_runs),
        ("last scoring runs", _scoring_runs),
        ("Data Docs", _data_docs),
        ("deadlines", show_late),
    ):
        try:
            # a part that returns None has no health
            well &= part(settings, console) is not False
        except (ApexError, DriverError, OSError) as error:
            well = False
            reason = str(error).strip()
            if not isinstance(error, ConfigError):  # of a service's own message the first line says enough
                reason = reason.splitlines()[0]
            console.print(f"{title}: unknown, {reason}", markup=False, soft_wrap=True)
    if settings.runtime == "local":
        console.print(f"passwords: {settings.env_file} (Airflow: admin, viewer)", markup=False, soft_wrap=True)
    return well


def _champion(settings: Settings, console: Console) -> None:
    current = job.champion(settings)
    if current is None:
        console.print("champion: none yet; `make train` trains one")
        return
    losses = (
        "not measured"
        if current.log_loss is None or current.prior_log_loss is None
        else f"log loss {current.log_loss:.4f} (class prior's {current.prior_log_loss:.4f})"
    )
    name = load_pipeline(settings).model_name
    since = current.move.decided_at.astimezone(UTC).strftime("%F %T")
    console.print(
        f"champion: {name} version {current.version}, since {since} UTC ({current.move.action}), {losses}",
        markup=False,
        soft_wrap=True,
    )


def _waiting(settings: Settings, console: Console) -> bool:
    folder = inbox(settings)
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
    folders = sorted(visible(printable(name)) for name in delivered if os.path.isdir(folder / name))
    names = sorted(visible(printable(name)) for name in delivered if not os.path.isdir(folder / name))
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    console.print(f"drops waiting: {len(names)}" + (f" ({shown})" if names else ""), markup=False, soft_wrap=True)
    current = Inbox(load_pipeline(settings))
    unfinished = [reason for drop in (current.look() if names else ()) if (reason := current.unfinished(drop))]
    uploads = sorted(visible(printable(name)) for name in entries if is_temporary(name))
    lines = [
        *unfinished,
        *(f"{name} is a folder; deliver a single parquet file" for name in folders),
        *(f"{name}: left alone until the upload renames it" for name in uploads),
    ]
    for line in lines[:SHOWN]:
        console.print(f"  {one_line(line)}", markup=False, soft_wrap=True)
    if more := len(lines) - len(lines[:SHOWN]):
        console.print(f"  … and {more} more")
    if names and job.champion(settings) is None:
        console.print("  they wait for the first champion: `make train` trains one, `make run` too", markup=False)
    return True


def _retrain_runs(settings: Settings, console: Console) -> None:
    lines: list[str] = []
    with AirflowApi(settings, **IMPATIENT) as api:
        for run in api.dag_runs(RETRAIN, limit=SHOWN):
            state, reason = _outcome(api, run)
            duration = duration_text(run.started, run.ended)
            lines.append(f"{moment_text(run.started)}  {state:<8} {duration:>7}  {run.run_id}")
            lines += [f"  {reason}"] if reason else []
    _rows(console, "last retrain runs", lines)


def _outcome(api: AirflowApi, run: DagRun) -> tuple[str, str | None]:
    """The state of a run of orders_retrain, and why it failed or was skipped."""
    if not run.finished:
        return run.state, None
    tasks = api.task_runs(run.dag_id, run.run_id)
    if run.state == "failed":
        return run.state, failure_reason(api, run, tasks)
    if reason := skip_reason(api, run, tasks):
        return "skipped", f"skipped: {reason}"
    return run.state, None


def _scoring_runs(settings: Settings, console: Console) -> None:
    with reading(settings, SCHEMA) as session:
        runs = PostgresViews(session, load_pipeline(settings).model_name).latest_runs(SHOWN)
    _rows(
        console,
        "last scoring runs",
        [
            f"{moment_text(row['finished_at'])}  {row['name']}: {row['rows_scored']:,} scored, "
            f"{row['rows_quarantined']:,} quarantined, version {row['model_version']}, {row['ms_total'] / 1000:.1f} s"
            for row in runs
        ],
    )


def _data_docs(settings: Settings, console: Console) -> None:
    console.print(f"Data Docs: {job.newest_data_docs(settings) or 'none yet'}", markup=False, soft_wrap=True)


def _rows(console: Console, title: str, lines: list[str]) -> None:
    console.print(f"{title}:" + ("" if lines else " none yet"))
    for line in lines:
        console.print("  " + visible(line), markup=False, soft_wrap=True)
