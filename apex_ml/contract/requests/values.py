"""Values of a request, read as those of a drop are: the same normal forms, the same rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from apex_ml.contract.columns import Column
from apex_ml.contract.conditions import NOT_NULL, IsNull, column_rules
from apex_ml.contract.normalisation import DateFormats, readable_format, text_steps
from apex_ml.contract.predicates import predicate
from apex_ml.wording import did_you_mean

ISO_DATE = "%Y-%m-%d"
MAX_CELLS = 20_000
MAX_WHOLE_NUMBER = 2**127
"""From here on the text of a whole float is its shortest digits and zeros, as the files' engine has no such integer."""


class Cell(NamedTuple):
    """A value as a drop's row would hold it, and the rule that it breaks, as an error or as a warning."""

    value: Any
    error: str | None = None
    warning: str | None = None


def number_text(value: float | Decimal) -> str:
    """A number, or a truth value, as the text that :func:`apex_ml.sql.file_types.number_text` gives it in a file.

    >>> [number_text(v) for v in (240, 240.0, -0.0, 0.5, 1e-07, 1e20, True, Decimal("240.00"))]
    ['240', '240', '0', '0.5', '0.0000001', '100000000000000000000', 'true', '240']
    """
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if value.is_integer() and abs(value) < MAX_WHOLE_NUMBER:
        return str(int(value))
    return format(Decimal(repr(value)), "f").removesuffix(".0")


_PLAIN = frozenset((str, type(None)))


def _as_text(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else number_text(value)


def date_formats(column: Column) -> tuple[str, ...]:
    """The formats in which a date may be written, by strptime."""
    formats = [f for step in column.normalise if isinstance(step, DateFormats) for f in step.date_formats]
    return tuple(formats) or (ISO_DATE,)


def parse_day(formats: Sequence[str], text: str) -> date | None:
    """A day by the first format that reads it; None when none does."""
    text = text.strip(" ")
    if text.isascii():
        for form in formats:
            try:
                return datetime.strptime(text, form).date()
            except ValueError:
                continue
    return None


class _Known(dict[Any, Any]):
    """Values by how they were written, read when they are first asked for."""

    def __init__(self, reader: ValueReader) -> None:
        self._reader = reader

    def __missing__(self, written: Any) -> Any:
        cell = self._reader.read(written)
        if len(self) + len(self._reader.noted) > MAX_CELLS:
            self.clear()
        if cell.error is not None or cell.warning is not None:
            self._reader.noted[written] = cell
        else:
            self[written] = cell.value
        return cell.value


class ValueReader:
    """Reads the values of one column. `noted` has those that break a rule, by how they were written."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._steps = tuple(text_steps(column.normalise))
        self._formats = date_formats(column)
        self._nullable = column.nullable.score
        rules = [rule for rule in column_rules(column, "score") if not isinstance(rule.broken, IsNull)]
        self._rules = [(predicate(rule.broken), rule.severity, rule.text) for rule in rules]
        self.noted: dict[Any, Cell] = {}
        # repeated values are read once; values of entities are too many to cache
        self._known = None if column.role == "entity" else _Known(self)

    def values(self, written: Sequence[Any]) -> tuple[list[Any], list[tuple[int, Cell]]]:
        """Read every value; also the places of those that break a rule, with what they break."""
        if self._column.type == "string" and not _PLAIN.issuperset(map(type, written)):
            written = list(map(_as_text, written))
        if self._known is None:
            cells = list(map(self.read, written))
            return [cell[0] for cell in cells], [(n, c) for n, c in enumerate(cells) if c[1] or c[2]]
        if len(self.noted) > MAX_CELLS:
            self.noted.clear()
        values = list(map(self._known.__getitem__, written))
        if self.noted.keys().isdisjoint(written):
            return values, []
        return values, [(n, self.noted[value]) for n, value in enumerate(written) if value in self.noted]

    def takes(self, value: Any) -> bool:
        """Whether a value of JSON is of a kind that can be read."""
        if value is None or isinstance(value, str):
            return value is None or self._column.type in ("string", "date")
        if self._column.type == "string":
            return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if self._column.type == "date":
            return False
        kinds = (int, float) if self._column.type == "double" else (int,)
        return isinstance(value, kinds) and not isinstance(value, bool)

    def read(self, value: Any) -> Cell:
        """Read one value."""
        if value is not None:
            if self._column.type == "string":
                value = value if isinstance(value, str) else number_text(value)
                for step in self._steps:
                    if (value := step(value)) is None:
                        break
            elif self._column.type == "date":
                if (day := parse_day(self._formats, value)) is None:
                    return Cell(None, "type: not date")
                value = day
        if value is None:
            return Cell(None) if self._nullable else Cell(None, NOT_NULL)
        errors: list[str] = []
        warnings: list[str] = []
        for is_broken, severity, text in self._rules:
            if is_broken(value):
                (errors if severity == "error" else warnings).append(text)
        return Cell(value, "; ".join(errors) or None, "; ".join(warnings) or None)

    def remedy(self, rule: str, value: Any) -> str:
        """What to do about a rule that a value breaks."""
        column = self._column
        if rule == NOT_NULL:
            return "send a value"
        if isinstance(value, float) and math.isnan(value) and (self._nullable or not column.required.score):
            return "send null"
        if rule.startswith("domain") and column.domain is not None:
            hint = did_you_mean(value, column.domain.levels) if isinstance(value, str) else ""
            return f"send one of its levels{hint}"
        if rule.startswith("pattern"):
            return "send a value that matches the pattern as a whole"
        if rule.startswith("range"):
            return "send a value in this range"
        if column.type == "date":
            return f"write it as {' or '.join(map(readable_format, self._formats))}, in quotes"
        if column.type == "string":
            return "write it in quotes"
        if column.type == "double":
            return "write a finite number, without quotes"
        return "write a whole number of 64 bits, without quotes"
