"""The accepted rows of a run, with their positions and without rows that were delivered twice: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

from apex_ml.contract.model import Contract
from apex_ml.contract.names import POSITION
from apex_ml.sql.history import select_alike, select_compact, select_keys, select_sorted_by
from apex_ml.sql.parquet import scan_parquet_files
from apex_ml.sql.quote import identifier, identifiers, literal
from apex_ml.sql.row_time import day_sql, time_sql
from apex_ml.sql.session import create_temp_table, replace_temp_table

PLACED = "placed_rows"
"""View of the accepted rows, repeated ones too, with their positions."""
FILE = "history_file"
"""Column of that view: the number of the row's file."""
KEYS = "history_keys"
"""Table of the values by which rows share a history, with their numbers."""
COMPACT = "compact_rows"
ALIKE = "alike_rows"
DROP_COMPACT = f"DROP TABLE {COMPACT}"


def select_delivered_once(contract: Contract, files: Iterable[Path], where: str = "true") -> str:
    """The accepted rows that fulfil a condition, without those that were delivered twice.

    A row that appears in several files is taken as often as in the file that has it most often: the rows of another
    file are a second delivery, while equal rows of one file are rows of their own.
    """
    columns = identifiers(contract.columns)
    source = scan_parquet_files(files, row_numbers=True)
    counted = f"SELECT {columns}, count(*) AS history_times FROM {source} WHERE {where} GROUP BY {columns}, file_index"
    most = f"SELECT {columns}, max(history_times) AS history_times FROM ({counted}) GROUP BY {columns}"
    return f"SELECT {columns} FROM (SELECT *, unnest(range(history_times)) FROM ({most}))"


def create_placed_view(contract: Contract, files: Iterable[Path], starts: Sequence[int]) -> str:
    """Create the view PLACED. `starts` are the position of each file's first row, and the number of all rows."""
    return (
        f"CREATE VIEW {PLACED} AS SELECT {identifiers(contract.columns)},"
        f" {list(starts)}[CAST(file_index AS BIGINT) + 1] + file_row_number AS {POSITION}, file_index AS {FILE}"
        f" FROM {scan_parquet_files(files, row_numbers=True)}"
    )


def create_compact_table(contract: Contract) -> str:
    """Copy what the history needs of the rows of PLACED to the table COMPACT."""
    return f"CREATE TABLE {COMPACT} AS {select_compact(contract, PLACED)}"


def sample_entities(contract: Contract) -> str:
    """The entities of a sample of the compact rows, in row. The same rows give the same sample."""
    entity = identifier(contract.entity)
    sample = f"SELECT {entity} FROM {COMPACT} USING SAMPLE 2 PERCENT (system, 42)"
    return f"SELECT {entity} FROM ({sample}) ORDER BY 1"


def compact_range(contract: Contract, low: str | None, high: str | None) -> str:
    """The compact rows of the entities from `low` (included) to `high` (excluded); None is no bound."""
    entity = identifier(contract.entity)
    sides = ((">=", low), ("<", high))
    bounds = [f"{entity} {sign} {literal(name)}" for sign, name in sides if name is not None]
    return f"(SELECT * FROM {COMPACT} WHERE {' AND '.join(bounds)})" if bounds else COMPACT


def create_alike_table(contract: Contract, compact: str) -> str:
    """Keep the positions of the rows of a range that may be repeated in the table ALIKE."""
    return create_temp_table(ALIKE, select_alike(contract, compact))


def select_repeated(contract: Contract) -> str:
    """The positions in ALIKE of rows that a second file delivers again.

    The n-th of the equal rows of a file repeats the n-th of another file.
    """
    columns = identifiers(contract.columns)
    within_file = f"row_number() OVER (PARTITION BY {columns}, {FILE} ORDER BY {POSITION}) AS history_nth"
    return (
        f"SELECT {POSITION}"
        f" FROM (SELECT *, {within_file} FROM {PLACED} SEMI JOIN {ALIKE} USING ({POSITION}))"
        f" QUALIFY row_number() OVER (PARTITION BY {columns}, history_nth ORDER BY {POSITION}) > 1"
    )


def create_keys_table(by: tuple[str, ...]) -> str:
    """Keep the known values of columns, with their numbers, in the table KEYS."""
    return replace_temp_table(KEYS, select_keys(by, PLACED))


def select_rows_by(contract: Contract, by: tuple[str, ...]) -> str:
    """The rows, repeated ones too, by the number of their values in KEYS and day."""
    return select_sorted_by(contract, PLACED, KEYS, by)


def select_columns(contract: Contract, source: str) -> str:
    """The contract's columns of a relation."""
    return f"SELECT {identifiers(contract.columns)} FROM {source}"


def count_repeats(contract: Contract, source: str) -> str:
    """Count the rows, and those whose hash another row has too."""
    return f"SELECT count(*), count(*) - count(DISTINCT hash({identifiers(contract.columns)})) FROM {source}"


def sample_rows(contract: Contract, files: Iterable[Path], below: int) -> str:
    """The rows of which the hash of file and position, from 0 to 2^64, is below a number."""
    source = scan_parquet_files(files, row_numbers=True)
    return f"SELECT {identifiers(contract.columns)} FROM {source} WHERE hash(file_index, file_row_number) < {below}"


def select_period(contract: Contract, files: Iterable[Path], columns: Iterable[str], begin: date, end: date) -> str:
    """Columns of the rows dated from `begin` (included) to `end` (excluded)."""
    day = day_sql(contract)
    return (
        f"SELECT {identifiers(columns)} FROM {scan_parquet_files(files)} WHERE {day} >= {literal(begin)} AND {day} <"
        f" {literal(end)}"
    )


def select_weeks_before(
    contract: Contract, files: Iterable[Path], columns: Iterable[str], begin: date, end: date
) -> str:
    """Columns of the rows dated from `begin` to the day before `end`, each with its `week` before `end`, from 0."""
    day = day_sql(contract)
    return (
        f"SELECT {identifiers(columns)}, (({literal(end)} - {day} - 1) // 7)::INTEGER AS week"
        f" FROM {scan_parquet_files(files)} WHERE {day} < {literal(end)} AND {day} >= {literal(begin)}"
    )


def select_days(contract: Contract, files: Sequence[Path]) -> str:
    """The first and the last day of the rows."""
    day = day_sql(contract)
    return f"SELECT min({day}), max({day}) FROM {scan_parquet_files(files)}"


def select_time_span(contract: Contract, files: Sequence[Path]) -> str:
    """The times of the first and of the newest row since 1970-01-01 UTC: days of a date, else microseconds."""
    time = time_sql(contract, "r")
    return f"SELECT min({time}), max({time}) FROM {scan_parquet_files(files)} AS r"
