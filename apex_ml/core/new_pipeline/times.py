"""How a contract describes a column of dates or times: type, formats, time zone, and its values as levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import available_timezones

from apex_ml.contract.written_times import has_offset
from apex_ml.core.table_profile.values import ColumnProfile
from apex_ml.wording import counted

MAX_ODD = 0.005
"""Share of values that no contract accepts, up to which a column is used; its rows are quarantined."""


def as_time(column: ColumnProfile) -> dict[str, Any]:
    """Type, normal form and time zone of a column of dates or times: days unless there are times of day."""
    body: dict[str, Any] = {"type": "timestamp" if has_times_of_day(column) else "date"}
    steps = [*_date_formats(column)]
    if body["type"] == "timestamp" and column.times is not None and column.times.nanoseconds:
        steps.append("microsecond_of_timestamp")
    elif body["type"] == "date" and column.kind == "timestamp":
        steps.append("day_of_timestamp")
    if steps:
        body["normalise"] = steps
    # of days in a file with a zone, the file names it
    if (zone := _zone(column)) and (body["type"] == "timestamp" or column.formats):
        body["timezone"] = zone
    return body


def time_notes(column: ColumnProfile) -> list[str]:
    """What a person should know of how texts and nanoseconds are read."""
    with_offset = [has_offset(form) for form in column.formats]
    notes = ["its texts have an offset from UTC, so that they are instants"] if any(with_offset) else []
    if any(with_offset) and not all(with_offset):
        notes.append("texts without an offset are read on the clock of the timezone")
    if column.times is not None and column.times.unreadable:
        notes.append(f"{counted(column.times.unreadable, 'row')} with another text than a date will be quarantined")
    if (times := column.times) is not None and (times.far_first or times.far_last):
        ends = [f"{end:%Y-%m-%d}" for end, far in ((times.first, times.far_first), (times.last, times.far_last)) if far]
        notes.append(f"{' and '.join(ends)} is far from the other days: the range of its checks quarantines such rows")
    if has_times_of_day(column) and column.times is not None and column.times.nanoseconds:
        notes.append(f"nanoseconds of {column.times.nanoseconds:,} rows are left out")
    return notes


def has_times_of_day(column: ColumnProfile) -> bool:
    """Whether the values of a column are times, rather than days that some program has written as times."""
    times = column.times
    return column.kind == "timestamp" and times is not None and times.with_time > MAX_ODD * column.known


def _zone(column: ColumnProfile) -> str | None:
    """The time zone of a column of instants; None for times on a clock without a zone."""
    if column.formats:
        return "UTC" if any(map(has_offset, column.formats)) else None
    if "tz=" not in column.stored:
        return None
    name = column.stored.partition("tz=")[2].rstrip("]")
    return name if name in available_timezones() else "UTC"  # an offset has no name, and the instants are the same


def time_levels(values: Sequence[str], body: Mapping[str, Any]) -> list[date]:
    """Days, or times; instants in UTC, as the text of a level of an instant is."""
    moments = sorted({datetime.fromisoformat(value) for value in values})
    if body["type"] == "date":
        return sorted({moment.date() for moment in moments})
    if body.get("timezone") is None:
        return [*moments]
    return [moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC) for moment in moments]


def _date_formats(column: ColumnProfile) -> list[Any]:
    return [{"date_formats": list(column.formats)}] if column.formats else []
