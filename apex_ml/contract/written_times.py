"""Times written as text, by formats of strptime: read in the same way from files and from requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

OFFSET = r"([Zz]|([+-])(0[0-9]|1[0-5])(:?([0-5][0-9]))?)$"
"""An offset from UTC at the end of a text: Z, +02:00, +0200 or +02, up to 15 hours. For Python and for DuckDB."""
FRACTION = r"([.,][0-9]{6})"
"""The part of a fraction of a second that a timestamp holds."""
TOO_FINE = "type: not timestamp without loss; it has nanoseconds"
"""The rule that a time breaks of which a timestamp, with its microseconds, cannot hold all digits."""
CUT_REMEDY = "add microsecond_of_timestamp to its normalise in the contract"
SKIPPED_REMEDY = "correct it, or write it with its offset from UTC"
UTC_NAMES = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "UCT", "Etc/UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal")
"""IANA zones whose clock shows UTC all year."""
_OFFSET = re.compile(OFFSET.removesuffix("$") + r"\Z")
_LITERAL_OFFSET = re.compile(r"(?:%[YymdjHMSfbBaAIp]\s*)((?:UTC|GMT)?[+-]\d\d:?\d\d|(?<=[HMSfp])\s*[+-]\d\d)$")
_LITERAL_UTC = re.compile(r"(?<=%[HMSfp])\s*(Z|UTC|GMT|[+-]00:?(?:00)?)$")


def skipped_rule(zone: str) -> str:
    """The rule that a time breaks which is on no clock of its zone."""
    return f"type: not timestamp; the clock of {zone} skips this time (daylight saving)"


def has_offset(form: str) -> bool:
    """Whether a format reads the offset from UTC of a time, so that the time is an instant.

    >>> has_offset("%Y-%m-%dT%H:%M:%S%z"), has_offset("%Y-%m-%dT%H:%M:%SZ"), has_offset("%d%%z")
    (True, False, False)
    """
    return form.replace("%%", "").endswith("%z")


def has_fraction(form: str) -> bool:
    """Whether a format reads fractions of a second."""
    return "%f" in form.replace("%%", "")


def literal_utc(form: str) -> str | None:
    """The sign of UTC that a format holds as plain text: Z, UTC or an offset of zero; None without one.

    >>> literal_utc("%Y-%m-%dT%H:%M:%SZ"), literal_utc("%Y-%m-%d %H:%M+00:00"), literal_utc("%Y-%m-%dT%H:%M%z")
    ('Z', '+00:00', None)
    """
    match = _LITERAL_UTC.search(form)
    return match[1] if match else None


def literal_offset(form: str) -> str | None:
    """An offset other than that of UTC that a format holds as plain text, which would be lost; None without one.

    >>> literal_offset("%Y-%m-%dT%H:%M:%S+02:00"), literal_offset("%H:%M %d-%m-%Y"), literal_offset("%H:%M:%S-05")
    ('+02:00', None, '-05')
    """
    if literal_utc(form):
        return None
    match = _LITERAL_OFFSET.search(form)
    return match[1].strip() if match else None


def read_time(formats: Sequence[str], text: str, *, cut: bool = False) -> datetime | None:
    """A time by the first format that reads a text; None when none does. With an offset it is an instant in UTC.

    Digits of a fraction behind the sixth are zeros, unless `cut` leaves them out.

    >>> read_time(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%z"), "2026-01-01T10:00:00+02:00")
    datetime.datetime(2026, 1, 1, 8, 0, tzinfo=datetime.timezone.utc)
    >>> read_time(("%d/%m/%Y",), "31/02/2026") is None
    True
    """
    text = text.strip(" ")
    if not text.isascii():
        return None
    for form in formats:
        try:
            return _read(form, text, cut)
        except ValueError:
            continue
    return None


def _read(form: str, text: str, cut: bool) -> datetime:
    offset: timedelta | None = None
    if has_offset(form):
        if (match := _OFFSET.search(text)) is None:
            raise ValueError(f"{text} has no offset")
        form, text = form.removesuffix("%z"), text[: match.start()]
        hours, minutes = int(match[3] or 0), int(match[5] or 0)
        offset = timedelta(hours=hours, minutes=minutes) * (-1 if match[2] == "-" else 1)
    if has_fraction(form):
        text = re.sub(f"{FRACTION}{'[0-9]+' if cut else '0+'}(?![0-9])", r"\1", text, count=1)
    moment = datetime.strptime(text, form)
    if offset is None:
        return moment
    try:
        return (moment - offset).replace(tzinfo=UTC)
    except OverflowError as error:  # of the first or the last day of the calendar
        raise ValueError(str(error)) from error
