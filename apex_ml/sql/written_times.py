"""Times as text, by formats of strptime: DuckDB SQL that reads what :mod:`apex_ml.contract.written_times` reads."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from apex_ml.contract.written_times import FRACTION, OFFSET, has_fraction, has_offset
from apex_ml.sql.quote import literal, literals


def clock_readings(text: str, formats: Iterable[str], *, cut: bool = False) -> list[tuple[bool, str]]:
    """SQL of readings of a text, to be tried in turn: whether each gives an instant, and its value.

    An instant is a TIMESTAMP WITH TIME ZONE, any other time a TIMESTAMP. Digits of a fraction behind the sixth are
    zeros, unless `cut` leaves them out.
    """
    readings = []
    for (offset, fraction), group in groupby(formats, lambda form: (has_offset(form), has_fraction(form))):
        written = f"trim({text})"
        if fraction:
            beyond = literal(f"{FRACTION}{'[0-9]+' if cut else '0+'}([^0-9]|$)")
            written = f"regexp_replace({written}, {beyond}, '\\1\\2')"
        if offset:
            utc = f"regexp_replace({written}, '[Zz]$', '+00:00')"
            written = f"CASE WHEN regexp_matches({written}, {literal(OFFSET)}) THEN {utc} END"
        readings.append((offset, f"try_strptime({written}, [{literals(group)}])"))
    return readings


def utc_time(text: str, formats: Iterable[str], *, cut: bool = False) -> str:
    """SQL of a time as a TIMESTAMP, an instant on the clock of UTC; null where no format reads the text."""
    times = [
        f"timezone('UTC', {value})" if instant else value for instant, value in clock_readings(text, formats, cut=cut)
    ]
    return times[0] if len(times) == 1 else f"coalesce({', '.join(times)})"


def too_fine(text: str, formats: Iterable[str]) -> str | None:
    """SQL that is true for a time that a TIMESTAMP cannot hold, for its nanoseconds; None where no format has them."""
    formats = list(formats)
    if not any(map(has_fraction, formats)):
        return None
    return f"{utc_time(text, formats)} IS NULL AND {utc_time(text, formats, cut=True)} IS NOT NULL"
