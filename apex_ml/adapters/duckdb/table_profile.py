"""Describe a table that no contract describes yet: its columns, keys, target and change over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from math import isnan, log
from pathlib import Path

import duckdb

from apex_ml.adapters.duckdb.column_profile import BinnedColumn, profile_column, quantile_edges
from apex_ml.adapters.duckdb.engine import StrictConnection, connect_strict, errors_name, one_row
from apex_ml.adapters.duckdb.table_source import find_table, open_table
from apex_ml.adapters.storage.csv_tables import text_as_parquet
from apex_ml.core.leakage import SMOOTHING
from apex_ml.core.table_profile.bins import MISSING, OTHERS, number_text, range_labels
from apex_ml.core.table_profile.drift import measure_drift, period_unit
from apex_ml.core.table_profile.findings import absent_together, find_problems, looks_like_identifier
from apex_ml.core.table_profile.values import (
    Association,
    ColumnProfile,
    Level,
    TableProfile,
    TargetProfile,
    TimeProfile,
)
from apex_ml.errors import DataError
from apex_ml.settings import Settings
from apex_ml.sql import table_profile as sql
from apex_ml.text import visible
from apex_ml.wording import did_you_mean

MAX_CLASSES = 30
"""Classes of a target that are counted on their own."""
RANGES = (0.25, 0.5, 0.75)
"""Shares at which a target of many numbers is divided into ranges."""
MAX_PAIRED = 8
"""Columns of which pairs are tried as keys."""

Progress = Callable[[str], None]


def profile_table(
    settings: Settings,
    path: Path,
    target: str | None = None,
    timestamp: str | None = None,
    progress: Progress = lambda text: None,
) -> TableProfile:
    """Describe the table in a parquet, CSV or JSON lines file, or in all below a folder, in bounded memory.

    Without `timestamp` the date or timestamp column that most rows have is the time. `progress` is called with what is
    computed. Raises :class:`~apex_ml.errors.DataError` for files that cannot be read, and for a column that is not
    there.
    """
    path = path.absolute()  # "." has no name
    delivered = find_table(path)
    progress("files")
    with (
        connect_strict(settings) as con,
        errors_name(visible(path.name)),
        text_as_parquet(delivered) as table,
    ):
        source, columns = open_table(con, path, table.files, target, decimal_signs=table.decimal_signs)
        size = sum(file.stat().st_size for file in delivered.files)
        source = replace(source, bytes=size, csv=table.form, bad_lines=table.bad_lines, csv_notes=table.notes)
        names = [column.name for column in columns]
        for name in filter(None, (target, timestamp)):
            if name not in names:
                listed = ", ".join(map(visible, names[:20]))
                raise DataError(
                    f"{source.name}: there is no column {visible(name)}{did_you_mean(name, names)}; the columns are"
                    f" {listed}{' …' if len(names) > 20 else ''}"
                )
        (rows,) = one_row(con, sql.COUNT_TABLE)
        stored = dict(source.columns)
        binned = []
        for column in columns:
            progress(f"column {visible(column.name)}")
            kind = stored.get(column.name, "computed") if not table.decimal_signs else column.kind
            binned.append(profile_column(con, column, kind, rows))
        profiles = tuple(one.profile for one in binned)
        progress("repeated rows and keys")
        (repeated,) = one_row(con, sql.count_repeated_rows(len(stored)))
        profile = TableProfile(
            source,
            rows,
            repeated,
            profiles,
            _keys(con, binned, rows),
            tuple(one.name for one in profiles if looks_like_identifier(one)),
            _target(con, binned, target, progress) if target and rows else None,
            _time(con, binned, timestamp, target, progress),
        )
    return replace(profile, findings=tuple(find_problems(profile)))


def _keys(con: StrictConnection, binned: Sequence[BinnedColumn], rows: int) -> tuple[tuple[str, ...], ...]:
    """Columns that identify a row; when none does, pairs of columns that do."""
    kinds = ("integer", "date", "timestamp", "text")
    plain = [one for one in binned if one.profile.kind in kinds and one.profile.derive is None]
    if single := [(one.profile.name,) for one in plain if one.profile.is_unique]:
        return tuple(single)
    whole = [one for one in plain if one.profile.known == rows and one.profile.distinct > 1]
    whole.sort(key=lambda one: -one.profile.distinct)
    keys = []
    for one, other in combinations(whole[:MAX_PAIRED], 2):
        if rows > 1 and one.profile.distinct * other.profile.distinct >= rows:
            (pairs,) = one_row(con, sql.count_pairs(one.column.sql, other.column.sql))
            keys += [(one.profile.name, other.profile.name)] if pairs == rows else []
    return tuple(keys)


def _target(con: StrictConnection, binned: Sequence[BinnedColumn], name: str, progress: Progress) -> TargetProfile:
    """The classes, and what each other column says about them."""
    own = next(one for one in binned if one.profile.name == name)
    profile = own.profile
    edges: tuple[float, ...] = ()
    others = 0
    if profile.distinct > MAX_CLASSES and profile.numbers is not None:
        edges = quantile_edges(profile, RANGES)
        class_sql, labels = sql.number_bin(own.column.sql, edges), range_labels(list(map(number_text, edges)))
    else:
        rows = con.execute(sql.top_values(own.column.sql, MAX_CLASSES)).fetchall()
        labels = [value for value, _ in rows]
        class_sql = sql.level_bin(own.column.sql, labels)
        others = profile.distinct - len(labels)
        labels += [OTHERS] if others else []
    counts = {place: n for place, _, n in con.execute(sql.count_bins(class_sql, "0")).fetchall() if place >= 0}
    total = sum(counts.values())
    shares = [counts.get(place, 0) / total if total else 0.0 for place in range(len(labels))]
    classes = tuple(Level(label, counts.get(place, 0)) for place, label in enumerate(labels))
    entropy = -sum(share * log(share) for share in shares if share)
    described = TargetProfile(name, classes, bool(edges), others, entropy, ())
    if entropy <= 0 or profile.is_unique:
        return described
    associations = []
    for one in binned:
        if one is not own:
            progress(f"{visible(one.profile.name)} and {visible(name)}")
            associations.append(_association(con, one, own, class_sql, shares, entropy))
    return replace(described, associations=tuple(sorted(associations, key=lambda a: (-a.gain, a.name))))


def _association(
    con: StrictConnection,
    one: BinnedColumn,
    target: BinnedColumn,
    class_sql: str,
    shares: Sequence[float],
    entropy: float,
) -> Association:
    profile = one.profile
    if profile.is_unique and not one.profile.is_ordered:
        return Association(profile.name, 0.0, None, ())
    gains = []
    for key in _table_keys(one):
        loss, rows = one_row(con, sql.losses_alone(key, class_sql, shares, SMOOTHING))
        gains += [1 - loss / entropy] if rows else []
    by_bin: dict[int, list[int]] = {}
    without_class: dict[int, int] = {}
    for place, class_nr, n in con.execute(sql.count_bins(one.bin_sql, class_sql)).fetchall():
        if class_nr >= 0:
            by_bin.setdefault(place, [0] * len(shares))[class_nr] = n
        else:
            without_class[place] = n
    labels = dict(enumerate(one.labels)) | {-1: MISSING}
    rows_by_bin = tuple(
        (labels[place], tuple(by_bin[place])) for place in (*range(len(one.labels)), -1) if place in by_bin
    )
    absent = absent_together(without_class, sum(by_bin.get(-1, ())))
    return Association(profile.name, max(gains, default=0.0), _correlation(con, one, target), rows_by_bin, absent)


def _correlation(con: StrictConnection, one: BinnedColumn, target: BinnedColumn) -> float | None:
    """Of two numbers; None where it is not defined."""
    if one.profile.numbers is None or target.profile.numbers is None:
        return None
    try:
        (correlation,) = one_row(con, sql.correlation(one.column.sql, target.column.sql))
    except duckdb.OutOfRangeException:  # squares of numbers beyond 1e154
        return None
    return None if correlation is None or isnan(correlation) else float(correlation)


def _table_keys(one: BinnedColumn) -> list[str]:
    """SQL of what a table of class shares is made by: the values where they repeat, and ranges of about equal size."""
    profile = one.profile
    keys = []
    if profile.kind != "other" and profile.distinct <= max(profile.known // 2, 1):
        keys.append(sql.value_key(one.column.sql))
    if profile.numbers is not None and profile.distinct > len(one.labels):
        keys.append(sql.number_bin(one.column.sql, quantile_edges(profile)))
    elif profile.times is not None:
        keys.append(one.bin_sql)
    # whether there is a value at all may say enough
    return keys or [sql.level_bin(one.column.sql, [])]


def _time(
    con: StrictConnection,
    binned: Sequence[BinnedColumn],
    timestamp: str | None,
    target: str | None,
    progress: Progress,
) -> TimeProfile | None:
    """The rows by period, and how each column changes."""
    own = _time_column([one for one in binned if timestamp is not None or one.profile.name != target], timestamp)
    if timestamp is not None and own is not None and own.profile.kind not in ("date", "timestamp"):
        raise DataError(
            f"{visible(timestamp)} cannot be the timestamp: it holds {own.profile.stored} and no dates; name a column"
            " of dates or times"
        )
    if own is None or own.profile.times is None:
        return None
    times = own.profile.times
    unit = period_unit(times.quantiles[0], times.quantiles[-1])
    periods = con.execute(sql.count_periods(own.column.sql, unit)).fetchall()
    starts = [start for start, _ in periods]
    drifts = []
    for one in binned:
        if one is own or not one.profile.known or one.profile.kind == "other":
            continue
        progress(f"{visible(one.profile.name)} over time")
        rows = con.execute(sql.count_bins(one.bin_sql, sql.period_bin(own.column.sql, starts))).fetchall()
        counts = {(place, period): n for place, period, n in rows}
        drifts.append(measure_drift(one.profile.name, (*one.labels, MISSING), counts, len(starts)))
    drifts.sort(key=lambda drift: (-drift.stability, drift.name))
    return TimeProfile(own.profile.name, unit, tuple(periods), tuple(drifts))


def _time_column(binned: Sequence[BinnedColumn], timestamp: str | None) -> BinnedColumn | None:
    if timestamp is not None:
        return next(one for one in binned if one.profile.name == timestamp)

    def by_use(one: BinnedColumn) -> tuple[int, int]:
        profile: ColumnProfile = one.profile
        return profile.known, profile.times.days if profile.times else 0

    moments = [one for one in binned if one.profile.times is not None and one.profile.distinct > 1]
    return max(moments, key=by_use, default=None)
