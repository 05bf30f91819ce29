"""Run the contract's row checks on one parquet file, in DuckDB, in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.engine import VALUE_ERRORS, errors_name, one_row, reason_of
from apex_ml.adapters.storage.files import name_errors
from apex_ml.adapters.storage.parquet_files import check_parquet
from apex_ml.adapters.storage.parquet_pages import encrypted_columns, verify_pages
from apex_ml.adapters.storage.parquet_types import as_read, refuse_unknown_zones
from apex_ml.adapters.storage.time_zones import on_own_clock, shared_hours
from apex_ml.adapters.storage.undecodable import Recovered, recover
from apex_ml.contract.model import Contract
from apex_ml.contract.names import IN_DOUBT, ROW_NR
from apex_ml.contract.per_use import Use
from apex_ml.errors import DataError
from apex_ml.sql.file_types import WIDEST_DECIMAL
from apex_ml.sql.quarantine import is_true, own_values_sql, reasons_sql, value_sql
from apex_ml.sql.quote import identifier, identifiers, literal
from apex_ml.sql.row_checks import Reason, RowChecks, UniqueColumns, compile_row_checks
from apex_ml.text import visible
from apex_ml.wording import nearest

logger = logging.getLogger(__name__)

HELD_ROWS = 65_536
"""A file of at most so many rows is held in memory while it is looked at."""
HELD, HELD_STAGED = "held_rows", "held_staged_rows"
_LONGEST_EXAMPLE = 40
_EXAMPLES = 3


@dataclass(frozen=True)
class FileReport:
    """What became of one file. Counts are rows; a row with two reasons counts once in `quarantined`."""

    name: str
    rows: int
    accepted: int
    quarantined: int
    reasons: dict[str, int]
    warnings: dict[str, int]
    normalised: dict[str, int]
    filled: tuple[str, ...]
    added: tuple[str, ...]
    cast: tuple[tuple[str, str, str], ...]
    examples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The most frequent values, as text for people, of the rows behind a label of `reasons` or `warnings`."""
    query: str = ""
    """SQL of the accepted rows, to be run under :func:`statistics_are_not_trusted` while the file is there."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a manifest."""
        return {name: value for name, value in asdict(self).items() if name != "query"}

    def with_examples(self, label: str) -> str:
        """A label of `reasons` or `warnings` with a few of the values behind it."""
        found = self.examples.get(label)
        return f"{label} (found {', '.join(map(repr_visible, found))})" if found else label


def read_schema(path: Path) -> pa.Schema:
    """Read a parquet file's Arrow schema.

    Raises :class:`~apex_ml.errors.DataError` naming the file when it is not a whole, readable parquet file.
    """
    check_parquet(path)
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path.name}: a damaged parquet file; deliver it again ({reason_of(error)})") from error


def log_report(report: FileReport, use: Use) -> None:
    """One line for the file, one for each rule with a few of the values behind it, one for columns that differ."""
    counts = (report.name, report.rows, report.accepted, report.quarantined)
    logger.info("file_checked file=%s rows=%s accepted=%s quarantined=%s", *counts)
    for rule, n in report.normalised.items():
        logger.info("rows_normalised file=%s rows=%s rule=%s", report.name, n, rule)
    for kind, found in (("warned", report.warnings), ("bad", report.reasons)):
        for rule, n in found.items():
            logger.warning("rows_%s file=%s rows=%s rule=%s", kind, report.name, n, report.with_examples(rule))
    if report.filled or report.added or report.cast:
        schema = (report.name, report.filled, report.added, report.cast)
        usual = use == "score" and not (report.added or report.cast)  # an order's outcome comes later
        level = logging.INFO if usual else logging.WARNING
        logger.log(level, "schema_differs file=%s filled=%s ignored=%s cast=%s", *schema)


def repr_visible(value: str) -> str:
    """A value between quotes, for people."""
    return f"'{visible(value)}'"


def _refuse_ambiguous(path: Path, contract: Contract, schema: pa.Schema) -> None:
    if twice := [name for name in contract.columns if schema.names.count(name) > 1]:
        raise DataError(f"{path.name}: repeated columns: {', '.join(twice)}; deliver each once")


def _refuse_other_names(path: Path, contract: Contract, checks: RowChecks) -> None:
    """Refuse a file without a required column, or with a name that nearly is a column's: its values would be lost."""
    found = checks.schema
    if found.ambiguous:
        lines = [f"{path.name}: several columns may be meant by one name of the contract; deliver each once"]
        lines += [f"  {name}: {', '.join(map(repr_visible, names))}" for name, names in found.ambiguous]
        lines.append("  keep the column that holds the values, under the contract's name; remove or rename the others")
        raise DataError("\n".join(lines))
    near = dict(found.near)
    if not (found.missing_required or near):
        return
    title = "required columns are missing" if found.missing_required else "columns have nearly a name of the contract"
    lines = [f"{path.name}: {title}; expected → found"]
    others = [name for name in found.added if name not in {n for names in near.values() for n in names}]
    for name in dict.fromkeys([*found.missing_required, *near]):
        if name in near:
            told = f"{', '.join(map(visible, near[name]))} (rename it)"
        elif (other := nearest(name, others)) is not None:
            told = f"nothing; {visible(other)} comes near (rename it if it is meant)"
        else:
            told = "nothing"
        lines.append(f"  {name} ({contract.columns[name].type}) → {told}")
    if found.added:
        lines.append(f"  columns unknown to the contract: {', '.join(map(visible, found.added[:10]))}")
    if near:
        lines.append("  or write match: insensitive into the contract, so that such names are taken")
    raise DataError("\n".join(lines))


_distrusting: set[int] = set()


@contextmanager
def statistics_are_not_trusted(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Read values, whatever a file's statistics say of them: wrong ones would fold a check away.

    Within another such block of the same connection nothing is left to do.
    """
    if id(con) in _distrusting:
        yield
        return
    con.execute("SET disabled_optimizers = 'statistics_propagation,filter_pushdown'")
    _distrusting.add(id(con))
    try:
        yield
    finally:
        _distrusting.discard(id(con))
        con.execute("RESET disabled_optimizers")


def check_file(
    con: duckdb.DuckDBPyConnection,
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
) -> FileReport:
    """Split one file into accepted rows and quarantined rows with all their reasons.

    `accepted` gets the contract's columns, normalised and cast (with `with_row_nr` also the row's position in the
    file); without `copy` only when the file itself will not do, and the report's `query` tells where the rows are
    until the next file is checked. `quarantined` is written only when a row is bad: `row_nr`, `reasons` (JSON list of
    column, value, rule) and `row` (JSON of the file's own values, texts of more than 10,000 characters cut). `name` is
    what the report and errors call the file, by default its last name. Raises
    :class:`~apex_ml.errors.DataError` for a file that cannot be read, is not what its checksums say, or lacks a
    required column.
    """
    with name_errors(path, name or path.name):
        report = _check(con, path, contract, use, as_of, accepted, quarantined, with_row_nr, copy)
    return replace(report, name=name or path.name)


def _check(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    contract: Contract,
    use: Use,
    as_of: date | None,
    accepted: Path,
    quarantined: Path,
    with_row_nr: bool,
    copy: bool,
) -> FileReport:
    own = as_read(con, path, read_schema(path))
    rows = verify_pages(con, path)
    encrypted = encrypted_columns(con, path)
    schema = on_own_clock(con, path, contract, own)
    _refuse_ambiguous(path, contract, schema)
    checks = compile_row_checks(contract, use, schema, as_of)
    _refuse_other_names(path, contract, checks)
    _refuse_encrypted(path, checks, encrypted)
    refuse_unknown_zones(con, path, contract, checks)
    sealed = [place for place, name in enumerate(schema.names) if name in encrypted]
    needed = [place for place, column in enumerate(checks.raw_columns) if column.column is not None]
    wide = [place for place in needed if _is_wide(schema[place].type)]

    def apart() -> AbstractContextManager[Recovered | None]:
        return recover(con, path, schema, needed, sealed, accepted.parent, wide)

    def split(aside: Recovered | None) -> FileReport:
        if aside is None:
            found = Source(path, checks)
            source = found.hold(con) if not copy and rows <= HELD_ROWS else found
            report = _split(con, source, accepted, quarantined, with_row_nr, copy)
        else:
            others = compile_row_checks(contract, use, aside.schema, as_of, aside.places)
            found = Source(path, others, aside=aside)
            report = _split(con, found, accepted, quarantined, with_row_nr, copy=True)
        timed = {name: report.normalised.get(f"{name}: day_of_timestamp", 0) for name in contract.columns}
        shared = shared_hours(con, path, contract, (own, schema), rows, timed, f"({found.rows()})")
        return replace(report, warnings=report.warnings | shared) if shared else report

    with errors_name(path.name), statistics_are_not_trusted(con):
        if not sealed and not wide:
            try:
                return split(None)
            except VALUE_ERRORS as error:
                with apart() as aside:
                    if aside is None:
                        raise error
                    return split(aside)
        with apart() as aside:
            return split(aside)


def _is_wide(kind: pa.DataType) -> bool:
    """Tell whether a type is a decimal of more digits than DuckDB holds, which reads it as double."""
    return bool(pa.types.is_decimal(kind) and kind.precision > WIDEST_DECIMAL)


def _refuse_encrypted(path: Path, checks: RowChecks, encrypted: tuple[str, ...]) -> None:
    """Refuse a file of which a column of the contract is encrypted; others are not needed."""
    if closed := [c.name for c in checks.raw_columns if c.column is not None and c.name in encrypted]:
        raise DataError(
            f"{path.name}: encrypted columns: {', '.join(map(visible, closed))}; Apex holds no keys:"
            " deliver them without encryption"
        )


@dataclass(frozen=True)
class Source:
    """SQL clauses that read a file, its columns named by their places."""

    path: Path
    checks: RowChecks
    held: bool = False
    held_staged: bool = False
    aside: Recovered | None = None

    def plain(self) -> str:
        """All rows as `plain`: cast, but not normalised, with the column IN_DOUBT."""
        if self.held:
            return f"WITH plain AS (FROM {HELD})"
        return f"WITH source AS ({self.rows()}), plain AS ({self.checks.plain})"

    def hold(self, con: duckdb.DuckDBPyConnection) -> Source:
        """The same with all its rows as `plain` in a table: of a small file, to compile the checks takes longest."""
        con.execute(f"CREATE OR REPLACE TEMP TABLE {HELD} AS {self.plain()} FROM plain")
        return replace(self, held=True)

    def hold_staged(self, con: duckdb.DuckDBPyConnection) -> Source:
        """The same with all its rows as `staged` in a table: each query about them would compile all casts anew."""
        con.execute(f"CREATE OR REPLACE TEMP TABLE {HELD_STAGED} AS {self.staged()} FROM staged")
        return replace(self, held_staged=True)

    def staged(self, where: str = "true") -> str:
        """The rows that fulfil a condition, as `staged`: normalised, beside the file's own values. Held, all rows."""
        if self.held_staged:
            return f"WITH staged AS (FROM {HELD_STAGED})"
        source = f"SELECT * FROM ({self.rows()}) WHERE {where}"
        return f"WITH source AS ({source}), staged AS ({self.checks.staged})"

    def rows(self) -> str:
        """All rows as they lie in the file."""
        names = ", ".join(self.checks.source)
        file = f"read_parquet({literal(str(self.path))}, hive_partitioning = false)"
        if self.aside is None:
            return f"SELECT {names}, file_row_number AS {ROW_NR} FROM {file} AS file({names})"
        columns: list[str] = []
        for place, name in enumerate(self.checks.source):
            columns += self.aside.columns(place) if place in self.aside.places else [f"file.{name} AS {name}"]
        source = self.aside.relation(f"{file} AS file({names})")
        return f"SELECT {', '.join(columns)}, file.file_row_number AS {ROW_NR} FROM {source}"


def _repeats(checks: RowChecks) -> list[str]:
    """SQL aggregates that tell, by hashes, how many rows repeat another one of the file."""
    return [f"count(*) - count(DISTINCT hash({identifiers(u.columns)}))" for u in checks.unique]


def look(con: duckdb.DuckDBPyConnection, source: Source) -> tuple[int, int, list[int]]:
    """Apply every row rule in one pass, without normalising: (rows, rows in doubt, repeated rows by unique rule)."""
    counts = ", ".join(["count(*)", f"count(*) FILTER (WHERE {identifier(IN_DOUBT)})", *_repeats(source.checks)])
    rows, doubtful, *repeated = one_row(con, f"{source.plain()} SELECT {counts} FROM plain")
    return rows, doubtful, repeated


def _split(
    con: duckdb.DuckDBPyConnection,
    source: Source,
    accepted: Path,
    quarantined: Path,
    with_row_nr: bool,
    copy: bool,
) -> FileReport:
    """Look at every row cheaply, then closely at those in doubt; a file without any is copied as it came."""
    checks = source.checks
    columns = identifiers([ROW_NR, *checks.columns] if with_row_nr else checks.columns)
    rows, doubtful, repeated = look(con, source)
    # repeats that only warn take no row away: their hashes are counted, of which two may be equal by chance
    if not doubtful and (not any(repeated) or all(u.severity == "warning" for u in checks.unique)):
        query = f"{source.plain()} SELECT {columns} FROM plain"
        again_by_rule = {f"{u.label}: {_stands_once(u)}": n for u, n in zip(checks.unique, repeated, strict=True) if n}
        if copy:
            _copy(con, query, accepted)
            query = f"SELECT * FROM {_parquet(accepted)}"
        return _report(source, rows, 0, {}, again_by_rule, {}, query)
    if rows <= HELD_ROWS:
        source = source.hold_staged(con)
    if doubtful and checks.unique:  # rows may be equal only after they are normalised
        repeated = list(one_row(con, f"{source.staged()} SELECT {', '.join(_repeats(checks))} FROM staged"))
    again = [_repeated(con, source, nr, u) for nr, (u, n) in enumerate(zip(checks.unique, repeated, strict=True)) if n]
    reasons = [*checks.reasons, *again]
    errors = [r for r in reasons if r.severity == "error"]
    warnings = [r for r in reasons if r.severity == "warning"]
    # a row without doubt breaks no rule but that of repeats
    closely = " OR ".join(["coalesce((" + checks.doubt + "), false)", *(is_true(r.condition) for r in again)])
    bad = " OR ".join(is_true(r.condition) for r in errors) or "false"
    conditions = [bad, *(r.condition for r in [*errors, *warnings]), *(n.condition for n in checks.normalised)]
    counters = ", ".join(f"count(*) FILTER (WHERE {c})" for c in conditions)
    bad_rows, *counts = one_row(con, f"{source.staged(closely)} SELECT {counters} FROM staged")
    examples = _examples(con, source, closely, [r for r, n in zip([*errors, *warnings], counts, strict=False) if n])
    keep = ""
    if bad_rows:
        query = f"{source.staged(closely)} SELECT {ROW_NR} FROM staged WHERE {bad}"
        con.execute(f"CREATE OR REPLACE TEMP TABLE bad_rows AS {query}")
        among = f"{ROW_NR} IN (SELECT {ROW_NR} FROM bad_rows)"
        keep = f"WHERE NOT {among}"
        row = f"to_json({reasons_sql(errors, checks)}) AS reasons, {own_values_sql(checks)} AS row"
        _copy(con, f"{source.staged(among)} SELECT {ROW_NR}, {row} FROM staged WHERE {among}", quarantined)
    _copy(con, f"{source.staged()} SELECT {columns} FROM staged {keep}", accepted)
    con.execute(f"DROP TABLE IF EXISTS {HELD_STAGED}")
    found = iter(counts)
    labels = [[f"{r.column}: {r.rule}" for r in kind] for kind in (errors, warnings)]
    labels.append([f"{n.column}: {n.how}" for n in checks.normalised])
    by_kind = [{label: n for label, n in zip(of_kind, found, strict=False) if n} for of_kind in labels]
    query = f"SELECT * FROM {_parquet(accepted)}"
    return replace(_report(source, rows, bad_rows, by_kind[0], by_kind[1], by_kind[2], query), examples=examples)


def _examples(
    con: duckdb.DuckDBPyConnection, source: Source, closely: str, broken: list[Reason]
) -> dict[str, tuple[str, ...]]:
    """The most frequent values that break each of some rules, by its label. Whole rows are no example."""
    told = [r for r in broken if len(r.columns) <= 2]
    if not told:
        return {}
    size = _LONGEST_EXAMPLE
    tops = [
        f"approx_top_k(left({value_sql(r, source.checks, size)}, {size}), {_EXAMPLES}) FILTER (WHERE {r.condition})"
        for r in told
    ]
    found = one_row(con, f"{source.staged(closely)} SELECT {', '.join(tops)} FROM staged")
    return {f"{r.column}: {r.rule}": tuple(values or ()) for r, values in zip(told, found, strict=True)}


def _parquet(path: Path) -> str:
    return f"read_parquet({literal(str(path))})"


def _stands_once(unique: UniqueColumns) -> str:
    return f"{unique.name}: must be unique in a file"


def _report(
    source: Source,
    rows: int,
    quarantined: int,
    reasons: dict[str, int],
    warnings: dict[str, int],
    normalised: dict[str, int],
    query: str,
) -> FileReport:
    schema = source.checks.schema
    return FileReport(
        name=source.path.name,
        rows=rows,
        accepted=rows - quarantined,
        quarantined=quarantined,
        reasons=reasons,
        warnings=warnings,
        normalised=normalised,
        filled=schema.filled,
        added=schema.added,
        cast=schema.cast,
        query=query,
    )


def _repeated(con: duckdb.DuckDBPyConnection, source: Source, nr: int, unique: UniqueColumns) -> Reason:
    """Find the rows that repeat an earlier one of the file, by their values: equal hashes only told to look."""
    key = identifiers(unique.columns)
    table = f"repeated_{nr}"
    ranked = f"SELECT {ROW_NR}, row_number() OVER (PARTITION BY {key} ORDER BY {ROW_NR}) AS nth FROM staged"
    query = f"{source.staged()} SELECT {ROW_NR} FROM ({ranked}) WHERE nth > 1"
    con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {query}")
    condition = f"{ROW_NR} IN (SELECT {ROW_NR} FROM {table})"
    return Reason(unique.label, _stands_once(unique), unique.severity, condition, columns=unique.columns)


def _copy(con: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    con.execute(f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")
