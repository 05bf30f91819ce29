"""What needs attention, as `apex status` shows it: DAGs and pools, failed drops, open alerts, deadlines."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apex_ml.adapters.postgres.alerts import BAD_DROP
from apex_ml.adapters.postgres.connection import reading
from apex_ml.adapters.postgres.views import PostgresViews
from apex_ml.contract.pipeline import Pipeline
from apex_ml.platform.airflow_api import IMPATIENT, AirflowApi
from apex_ml.platform.airflow_state import AirflowState, Finding, pipeline_findings, platform_findings
from apex_ml.platform.job_drop import inbox
from apex_ml.platform.reports.deadlines import late
from apex_ml.platform.reports.times import moment_text
from apex_ml.services.inboxes import open_inbox
from apex_ml.settings import Settings
from apex_ml.text import one_line, shortened_line, visible

MAX_ROWS = 50
MAX_MESSAGE = 200
REMEDIES = {
    "quality": "{apex} champion; {apex} retrain --force, or {apex} rollback --reason TEXT",
    "unknown_values": "deliver the drop again corrected; {apex} retrain --force; or {apex} alerts close ID"
    " --reason TEXT",
    "cannot_score": "{apex} retrain",
    "retrain_late": "{apex} retrain",
    "drop_late": "{apex} score",
    "score_late": "{apex} score",
    "table_changed": "append the rows that are to be scored; {apex} alerts close ID --reason TEXT",
    "unseen": "repair what the message names, then trigger {pipeline}_monitor",
}
"""The remedy of an alert, by its kind: ``{apex}`` stands for the command with the pipeline."""


def show_airflow(settings: Settings, console: Console) -> bool:
    """Show the pools that are missing or changed, and the DAG files that do not parse."""
    with AirflowApi(settings, **IMPATIENT) as api:
        return _show_findings(console, platform_findings(settings, AirflowState.read(api)))


def show_dags(settings: Settings, pipeline: Pipeline, console: Console) -> bool:
    """Show the DAGs of a pipeline that are missing or paused."""
    with AirflowApi(settings, **IMPATIENT) as api:
        return _show_findings(console, pipeline_findings(settings, api, AirflowState.read(api), pipeline))


def _show_findings(console: Console, results: Sequence[Finding]) -> bool:
    if results:
        rows = [(finding.name, finding.problem, finding.remedy) for finding in results]
        _table(console, "Airflow", ("what", "problem", "remedy"), rows)
    return all(finding.well for finding in results)


def show_alerts(settings: Settings, pipeline: Pipeline, console: Console) -> bool:
    """Show failed drops and the other open alerts."""
    with reading(settings, pipeline.schema) as session:
        alerts = PostgresViews(session, pipeline.model_name).open_alerts()
    failed = [row for row in alerts if row["kind"] == BAD_DROP]
    others = [row for row in alerts if row["kind"] != BAD_DROP]
    folder = inbox(pipeline) if pipeline.has_inbox_folder else open_inbox(settings, pipeline).inbox
    repair = f"put the repaired file into {folder} under its name"
    if pipeline.drops_are_appends:
        repair = f"append the repaired rows to {folder}"
    every_alert = pipeline.command("sql -c 'TABLE open_alerts'")
    if failed:
        rows = [
            (str(row["alert_id"]), row["subject"], _short(console, row["message"]), moment_text(row["raised_at"]))
            for row in failed
        ]
        _table(console, f"failed drops: {len(failed)}", ("alert", "drop", "reason", "since, UTC"), rows, every_alert)
        console.print(
            f"remedy: {repair}, or {pipeline.command('alerts close ALERT --reason TEXT')}",
            markup=False,
            soft_wrap=True,
        )
    if others:
        page = f"look at {settings.airflow_address}/apex/{pipeline.name}"
        shown = [
            (
                str(row["alert_id"]),
                row["kind"],
                row["subject"],
                _short(console, row["message"]),
                moment_text(row["raised_at"]),
                REMEDIES.get(row["kind"], page).format(apex=pipeline.command(), pipeline=pipeline.name),
            )
            for row in others
        ]
        _table(
            console,
            f"open alerts: {len(others)}",
            ("alert", "kind", "subject", "message", "since, UTC", "remedy"),
            shown,
            every_alert,
        )
    return not failed


def show_late(settings: Settings, pipeline: Pipeline, console: Console) -> bool:
    """Show the deadlines that passed; return whether there is none."""
    behind = late(settings, pipeline)
    for message in behind:
        console.print(f"late: {message}", markup=False, soft_wrap=True)
    return not behind


def _table(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], all_of_them: str = ""
) -> None:
    """Print rows as a table of plain text, without rich's markup; beyond MAX_ROWS, the command that shows all."""
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows[:MAX_ROWS]:
        table.add_row(*(Text(visible(cell)) for cell in row))
    console.print(table)
    if len(rows) > MAX_ROWS:
        remedy = f": {all_of_them}" if all_of_them else ""
        console.print(f"… and {len(rows) - MAX_ROWS} more{remedy}", markup=False)


def _short(console: Console, message: str) -> str:
    """A message as one line; short at a terminal, and whole for a file or another program."""
    line = one_line(message)
    return shortened_line(line, MAX_MESSAGE) if console.is_terminal else line
