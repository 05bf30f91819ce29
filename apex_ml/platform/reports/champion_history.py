"""The ledger of the champion for people: who changed it, when, why and on what evidence."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.postgres.connection import reading
from apex_ml.adapters.postgres.foreign_model import ForeignModelError
from apex_ml.adapters.postgres.views import PostgresViews, ViewRow
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.core.recorded_evidence import under_both_names
from apex_ml.errors import ApexError
from apex_ml.json_text import json_text
from apex_ml.platform.reports.job import champion
from apex_ml.services import champion_ledger
from apex_ml.settings import Settings


def heal(settings: Settings, pipeline: PipelineSettings) -> str:
    """Complete the move of a killed process, and adopt a manually moved alias; return why that was not possible, or ''.

    The challenger's alias follows the ledger, which can be read without MLflow. Then the ledger can be behind the
    champion's alias, and the report says so. Raises
    :class:`~apex_ml.adapters.postgres.foreign_model.ForeignModelError` when the model is that of another pipeline.
    """
    try:
        registry = Registry(settings, pipeline.model_name)
        champion_ledger.resolve(settings, pipeline.schema, registry)
        champion_ledger.align_challenger(settings, pipeline.schema, registry)
    except ForeignModelError:  # there is no history to show either
        raise
    except ApexError as error:
        return f"the alias could not be compared with the ledger: {error}"
    return ""


def history(settings: Settings, pipeline: PipelineSettings, lines: int, *, moves_only: bool = False) -> list[ViewRow]:
    """The last decisions about the champion, the newest first."""
    with reading(settings, pipeline.schema) as session:
        return PostgresViews(session, pipeline.model_name).history(lines, moves_only=moves_only)


def as_json(settings: Settings, pipeline: PipelineSettings, rows: list[ViewRow]) -> str:
    """The same as one JSON object with the keys model, champion (a version or null) and history."""
    current = champion(settings, pipeline)
    content = {
        "model": pipeline.model_name,
        "champion": current.version if current else None,
        "history": rows,
    }
    return json_text(content, indent=1, default=lambda value: value.isoformat())


def show(settings: Settings, pipeline: PipelineSettings, rows: list[ViewRow]) -> None:
    """Print the champion and a table of the history."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a pipe has no width: rich would fold at 80
    current = champion(settings, pipeline)
    text = f"version {current.version}" if current else f"none yet; `{pipeline.command('retrain')}` trains one"
    console.print(f"champion: {pipeline.model_name} {text}", markup=False, soft_wrap=True)
    if not rows:
        return
    table = Table(header_style="dim", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("when (UTC)", "who", "action", "version"):
        table.add_column(name, no_wrap=name != "who", overflow="fold")
    table.add_column("why", overflow="fold", ratio=3)
    table.add_column("evidence", overflow="fold", ratio=2)
    for row in rows:
        state = "" if row["state"] == "done" else f" ({row['state']})"
        cells = [
            f"{row['decided_at'].astimezone(UTC):%F %T}",
            row["who"],
            row["action"] + state,
            f"{row['from_version'] or 'none'} → {row['to_version'] or 'none'}",
            "; ".join(row["reasons"]),
            evidence_summary(row["evidence"], pipeline.rows),
        ]
        table.add_row(*(cell.replace("[", r"\[") for cell in cells))
    console.print(table)


def evidence_summary(recorded: dict[str, Any], noun: str) -> str:
    """The evidence in one line: log losses, the gain with its lower bound, and on how many rows, which have a noun.

    >>> evidence_summary({"challenger_log_loss": 0.98, "champion_log_loss": 0.99, "gain": 0.01, "gain_low": 0.004,
    ...                   "prior_log_loss": 1.03, "holdout_rows": 29882}, "claims")
    'log loss 0.9800, champion 0.9900, prior 1.0300; gain +0.0100, at least +0.0040; 29,882 claims'
    >>> evidence_summary({}, "rows")
    ''
    """

    evidence = under_both_names(recorded)

    def number(key: str) -> float | None:
        value = evidence.get(key)
        return float(value) if isinstance(value, int | float) else None

    losses = [
        f"{label} {value:.4f}"
        for label, key in (
            ("log loss", "challenger_log_loss"),
            ("champion", "champion_log_loss"),
            ("prior", "prior_log_loss"),
        )
        if (value := number(key)) is not None
    ]
    gain = [
        f"{label} {value:+.4f}"
        for label, key in (("gain", "gain"), ("at least", "gain_low"))
        if (value := number(key)) is not None
    ]
    rows = number("holdout_rows")
    parts = [", ".join(losses), ", ".join(gain), "" if rows is None else f"{rows:,.0f} {noun}"]
    return "; ".join(part for part in parts if part)
