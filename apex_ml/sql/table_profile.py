"""Describe a table of parquet files that no contract describes yet: DuckDB SQL.

The table is the temporary view ``profiled``. Its columns are named by their places, as names in files are free text.
``half`` is 0 or 1: a fixed half of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from apex_ml.sql.parquet import place_name, place_names
from apex_ml.sql.quote import literal, literals
from apex_ml.sql.written_times import too_fine, utc_time

PROFILED = "profiled"
DESCRIBE_TABLE = f"DESCRIBE {PROFILED}"
COUNT_TABLE = f"SELECT count(*) FROM {PROFILED}"
HALF = "half"
MISSING = "-1"
"""The bin of a null."""


def create_table_view(
    groups: Sequence[tuple[Sequence[Path], Sequence[int | str | None]]],
    read_as: Mapping[int, str] | None = None,
    derived: Mapping[int, str] | None = None,
) -> str:
    """Create the view. A group is files of one schema, and for every column of the table its place there, or None.

    In place of a place is SQL of the value that the column has in all rows of the group.

    `read_as` holds SQL of the value of a column by its place in the table, where it is not the file's own value, and
    `derived` SQL of columns behind them.
    """
    selects = []
    for files, places in groups:
        present = sum(isinstance(place, int) for place in places)
        of_group = ["NULL" if p is None else p if isinstance(p, str) else place_name(p) for p in places]
        columns = [f"{value} AS {place_name(nr)}" for nr, value in enumerate(of_group)]
        columns.append(f"CAST(hash(row_at) % 2 AS INTEGER) AS {HALF}")
        paths = literals(map(str, files))
        source = f"read_parquet([{paths}], hive_partitioning = false, file_row_number = true)"
        selects.append(f"SELECT {', '.join(columns)} FROM {source} AS file({place_names(present)}, row_at)")
    rows = " UNION ALL ".join(selects)
    if read_as:
        values = ", ".join(f"{value} AS {place_name(nr)}" for nr, value in read_as.items())
        rows = f"SELECT * REPLACE ({values}) FROM ({rows})"
    if derived:
        values = ", ".join(f"{value} AS {place_name(nr)}" for nr, value in derived.items())
        rows = f"SELECT *, {values} FROM ({rows})"
    return f"CREATE OR REPLACE TEMP VIEW {PROFILED} AS {rows}"


def day_of_parts(expression: str) -> str:
    """SQL of a day in parts; null where they are no day."""
    return f"CAST(TRY({expression}) AS DATE)"


def count_days(day: str) -> str:
    """One row: rows, those with a day, the first and the last year."""
    return f"SELECT count(*), count({day}), min(year({day})), max(year({day})) FROM {PROFILED}"


def widened(column: str) -> str:
    """SQL of a float as the double that the contract reads: the text of a float has seven digits only."""
    return f"CAST({column} AS DOUBLE)"


def decoded(column: str) -> str:
    """SQL of bytes as text; null where they are not UTF-8."""
    return f"TRY(decode({column}))"


def parsed(column: str, formats: Iterable[str]) -> str:
    """SQL of a text as a timestamp, an instant in UTC; null where no format fits. Nanoseconds are left out."""
    return utc_time(column, formats, cut=True)


def count_nanoseconds(column: str, formats: Iterable[str]) -> str:
    """One row: the times with nanoseconds, of texts by their formats, or of timestamps that have them."""
    fine = too_fine(column, formats) if formats else f"epoch_ns({column}) % 1000 <> 0"
    return f"SELECT count(*) FILTER ({fine or 'false'}) FROM {PROFILED}"


def whole_number(column: str) -> str:
    """SQL of a text as a whole number; null for another one, and for a code such as 007."""
    text = f"trim({column})"
    return f"CASE WHEN regexp_full_match({text}, '[+-]?(0|[1-9][0-9]*)') THEN TRY_CAST({text} AS BIGINT) END"


def number(column: str, signs: str = ".") -> str:
    """SQL of a text as a number with one of some decimal signs; null for another one, and for a code such as 007."""
    text = f"trim({column})"
    form = f"[+-]?((0|[1-9][0-9]*)([{signs}][0-9]*)?|[{signs}][0-9]+)([eE][+-]?[0-9]+)?"
    value = text if signs == "." else f"replace({text}, ',', '.')"
    return f"CASE WHEN regexp_full_match({text}, '{form}') THEN TRY_CAST({value} AS DOUBLE) END"


def code_of_digits(column: str) -> str:
    """SQL that is not null for a text such as 007, which as a number would lose a zero."""
    return f"CASE WHEN regexp_matches(trim({column}), '^[+-]?0[0-9]') THEN true END"


def unread_texts(column: str, reading: str, most: int) -> str:
    """The most frequent texts, not blank, that a reading does not read, with their rows."""
    return (
        f"SELECT {column} AS value, count(*) AS n FROM {PROFILED} WHERE trim({column}) <> '' AND {reading} IS NULL"
        f" GROUP BY value ORDER BY n DESC, value LIMIT {most:d}"
    )


def truth_value(column: str) -> str:
    """SQL of a text as a truth value; null for another one."""
    return f"CASE lower(trim({column})) WHEN 'true' THEN true WHEN 'false' THEN false END"


def count_readable(column: str, readings: Iterable[str], sample: int = 0) -> str:
    """One row: values that are neither null nor blank, then those for which each reading is not null.

    With `sample` that many rows are looked at.
    """
    counts = [f"count({reading})" for reading in readings]
    rows = f"(SELECT {column} FROM {PROFILED} USING SAMPLE reservoir({sample:d} ROWS) REPEATABLE (1))"
    return (
        f"SELECT count(*) FILTER (trim(CAST({column} AS VARCHAR)) <> ''), {', '.join(counts)}"
        f" FROM {rows if sample else PROFILED}"
    )


def count_values(column: str) -> str:
    """One row: values that are not null, and different ones. Hashes of 64 bits are counted: they take little memory."""
    return f"SELECT count({column}), count(DISTINCT hash({column})) FILTER ({column} IS NOT NULL) FROM {PROFILED}"


def count_repeated_rows(columns: int) -> str:
    """The number of rows that repeat another one in all columns."""
    return f"SELECT count(*) - count(DISTINCT hash({place_names(columns)})) FROM {PROFILED}"


def count_pairs(one: str, other: str) -> str:
    """The number of different pairs of values of two columns."""
    return f"SELECT count(DISTINCT hash({one}, {other})) FROM {PROFILED}"


def summarise_numbers(column: str, shares: Iterable[float]) -> str:
    """One row: values that are not finite, then a summary of the others.

    Smallest, largest, mean, deviation, zeros, negative ones, whole ones, and the quantiles at some shares.
    """
    value = f"CAST({column} AS DOUBLE)"
    finite = f"FILTER (isfinite({value}))"
    quantiles = f"approx_quantile({value}, [{', '.join(map(repr, shares))}])"
    return (
        f"SELECT count(*) FILTER ({column} IS NOT NULL AND NOT isfinite({value})), min({value}) {finite},"
        f" max({value}) {finite}, avg({value}) {finite}, coalesce(stddev_pop({value}) {finite}, 0),"
        f" count(*) FILTER ({value} = 0), count(*) FILTER ({value} < 0),"
        f" count(*) FILTER (isfinite({value}) AND {value} = trunc({value})), {quantiles} {finite} FROM {PROFILED}"
    )


def count_decimals(column: str, most: int) -> str:
    """One row: for each number of decimals from 0, the finite values that have no more."""
    value = f"CAST({column} AS DOUBLE)"
    near = f"1e-9 * greatest(1, abs({value}))"
    counts = [
        f"count(*) FILTER (isfinite({value}) AND abs({value} - round({value}, {n})) <= {near})" for n in range(most + 1)
    ]
    return f"SELECT {', '.join(counts)} FROM {PROFILED}"


def summarise_times(column: str, shares: Iterable[float]) -> str:
    """One row: infinite ones, then earliest, latest, different days, times that are not midnight, quantiles."""
    moment = f"CAST({column} AS TIMESTAMP)"
    finite = f"FILTER (isfinite({moment}))"
    quantiles = f"approx_quantile(epoch_us({moment}), [{', '.join(map(repr, shares))}])"
    return (
        f"SELECT count(*) FILTER (NOT isfinite({moment})), min({moment}) {finite}, max({moment}) {finite},"
        f" count(DISTINCT CAST({moment} AS DATE)) {finite},"
        f" count(*) FILTER (isfinite({moment}) AND {moment} <> date_trunc('day', {moment})),"
        f" list_transform({quantiles} {finite}, lambda us: make_timestamp(us)) FROM {PROFILED}"
    )


def summarise_text(column: str) -> str:
    """One row: shortest and longest, then counts: blank, with blanks at an end, numbers, whole numbers.

    A code such as 007 is no number.
    """
    text = f"trim({column})"
    counts = [
        f"{text} = ''",
        f"{text} <> {column}",
        f"TRY_CAST({text} AS DOUBLE) IS NOT NULL AND NOT regexp_matches({text}, '^[+-]?0[0-9]')",
        f"regexp_full_match({text}, '[+-]?(0|[1-9][0-9]{{0,17}})')",
    ]
    filters = ", ".join(f"count(*) FILTER ({condition})" for condition in counts)
    return f"SELECT min(length({column})), max(length({column})), {filters} FROM {PROFILED}"


def count_folded(column: str) -> str:
    """The number of different texts, when case and blanks at the ends do not count."""
    return f"SELECT count(DISTINCT hash(upper(trim({column})))) FILTER ({column} IS NOT NULL) FROM {PROFILED}"


def top_values(column: str, most: int) -> str:
    """The most frequent values as text, with their rows, most frequent first; exact."""
    return (
        f"SELECT CAST({column} AS VARCHAR) AS value, count(*) AS n FROM {PROFILED} WHERE {column} IS NOT NULL"
        f" GROUP BY value ORDER BY n DESC, value LIMIT {most:d}"
    )


def likely_top_values(column: str, most: int) -> str:
    """The values that are probably the most frequent ones, as one list of texts, in little memory."""
    return f"SELECT approx_top_k(CAST({column} AS VARCHAR), {most:d}) FROM {PROFILED}"


def count_some(column: str, values: Iterable[str]) -> str:
    """Some values with their rows."""
    return (
        f"SELECT CAST({column} AS VARCHAR) AS value, count(*) AS n FROM {PROFILED} WHERE value IN ({literals(values)})"
        " GROUP BY value ORDER BY n DESC, value"
    )


def number_bin(column: str, edges: Sequence[float]) -> str:
    """SQL of the bin of a number: how many edges it has reached; not finite ones are missing."""
    value = f"CAST({column} AS DOUBLE)"
    return _bin(f"isfinite({value})", [f"{value} >= {edge!r}" for edge in edges])


def time_bin(column: str, edges: Sequence[datetime]) -> str:
    """SQL of the bin of a date or timestamp: how many edges it has reached."""
    moment = f"CAST({column} AS TIMESTAMP)"
    reached = [f"{moment} >= {literal(edge)}" for edge in edges]
    return _bin(f"isfinite({moment})", reached)


def _bin(known: str, reached: Sequence[str]) -> str:
    steps = " + ".join(f"CAST({condition} AS INTEGER)" for condition in reached) or "0"
    return f"CASE WHEN {known} THEN {steps} ELSE {MISSING} END"


def level_bin(column: str, levels: Sequence[str]) -> str:
    """SQL of the place of a value among the levels; the next place is that of all others."""
    text = f"CAST({column} AS VARCHAR)"
    if not levels:
        return f"CASE WHEN {column} IS NULL THEN {MISSING} ELSE 0 END"
    place = f"coalesce(list_position([{literals(levels)}], {text}), {len(levels) + 1}) - 1"
    return f"CASE WHEN {column} IS NULL THEN {MISSING} ELSE {place} END"


def value_key(column: str) -> str:
    """SQL of a number that stands for a value; a null has one as well."""
    return f"hash({column})"


def count_bins(column_bin: str, other_bin: str) -> str:
    """Rows by the bins of two columns."""
    return f"SELECT {column_bin} AS a, {other_bin} AS b, count(*) AS n FROM {PROFILED} GROUP BY a, b ORDER BY a, b"


def losses_alone(key: str, class_bin: str, shares: Sequence[float], smoothing: float) -> str:
    """The log loss, in nats per row, of a table of class shares by the key, and the rows with a class.

    The table is fitted on each half of the rows, smoothed towards the shares of the classes, and scored on the other.
    """
    prior = f"list_extract([{', '.join(map(repr, shares))}], c.class + 1)"
    probability = f"(coalesce(o.n, 0) + {smoothing!r} * {prior}) / (coalesce(l.n, 0) + {smoothing!r})"
    return (
        f"WITH counted AS (SELECT {key} AS key, {class_bin} AS class, {HALF}, count(*) AS n FROM {PROFILED}"
        f" GROUP BY ALL HAVING class >= 0),"
        f" level AS (SELECT key, {HALF}, sum(n) AS n FROM counted GROUP BY ALL)"
        f" SELECT sum(-c.n * ln({probability})) / sum(c.n), sum(c.n) FROM counted AS c"
        f" LEFT JOIN counted AS o ON o.key = c.key AND o.class = c.class AND o.{HALF} = 1 - c.{HALF}"
        f" LEFT JOIN level AS l ON l.key = c.key AND l.{HALF} = 1 - c.{HALF}"
    )


def correlation(column: str, other: str) -> str:
    """Pearson's correlation of two numbers, null where it is not defined."""
    one, two = f"CAST({column} AS DOUBLE)", f"CAST({other} AS DOUBLE)"
    return f"SELECT corr({one}, {two}) FROM {PROFILED} WHERE isfinite({one}) AND isfinite({two})"


def count_periods(column: str, unit: str) -> str:
    """Rows by the periods of a date or timestamp, from the earliest on; infinite ones do not count."""
    return (
        f"SELECT CAST(date_trunc('{unit}', CAST({column} AS TIMESTAMP)) AS TIMESTAMP) AS period, count(*) AS n"
        f" FROM {PROFILED} WHERE isfinite(CAST({column} AS TIMESTAMP)) GROUP BY period ORDER BY period"
    )


def period_bin(column: str, starts: Sequence[datetime]) -> str:
    """SQL of the place of a row's period, by the starts of all periods."""
    return time_bin(column, starts[1:])
