"""Values of a request, read as those of a drop are: the same normal forms, the same rules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from apex_ml.contract.column_types import exact_decimal, number_text
from apex_ml.contract.columns import Column
from apex_ml.contract.conditions import NOT_NULL, IsNull, column_rules
from apex_ml.contract.normalisation import DateFormats, readable_format, text_steps
from apex_ml.contract.predicates import predicate
from apex_ml.contract.written_times import CUT_REMEDY, SKIPPED_REMEDY, TOO_FINE, read_time, skipped_rule
from apex_ml.wording import counted, did_you_mean

ISO_DATE = "%Y-%m-%d"
MAX_CELLS = 20_000


class Cell(NamedTuple):
    """A value as a drop's row would hold it, and the rule that it breaks, as an error or as a warning."""

    value: Any
    error: str | None = None
    warning: str | None = None


_PLAIN = frozenset((str, type(None)))


def _as_text(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else number_text(value)


def date_formats(column: Column) -> tuple[str, ...]:
    """The formats in which a date may be written, by strptime."""
    formats = [f for step in column.normalise if isinstance(step, DateFormats) for f in step.date_formats]
    return tuple(formats) or (ISO_DATE,)


def parse_day(column: Column, text: str) -> date | None:
    """A day by the first format that reads it, an instant on the clock of the column; None when none does."""
    moment = read_time(date_formats(column), text)
    if moment is not None and moment.tzinfo is not None:
        moment = _on_clock(moment, column.timezone or "UTC")
    return None if moment is None else moment.date()


def _on_clock(instant: datetime, zone: str) -> datetime | None:
    try:
        return instant.astimezone(ZoneInfo(zone))
    except OverflowError:  # at an end of the calendar
        return None


def written_time(column: Column) -> str:
    """How a request writes a timestamp, for people."""
    if any(isinstance(step, DateFormats) for step in column.normalise):
        return " or ".join(map(readable_format, date_formats(column)))
    if column.timezone is None:
        return "YYYY-MM-DDThh:mm:ss, without a time zone"
    return f"YYYY-MM-DDThh:mm:ss with an offset, as +02:00 or Z, or without one on the clock of {column.timezone}"


_ISO_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:[.]\d+)?)?(Z|[+-]\d\d:\d\d)?)?")


class TimeReader:
    """Reads texts as times of a timestamp column, by `date_formats` or ISO 8601, and says why one is none.

    With a zone of the column a time is an instant. One that its clock skips is none, and one that it shows twice is the
    later one.
    """

    def __init__(self, column: Column) -> None:
        self._formats = tuple(
            f for step in column.normalise if isinstance(step, DateFormats) for f in step.date_formats
        )
        self._is_cut = "microsecond_of_timestamp" in column.normalise
        self._zone = column.timezone

    def __call__(self, text: str) -> datetime | None:
        """The time; None where the text is none."""
        moment = self._read(text, cut=self._is_cut)
        return None if moment is None else self._settled(moment)

    def rule(self, text: str) -> str:
        """The rule that a text breaks which is no time."""
        moment = self._read(text, cut=self._is_cut)
        if moment is None and self._read(text, cut=True) is not None:
            return TOO_FINE
        if moment is not None and moment.tzinfo is None and self._zone is not None and self._settled(moment) is None:
            return skipped_rule(self._zone)
        return "type: not timestamp"

    def _read(self, text: str, *, cut: bool) -> datetime | None:
        if self._formats:
            return read_time(self._formats, text, cut=cut)
        text = text.strip(" ")
        if not (text.isascii() and (match := _ISO_TIME.fullmatch(text))):
            return None
        day, minute, seconds, offset = match.groups("")
        if not cut and seconds[10:].strip("0"):
            return None
        try:
            return datetime.fromisoformat(f"{day}T{minute or '00:00'}{seconds[:10]}{offset}")
        except ValueError:
            return None

    def _settled(self, moment: datetime) -> datetime | None:
        """The value of the column: an instant in UTC when it has a zone."""
        if self._zone is None:
            return moment if moment.tzinfo is None else None
        if moment.tzinfo is not None:
            return _on_clock(moment, "UTC")
        zone = ZoneInfo(self._zone)
        instant = _on_clock(moment.replace(tzinfo=zone, fold=1), "UTC")
        shown = None if instant is None else _on_clock(instant, self._zone)
        return instant if shown is not None and shown.replace(tzinfo=None) == moment else None


def parse_decimal(column: Column, value: float | str) -> Decimal | None:
    """A number with the decimals of the column; None when it has more of them, or is no number."""
    if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]+([.][0-9]*)?", value.strip(" ")):
        return None
    try:
        return exact_decimal(Decimal(value.strip(" ") if isinstance(value, str) else repr(value)), column.decimals or 0)
    except InvalidOperation:
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
        self._parse = self._parser()
        self._nullable = column.nullable.score
        rules = [rule for rule in column_rules(column, "score") if not isinstance(rule.broken, IsNull)]
        self._rules = [(predicate(rule.broken), rule.severity, rule.text) for rule in rules]
        self.noted: dict[Any, Cell] = {}
        # repeated values are read once; values of entities are too many to cache
        self._known = None if column.role == "entity" else _Known(self)

    def _parser(self) -> TimeReader | Callable[[Any], Any] | None:
        """Reads a value of JSON as one of the column's type; None when it is one already."""
        if self._column.type == "date":
            return partial(parse_day, self._column)
        if self._column.type == "timestamp":
            return TimeReader(self._column)
        return partial(parse_decimal, self._column) if self._column.type == "decimal" else None

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
            return value is None or self._column.type in ("string", "date", "timestamp", "decimal")
        if self._column.type == "string":
            return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if self._column.type in ("date", "timestamp", "boolean"):
            return self._column.type == "boolean" and isinstance(value, bool)
        kinds = (int,) if self._column.type == "int64" else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)

    def read(self, value: Any) -> Cell:
        """Read one value."""
        if value is not None:
            if self._column.type == "string":
                value = value if isinstance(value, str) else number_text(value)
                for step in self._steps:
                    if (value := step(value)) is None:
                        break
            elif (parse := self._parse) is not None:
                written, value = value, parse(value)
                if value is None:
                    return Cell(
                        None, parse.rule(written) if isinstance(parse, TimeReader) else f"type: not {self._column.type}"
                    )
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
        return self._time_remedy(rule) if column.type in ("date", "timestamp") else self._type_remedy()

    def _time_remedy(self, rule: str) -> str:
        column = self._column
        if rule == TOO_FINE:
            return f"write at most six digits of a second, or {CUT_REMEDY}"
        if column.timezone is not None and rule == skipped_rule(column.timezone):
            return SKIPPED_REMEDY
        written = " or ".join(map(readable_format, date_formats(column)))
        return f"write it as {written if column.type == 'date' else written_time(column)}, in quotes"

    def _type_remedy(self) -> str:
        column = self._column
        if column.type == "boolean":
            return "write true or false, without quotes"
        if column.type == "decimal":
            return f"write a number with at most {counted(column.decimals or 0, 'decimal')}"
        if column.type == "string":
            return "write it in quotes"
        if column.type == "double":
            return "write a finite number, without quotes"
        return "write a whole number of 64 bits, without quotes"
