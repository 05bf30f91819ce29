"""Run the contract's row checks on one file, in DuckDB, in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pyarrow as pa

from apex_ml.adapters.duckdb.derived_types import derived_types
from apex_ml.adapters.duckdb.engine import VALUE_ERRORS, StrictConnection, errors_name
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.file_schema import (
    read_schema,
    refuse_encrypted,
    refuse_extra,
    refuse_other_names,
    refuse_repeated_names,
)
from apex_ml.adapters.duckdb.joined_parts import JoinedParts
from apex_ml.adapters.duckdb.key_columns import KeyColumn, key_columns, with_keys
from apex_ml.adapters.duckdb.split_rows import HELD_ROWS, SplitFiles, compute_derived, split_rows
from apex_ml.adapters.duckdb.table_file import TableFile, add_bad_lines, as_parquet
from apex_ml.adapters.storage.files import name_errors
from apex_ml.adapters.storage.parquet_pages import encrypted_columns, verify_pages
from apex_ml.adapters.storage.parquet_types import as_read, refuse_unknown_zones
from apex_ml.adapters.storage.path_keys import column_keys
from apex_ml.adapters.storage.time_zones import on_own_clock, shared_hours
from apex_ml.adapters.storage.undecodable import recover
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import Use
from apex_ml.sql.checked_file import CheckedFile
from apex_ml.sql.file_types import WIDEST_DECIMAL
from apex_ml.sql.recovered_columns import RecoveredColumns
from apex_ml.sql.row_checks import RowChecks, compile_row_checks
from apex_ml.text import visible

NOT_IN_CONTRACT = "extra: the contract does not mention this column"


def check_file(
    con: StrictConnection,
    path: Path,
    contract: Contract,
    use: Use,
    *,
    as_of: date | None,
    accepted: Path,
    quarantined: Path,
    with_row_nr: bool = False,
    copy: bool = True,
    name: str | None = None,
    joined: JoinedParts | None = None,
) -> FileReport:
    """Split one file, or the joined parts of a folder, into accepted rows and quarantined rows with all their reasons.

    The file is parquet, or CSV or JSON lines where the contract says so. `accepted` gets the contract's columns,
    normalised and cast, and with `with_row_nr` also the row's position in the file, from 0, or through all parts in
    their order; of text its line, from 1. Without `copy` it is written only when the file itself will not do; the
    report's `query` then reads the rows until the next file is checked. `quarantined` is written only when a row is
    bad: `row_nr`, `reasons` (JSON list of column, value, rule) and `row` (JSON of the file's own values, texts cut
    after 10,000 characters). A line that cannot be parsed is such a row. `name` is the file's name in the report and in
    errors, by default its last name; keys in its folders, such as country=PE, are columns. Raises
    :class:`~apex_ml.errors.DataError` for a file that cannot be read, that contradicts its checksums, or that lacks a
    required column.
    """
    keys = column_keys(contract, name or "")
    with (
        name_errors(path, name or path.name),
        nullcontext(joined.source) if joined else as_parquet(path, contract, use, accepted.parent, keys) as source,
    ):
        file = _open(con, source, contract, use, as_of, keys)
        # a converted file does not stay
        report = _check(file, SplitFiles(accepted, quarantined, with_row_nr, copy or source.text is not None))
        in_path = file.columns_of_path(frozenset() if joined is None else joined.path_columns)
        report = replace(report, cast=tuple(cast for cast in report.cast if cast[0] not in in_path))
        if joined is not None:
            report = replace(report, places=joined.places)
        if source.text is not None:
            report = add_bad_lines(con, report, source.text, quarantined)
        if contract.extra == "report":
            extra = {f"{visible(column)}: {NOT_IN_CONTRACT}": report.rows for column in report.added}
            report = replace(report, warnings=report.warnings | extra)
    return replace(report, name=name or path.name)


@dataclass(frozen=True)
class _File:
    """A file whose schema has the columns of the contract, and what its checks need."""

    con: StrictConnection
    path: Path
    contract: Contract
    use: Use
    as_of: date | None
    stored: pa.Schema
    """The schema of the file itself."""
    schema: pa.Schema
    """The same, with the time zones on whose clocks days are read."""
    checks: RowChecks
    rows: int
    encrypted: list[int]
    """Places of encrypted columns, none of them of the contract."""
    has_lines: bool
    """Whether the column behind those of the file holds the line of each row."""
    keys: tuple[KeyColumn, ...]
    """The last columns of the schema, which the path of the file holds."""

    def needed(self) -> list[int]:
        """Places of the columns of the contract."""
        columns = self.checks.raw_columns[: self.own_columns]  # behind them are those of the path and the derived ones
        return [place for place, column in enumerate(columns) if column.column is not None]

    @property
    def own_columns(self) -> int:
        """Number of the columns that the file itself holds."""
        return len(self.schema) - len(self.keys)

    def columns_of_path(self, names: Collection[str]) -> set[str | None]:
        """Columns of the contract that the path of the file holds, or paths of parts under these names."""
        columns = self.checks.raw_columns[: len(self.schema)]
        return {c.column for place, c in enumerate(columns) if place >= self.own_columns or c.name in names}

    def wide(self) -> list[int]:
        """Places of the needed columns that DuckDB does not read exactly."""
        return [place for place in self.needed() if _is_wide(self.schema[place].type)]

    def recover(self, folder: Path) -> AbstractContextManager[RecoveredColumns | None]:
        """Read what DuckDB cannot decode into files below a folder."""
        own = pa.schema(list(self.schema)[: self.own_columns], self.schema.metadata)
        return recover(self.con, self.path, own, self.needed(), self.encrypted, folder, self.wide())


def _open(
    con: StrictConnection,
    source: TableFile,
    contract: Contract,
    use: Use,
    as_of: date | None,
    in_path: Mapping[str, str | None],
) -> _File:
    """Read the schema, verify the pages and compile the checks of a file; refuse one that cannot be checked."""
    path, text = source.path, source.text
    encrypted: tuple[str, ...] = ()
    if text is None:
        stored = as_read(con, path, read_schema(path))
        rows = verify_pages(con, path)
        encrypted = encrypted_columns(con, path)
    else:
        stored, rows = text.schema, text.rows
    schema = on_own_clock(con, path, contract, stored)
    keys = key_columns(con, path, contract, schema, in_path)
    stored, schema = with_keys(stored, keys), with_keys(schema, keys)
    refuse_repeated_names(path, contract, schema)
    decimal = "." if text is None else contract.files.decimal
    checks = compile_row_checks(contract, use, schema, as_of, derived=derived_types(contract), decimal=decimal)
    refuse_other_names(path, contract, checks)
    refuse_extra(path, contract, checks)
    refuse_encrypted(path, checks, encrypted)
    refuse_unknown_zones(con, path, contract, checks)
    places = [place for place, name in enumerate(schema.names) if name in encrypted]
    return _File(con, path, contract, use, as_of, stored, schema, checks, rows, places, text is not None, keys)


def _is_wide(kind: pa.DataType) -> bool:
    """Whether a type is a decimal of more digits than DuckDB holds; it reads such a decimal as double."""
    return bool(pa.types.is_decimal(kind) and kind.precision > WIDEST_DECIMAL)


def _check(file: _File, to: SplitFiles) -> FileReport:
    """Split the rows; when DuckDB cannot decode a value, or not exactly, with the columns that are recovered."""
    folder = to.accepted.parent
    with errors_name(file.path.name):
        if not file.encrypted and not file.wide():
            try:
                return _split(file, None, to)
            except VALUE_ERRORS as error:
                with file.recover(folder) as recovered:
                    if recovered is None:
                        raise error
                    return _split(file, recovered, to)
        with file.recover(folder) as recovered:
            return _split(file, recovered, to)


def _split(file: _File, recovered: RecoveredColumns | None, to: SplitFiles) -> FileReport:
    con, keys = file.con, tuple(key.sql for key in file.keys)
    if recovered is None:
        rows = checked = CheckedFile(file.path, file.checks, has_lines=file.has_lines, keys=keys)
        compute_derived(con, checked)
        if not to.copy and file.rows <= HELD_ROWS:
            con.execute(checked.create_held_table())
            checked = replace(checked, held=True)
    else:
        types = derived_types(file.contract)
        schema = with_keys(recovered.schema, file.keys)
        checks = compile_row_checks(file.contract, file.use, schema, file.as_of, recovered.places, types)
        rows = checked = CheckedFile(file.path, checks, recovered=recovered, keys=keys)
        compute_derived(con, checked)
        to = replace(to, copy=True)  # the recovered columns are temporary
    report = split_rows(con, checked, to)
    timed = {name: report.normalised.get(f"{name}: day_of_timestamp", 0) for name in file.contract.columns}
    schemas = (file.stored, file.schema)
    shared = shared_hours(con, file.path, file.contract, schemas, file.rows, timed, f"({rows.rows()})")
    return replace(report, warnings=report.warnings | shared) if shared else report
