"""A date that a table holds in parts: columns with year, month and day."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from apex_ml.contract.expressions import column_reference
from apex_ml.core.table_profile.values import Kind

_SUFFIXES = {
    "year": ("year", "yyyy", "anio", "ano", "año"),
    "month": ("month", "mes"),
    "day": ("dayofthemonth", "dayofmonth", "day", "dom", "dia", "día"),
}
"""Ends of the names of parts, in small letters without other characters. The longest one counts."""
_NOT_OF_THE_ROW = re.compile("birth|born|nacimiento")
MONTH_NAMES = ("%B", "%b")
"""Formats of months that are written as words."""


@dataclass(frozen=True)
class DateParts:
    """Columns whose values together are a day. `month_format` is that of a month in words; None for a number."""

    name: str
    """A name for the day that no column has."""
    year: str
    month: str
    day: str
    month_format: str | None = None

    @property
    def columns(self) -> tuple[str, str, str]:
        """The three columns."""
        return self.year, self.month, self.day

    @property
    def expression(self) -> str:
        """The day as the expression of a derived column.

        >>> DateParts("date", "year", "month", "day").expression
        'make_date(year, month, day)'
        >>> DateParts("date", "Year", "month name", "day", "%B").expression
        'strptime(concat_ws(\\' \\', Year, "month name", day), \\'%Y %B %d\\')'
        """
        names = ", ".join(map(column_reference, self.columns))
        if self.month_format is None:
            return f"make_date({names})"
        return f"strptime(concat_ws(' ', {names}), '%Y {self.month_format} %d')"


def likely_date_parts(columns: Sequence[tuple[str, Kind]], without: Iterable[str | None] = ()) -> list[DateParts]:
    """Columns that may be the parts of a day, by their names and what they hold; the most likely ones first.

    Names are alike but for the part: ``year, month, day`` or ``dep_year, dep_month, dep_day``. The day of a birth is
    not that of a row. `without` are columns that are no parts.

    >>> columns = [("Year", "integer"), ("Month", "integer"), ("DayofMonth", "integer"), ("DayOfWeek", "integer")]
    >>> [parts.expression for parts in likely_date_parts(columns)]
    ['make_date(Year, Month, DayofMonth)']
    """
    excluded = set(without)
    by_prefix: dict[str, dict[str, tuple[str, Kind]]] = {}
    for name, kind in columns:
        if name in excluded or (part := _part_of(name)) is None:
            continue
        if kind == "integer" or (kind == "text" and part[1] == "month"):
            by_prefix.setdefault(part[0], {}).setdefault(part[1], (name, kind))
    taken = {name.lower() for name, _ in columns}
    likely: list[DateParts] = []
    for prefix, parts in sorted(by_prefix.items(), key=lambda item: item[0] != ""):
        if len(parts) < len(_SUFFIXES) or _NOT_OF_THE_ROW.search(prefix):
            continue
        year, (month, kind), day = parts["year"][0], parts["month"], parts["day"][0]
        name = _free_name(year, prefix, taken)
        formats = MONTH_NAMES if kind == "text" else (None,)
        likely += [DateParts(name, year, month, day, month_format) for month_format in formats]
    return likely


def _part_of(name: str) -> tuple[str, str] | None:
    """What stands before the part in a name, and the part."""
    folded = re.sub(r"[\W_]+", "", name.lower())
    ends = ((suffix, part) for part, suffixes in _SUFFIXES.items() for suffix in suffixes if folded.endswith(suffix))
    suffix, part = max(ends, key=lambda end: len(end[0]), default=("", ""))
    return (folded.removesuffix(suffix), part) if part else None


def _free_name(year: str, prefix: str, taken: Collection[str]) -> str:
    """A name for the day that no column has, nor begins with: ``date``, or that of the parts, as ``dep_date``."""
    before = re.sub(r"[\W_]+$", "", year[: _length(year, prefix)]) if prefix else ""
    stem = re.sub(r"(?i)[\W_]*date$", "", before)
    names = [f"{stem}_date".removeprefix("_"), f"{stem}_day".removeprefix("_")]
    for name in names:  # the features of a day are called by its name and its parts: dep_date_month
        if not any(other == name.lower() or other.startswith(f"{name.lower()}_") for other in taken):
            return name
    name = names[0]
    while name.lower() in taken:
        name = f"{name}_of_row"
    return name


def _length(name: str, folded: str) -> int:
    """The length of the beginning of a name that is some folded text."""
    return next(n for n in range(len(name) + 1) if re.sub(r"[\W_]+", "", name[:n].lower()) == folded)
