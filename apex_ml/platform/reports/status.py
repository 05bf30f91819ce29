"""What `apex status` shows: services, what needs attention, then the model, the drops and the last runs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psutil
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apex_ml.adapters.postgres.alerts import BAD_DROP
from apex_ml.adapters.postgres.connection import DriverError, reading
from apex_ml.adapters.postgres.views import PostgresViews
from apex_ml.adapters.storage.drops import Inbox, printable
from apex_ml.errors import ApexError, ConfigError
from apex_ml.file_names import hidden, is_temporary
from apex_ml.platform.airflow_api import IMPATIENT, AirflowApi
from apex_ml.platform.airflow_state import RETRAIN, findings
from apex_ml.platform.embedded import health
from apex_ml.platform.embedded.supervision import AIRFLOW, MLFLOW, POSTGRES, SERVING, services
from apex_ml.platform.embedded.supervisor_client import State, Supervisor
from apex_ml.platform.job_drop import inbox
from apex_ml.platform.reports import job
from apex_ml.platform.reports.deadlines import late
from apex_ml.settings import Settings
from apex_ml.text import visible_lines

SHOWN = 5
MOST_ALERTS = 50
LONGEST_MESSAGE = 200
REMEDIES = {
    "quality": "apex champion; apex retrain --force, or apex rollback --reason TEXT",
    "unknown_values": "deliver the drop again corrected; apex retrain --force; or apex alerts close ID --reason TEXT",
    "retrain_late": "make train",
    "drop_late": "apex score",
    "score_late": "apex score",
    "unseen": "mend what the message names, then trigger apex_monitor",
}
"""What helps against an alert, by its kind."""


def show(settings: Settings, console: Console) -> bool:
    """Print everything; return whether all is well.

    It is when every service, DAG and pool is, no drop failed, nothing is late, and all of this could be found out.
    What a stopped service would know is one line each.
    """
    well = show_services(settings, console)
    for title, part in (
        ("Airflow", _airflow),
        ("alerts", _alerts),
        ("champion", _champion),
        ("drops waiting", _waiting),
        ("last retrain runs", _retrain_runs),
        ("last scoring runs", _scoring_runs),
        ("Data Docs", _data_docs),
        ("deadlines", _late),
    ):
        try:
            # None: what a part shows is no matter of health
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


def show_services(settings: Settings, console: Console) -> bool:
    """Print a table of the services; return whether all are well."""
    supervisor = Supervisor(settings)
    states = supervisor.states() if supervisor.running() else {}
    mine = services(settings)
    if not mine:
        return _show_elsewhere(settings, console)
    found = health.check(settings, [name for name in mine if states.get(name) and states[name].state == "RUNNING"])
    table = Table(header_style="dim", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("service", "state", "pid", "uptime", "health", "memory", "address"):
        table.add_column(name, overflow="fold", no_wrap=name not in ("health", "address"))
    addresses = {
        POSTGRES: f"{settings.host}:{settings.pg_port}",
        MLFLOW: settings.tracking_uri,
        AIRFLOW[0]: settings.airflow,
        SERVING: settings.serving_for_people,
    }
    total = 0
    well = True
    for name in mine:
        state = states.get(name)
        result = found.get(name, health.Health(False, "down"))
        memory = memory_of(state.pid) if state and state.pid else 0
        total += memory
        well &= bool(result.ok)
        table.add_row(
            name,
            state.state.lower() if state else "down",
            str(state.pid) if state and state.pid else "",
            _uptime(state),
            Text("ok" if result.ok else result.detail),
            f"{memory >> 20} MiB" if memory else "",
            addresses.get(name, ""),
        )
    if total:
        table.add_section()
        table.add_row("", "", "", "", "", f"{total >> 20} MiB", "")
    console.print(table)
    if not states:
        console.print("The platform is down: `make up` or `apex up` brings it up.", markup=False)
    return well


def _show_elsewhere(settings: Settings, console: Console) -> bool:
    """Print the health of services that others run; return whether all are well."""
    addresses = dict.fromkeys(AIRFLOW, settings.airflow_address) | {MLFLOW: settings.mlflow_address}
    if settings.serving:
        addresses[SERVING] = settings.serving_for_people
    found = health.check(settings, list(addresses))
    table = Table(header_style="dim", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("service", "health", "address"):
        table.add_column(name, overflow="fold")
    for name, address in addresses.items():
        table.add_row(name, Text("ok" if found[name].ok else found[name].detail), address)
    console.print(table)
    return all(result.ok for result in found.values())


def memory_of(pid: int) -> int:
    """Bytes that a process and its descendants use; pages they share count once, where the system can tell."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    for process in family:
        try:
            full = process.memory_full_info()
            total += getattr(full, "pss", full.rss)
        except psutil.Error:
            continue
    return total


def _uptime(state: State | None) -> str:
    if state is None or state.state != "RUNNING":
        return ""
    return str(timedelta(seconds=max(0, int(time.time() - state.since))))


def _airflow(settings: Settings, console: Console) -> bool:
    """Show the DAGs and pools that are not as they should be."""
    with AirflowApi(settings, **IMPATIENT) as api:
        found = findings(settings, api)
    if found:
        rows = [(finding.name, finding.problem, finding.remedy) for finding in found]
        _table(console, "Airflow", ("what", "problem", "remedy"), rows)
    return all(finding.well for finding in found)


def _alerts(settings: Settings, console: Console) -> bool:
    """Show failed drops and the other open alerts."""
    with reading(settings) as session:
        alerts = PostgresViews(session, settings.model_name).open_alerts()
    failed = [row for row in alerts if row["kind"] == BAD_DROP]
    others = [row for row in alerts if row["kind"] != BAD_DROP]
    folder = inbox(settings)
    if failed:
        rows = [
            (str(row["alert_id"]), row["subject"], _short(row["message"]), _time(row["raised_at"])) for row in failed
        ]
        _table(console, f"failed drops: {len(failed)}", ("alert", "drop", "reason", "since, UTC"), rows)
        console.print(
            f"remedy: put the repaired file into {folder} under its name, or apex alerts close ALERT --reason TEXT",
            markup=False,
            soft_wrap=True,
        )
    if others:
        page = f"look at {settings.airflow_address}/apex/"
        shown = [
            (
                str(row["alert_id"]),
                row["kind"],
                row["subject"],
                _short(row["message"]),
                _time(row["raised_at"]),
                REMEDIES.get(row["kind"], page),
            )
            for row in others
        ]
        _table(
            console,
            f"open alerts: {len(others)}",
            ("alert", "kind", "subject", "message", "since, UTC", "remedy"),
            shown,
        )
    return not failed


def _late(settings: Settings, console: Console) -> bool:
    behind = late(settings)
    for message in behind:
        console.print(f"late: {message}", markup=False, soft_wrap=True)
    return not behind


def _table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table; what they hold is text, whatever brackets are in it."""
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows[:MOST_ALERTS]:
        table.add_row(*(Text(visible_lines(cell)) for cell in row))
    console.print(table)
    if len(rows) > MOST_ALERTS:
        console.print(f"… and {len(rows) - MOST_ALERTS} more: apex sql -c 'TABLE open_alerts'", markup=False)


def _short(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]} …"


def _champion(settings: Settings, console: Console) -> None:
    found = job.champion(settings)
    if found is None:
        console.print("champion: none yet; `make train` trains one")
        return
    losses = (
        "not measured"
        if found.log_loss is None or found.prior_log_loss is None
        else f"log loss {found.log_loss:.4f} (class prior's {found.prior_log_loss:.4f})"
    )
    since = found.move.decided_at.astimezone(UTC).strftime("%F %T")
    console.print(
        f"champion: {settings.model_name} version {found.version}, since {since} UTC ({found.move.action}), {losses}",
        markup=False,
        soft_wrap=True,
    )


def _waiting(settings: Settings, console: Console) -> None:
    folder = inbox(settings)
    entries = os.listdir(folder) if folder.is_dir() else []
    names = sorted(printable(name) for name in entries if not hidden(name))
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    console.print(f"drops waiting: {len(names)}" + (f" ({shown})" if names else ""), markup=False, soft_wrap=True)
    found = Inbox(settings)
    unfinished = [reason for drop in (found.look() if names else ()) if (reason := found.unfinished(drop))]
    uploads = sorted(printable(name) for name in entries if is_temporary(name))
    lines = [*unfinished, *(f"{name}: left alone until the upload renames it" for name in uploads)]
    for line in lines[:SHOWN]:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    if more := len(lines) - len(lines[:SHOWN]):
        console.print(f"  … and {more} more")
    if names and job.champion(settings) is None:
        console.print("  they wait for the first champion: `make train` trains one, `make run` too", markup=False)


def _retrain_runs(settings: Settings, console: Console) -> None:
    with AirflowApi(settings, **IMPATIENT) as api:
        runs = api.dag_runs(RETRAIN, limit=SHOWN)
    _rows(
        console,
        "last retrain runs",
        [f"{_time(run.started)}  {run.state:<8} {_seconds(run.started, run.ended):>7}  {run.run_id}" for run in runs],
    )


def _scoring_runs(settings: Settings, console: Console) -> None:
    with reading(settings) as session:
        runs = PostgresViews(session, settings.model_name).latest_runs(SHOWN)
    _rows(
        console,
        "last scoring runs",
        [
            f"{_time(row['finished_at'])}  {row['name']}: {row['rows_scored']:,} scored, "
            f"{row['rows_quarantined']:,} quarantined, version {row['model_version']}, {row['ms_total'] / 1000:.1f} s"
            for row in runs
        ],
    )


def _data_docs(settings: Settings, console: Console) -> None:
    console.print(f"Data Docs: {job.newest_data_docs(settings) or 'none yet'}", markup=False, soft_wrap=True)


def _rows(console: Console, title: str, lines: list[str]) -> None:
    console.print(f"{title}:" + ("" if lines else " none yet"))
    for line in lines:
        console.print("  " + visible_lines(line), markup=False, soft_wrap=True)


def _time(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%F %T") if moment else "not started        "


def _seconds(started: datetime | None, ended: datetime | None) -> str:
    return f"{(ended - started).total_seconds():.0f} s" if started and ended else ""
