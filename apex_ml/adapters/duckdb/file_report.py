"""The report about one checked file."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

from apex_ml.adapters.duckdb.part_places import PartPlaces
from apex_ml.contract.conditions import NOT_NULL
from apex_ml.contract.per_use import Use
from apex_ml.sql.quarantine import NULL
from apex_ml.text import visible

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileReport:
    """The result of the row checks of one file. Counts are rows; `quarantined` counts a row with two reasons once."""

    name: str
    rows: int
    accepted: int
    quarantined: int
    reasons: dict[str, int]
    warnings: dict[str, int]
    normalised: dict[str, int]
    filled: tuple[str, ...]
    added: tuple[str, ...]
    cast: tuple[tuple[str, str, str], ...]
    examples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By label of `reasons` or `warnings`, the most frequent values behind it, as text for people."""
    query: str = ""
    """SQL of the accepted rows, for the same connection, as long as the file exists and no other file is checked."""
    has_lines: bool = False
    """Whether the file is CSV: a row is named by its line, from 1, and not by its position."""
    places: PartPlaces | None = None
    """Of a folder, which rows are of which part."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a manifest."""
        return {name: value for name, value in asdict(self).items() if name not in ("query", "has_lines", "places")}

    def with_examples(self, label: str) -> str:
        """A label of `reasons` or `warnings` with a few of the values behind it."""
        examples = self.examples.get(label)
        if not examples:
            return label
        # a value that is not there can only be shown as a word, and such a rule is broken by no text of that word
        is_null = label.endswith(f": {NOT_NULL}")
        shown = [NULL if is_null and value == NULL else repr_visible(value) for value in examples]
        return f"{label} (found {', '.join(shown)})"


def repr_visible(value: str) -> str:
    """A value between quotes, for people."""
    return f"'{visible(value)}'"


def log_report(report: FileReport, use: Use) -> None:
    """Log one line for the file, one for each rule with a few values behind it, and one for different columns."""
    counts = (report.name, report.rows, report.accepted, report.quarantined)
    logger.info("file_checked file=%s rows=%s accepted=%s quarantined=%s", *counts)
    for rule, n in report.normalised.items():
        logger.info("rows_normalised file=%s rows=%s rule=%s", report.name, n, rule)
    for kind, rows_by_rule in (("warned", report.warnings), ("bad", report.reasons)):
        for rule, n in rows_by_rule.items():
            logger.warning("rows_%s file=%s rows=%s rule=%s", kind, report.name, n, report.with_examples(rule))
    if report.filled or report.added or report.cast:
        schema = (report.name, report.filled, report.added, report.cast)
        usual = use == "score" and not (report.added or report.cast)  # a row's outcome comes later
        level = logging.INFO if usual else logging.WARNING
        logger.log(level, "schema_differs file=%s filled=%s ignored=%s cast=%s", *schema)
