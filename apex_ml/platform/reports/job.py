"""The report at the end of the main job, read from Postgres as the reader."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from apex_ml.adapters.postgres.connection import reading
from apex_ml.adapters.postgres.views import ChampionMove, PostgresViews, ViewRow
from apex_ml.contract.pipeline import Pipeline, PipelineSettings
from apex_ml.services.results import ValidateResult
from apex_ml.services.run_folder import StepContext, recent_manifests
from apex_ml.settings import Settings
from apex_ml.text import visible


@dataclass(frozen=True)
class Champion:
    """The version in charge and how it did on the newest rows it was measured on."""

    version: int
    move: ChampionMove
    log_loss: float | None
    prior_log_loss: float | None
    holdout_rows: int | None


def champion(settings: Settings, pipeline: PipelineSettings) -> Champion | None:
    """Return the champion by the ledger of promotions, None when there is none yet."""
    with reading(settings, pipeline.schema) as session:
        views = PostgresViews(session, pipeline.model_name)
        move = views.champion()
        if move is None or move.version is None:
            return None
        losses = views.champion_losses(move.version)
    if losses is None:
        return Champion(move.version, move, None, None, None)
    return Champion(move.version, move, losses.log_loss, losses.prior_log_loss, losses.holdout_rows)


def drop_summary(settings: Settings, pipeline: PipelineSettings, sha256: str) -> ViewRow | None:
    """Return the ledger's row of a drop with the figures of its latest scoring, None while it is not in the ledger."""
    with reading(settings, pipeline.schema) as session:
        return PostgresViews(session, pipeline.model_name).drop(sha256)


def print_champion(console: Console, pipeline: PipelineSettings, version: Champion) -> None:
    """Print the champion's log loss beside that of the class prior."""
    table = _table("Champion", "model", "log loss", "class prior's", "measured on")
    rows = "" if version.holdout_rows is None else f"{version.holdout_rows:,} held-out rows"
    table.add_row(
        escape(f"{pipeline.model_name} version {version.version}"),
        _number(version.log_loss),
        _number(version.prior_log_loss),
        rows,
    )
    console.print(table)


def print_drop(console: Console, settings: Settings, pipeline: PipelineSettings, summary: ViewRow) -> None:
    """Print a scored drop: counts, confidence by class, latency."""
    table = _table("Drop", "file", "rows", "scored", "quarantined", "success", "model")
    table.add_row(
        escape(visible(str(summary["name"]))),
        _count(summary["rows_in"]),
        _count(summary["rows_scored"]),
        _count(summary["rows_quarantined"]),
        "" if summary["success_rate"] is None else f"{summary['success_rate']:.2%}",
        f"version {summary['model_version']}",
    )
    console.print(table)
    if summary["input_alert"]:
        console.print(f"[bold red]Alert:[/] {escape(summary['input_alert'])}", soft_wrap=True)
    if summary["input_warning"]:
        console.print(f"[bold yellow]Warning:[/] {escape(summary['input_warning'])}", soft_wrap=True)

    table = _table("Predictions", "class", "rows", "share", "mean confidence")
    with reading(settings, pipeline.schema) as session:
        classes = PostgresViews(session, pipeline.model_name).drop_classes(summary["drop_id"])
    for row in classes:
        table.add_row(
            escape(row["predicted"]), _count(row["rows"]), f"{row['share']:.1%}", _number(row["mean_confidence"])
        )
    table.add_section()
    table.add_row("all", _count(summary["rows_scored"]), "", _number(summary["confidence_mean"]))
    table.add_row("median", "", "", _number(summary["confidence_median"]))
    console.print(table)

    table = _table("Latency of a phase, ms", "check", "features", "predict", "write", "total")
    table.add_row(
        *(_number(summary[name], 0) for name in ("ms_check", "ms_features", "ms_predict", "ms_write", "ms_total"))
    )
    console.print(table)
    table = _table("Latency of a row, µs", "mean", "p50", "p95", "p99")
    table.add_row(*(_number(summary[name], 2) for name in ("row_us_mean", "row_us_p50", "row_us_p95", "row_us_p99")))
    console.print(table)


def print_places(console: Console, settings: Settings, data_docs: str | None) -> None:
    """Print where people go on from here. Passwords are named by their place, never shown."""
    contained = settings.runtime == "docker"
    places = {
        "Airflow": settings.airflow_address,
        "MLflow": settings.mlflow_address,
        "GX Data Docs": data_docs or "none yet",
        "SQL": "RUNTIME=docker make sql" if contained else "apex sql",
        "Passwords": (
            ".env (Airflow: admin, viewer; MLflow: admin; Postgres: the roles)"
            if contained
            else f"{settings.env_file} (Airflow: admin, viewer; Postgres: the roles)"
        ),
    }
    for name, place in places.items():
        console.print(f"{name:<14}{place}", markup=False, soft_wrap=True)  # an address must stay in one piece


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _number(value: float | None, decimals: int = 4) -> str:
    return "" if value is None or math.isnan(value) else f"{value:,.{decimals}f}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def newest_data_docs(settings: Settings, pipeline: Pipeline) -> str | None:
    """Address of the page about the batch that was checked last; None before the first one."""
    # not by the date that a batch looks from: it is a day earlier where the newest day was held back
    manifests = recent_manifests(StepContext(settings, pipeline, "report"), ValidateResult)
    newest = max(manifests, key=lambda manifest: manifest.finished_at, default=None)
    return None if newest is None else newest.result.data_docs_url
