"""Run the contract's row checks on one parquet file, in DuckDB, in bounded memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duck import errors_name, one_row
from apex_ml.adapters.store import check_parquet
from apex_ml.contract.masks import ROW_NR, Reason, RowChecks, compile_row_checks, literal, quoted, raw
from apex_ml.contract.model import Contract, Use
from apex_ml.errors import DataError


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

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a manifest."""
        return asdict(self)


def read_schema(path: Path) -> pa.Schema:
    """Read a parquet file's Arrow schema.

    Raises :class:`~apex_ml.errors.DataError` naming the file when it is not a whole, readable parquet file.
    """
    check_parquet(path)
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path.name}: a damaged parquet file; deliver it again ({first})") from error


def _refuse_missing(path: Path, contract: Contract, checks: RowChecks) -> None:
    if not checks.schema.missing_required:
        return
    lines = [f"{path.name}: required columns are missing; expected → found"]
    for name in checks.schema.missing_required:
        near = [f for f in checks.schema.added if f.strip().lower() == name.lower()]
        lines.append(f"  {name} ({contract.columns[name].type}) → {near[0] + ' (rename it)' if near else 'nothing'}")
    if checks.schema.added:
        lines.append(f"  columns unknown to the contract: {', '.join(checks.schema.added[:10])}")
    raise DataError("\n".join(lines))


def _when(condition: str) -> str:
    return f"coalesce({condition}, false)"


def _details(reasons: list[Reason], checks: RowChecks) -> str:
    """SQL of the list of all reasons of a row, each with column, value and rule."""
    known = set(checks.raw_columns)
    items = []
    for reason in reasons:
        parts = [p for p in reason.column.split(" + ") if p in known]
        value = " || ' / ' || ".join(f"coalesce(CAST({raw(p)} AS VARCHAR), 'null')" for p in parts) or "'absent'"
        struct = f"{{'column': {literal(reason.column)}, 'value': left({value}, 200), 'rule': {literal(reason.rule)}}}"
        items.append(f"CASE WHEN {_when(reason.condition)} THEN {struct} END")
    return f"list_filter([{', '.join(items)}], lambda reason: reason IS NOT NULL)"


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
) -> FileReport:
    """Split one file into accepted rows and quarantined rows with all their reasons.

    `accepted` gets the contract's columns, normalised and cast (with `with_row_nr` also the row's position in the
    file). `quarantined` is written only when a row is bad: `row_nr`, `reasons` (JSON list of column, value, rule) and
    `row` (JSON of the file's own values). Raises :class:`~apex_ml.errors.DataError` for a file that cannot be read or
    lacks a required column.
    """
    schema = read_schema(path)
    checks = compile_row_checks(contract, use, schema, as_of)
    _refuse_missing(path, contract, checks)
    source = f"SELECT * FROM read_parquet({literal(str(path))}, file_row_number = true)"
    staged = f"WITH source AS ({source}), staged AS ({checks.staged})"
    with errors_name(path.name):
        errors = [r for r in checks.reasons if r.severity == "error"]
        errors += _repeated(con, staged, checks, path)
        warnings = [r for r in checks.reasons if r.severity == "warning"]
        bad = " OR ".join(_when(r.condition) for r in errors) or "false"
        conditions = [r.condition for r in [*errors, *warnings]] + [n.condition for n in checks.normalised]
        counters = ", ".join(f"count(*) FILTER (WHERE {c})" for c in [bad, *conditions])
        rows, quarantined_rows, *counts = one_row(con, f"{staged} SELECT count(*), {counters} FROM staged")
        columns = ", ".join(map(quoted, [ROW_NR, *checks.columns] if with_row_nr else checks.columns))
        keep = f"WHERE NOT ({bad})" if quarantined_rows else ""
        _copy(con, f"{staged} SELECT {columns} FROM staged {keep}", accepted)
        if quarantined_rows:
            fields = ", ".join(f"{literal(n)}: {raw(n)}" for n in checks.raw_columns)
            details = f"to_json({_details(errors, checks)}) AS reasons, to_json({{{fields}}}) AS row"
            _copy(con, f"{staged} SELECT {ROW_NR}, {details} FROM staged WHERE {bad}", quarantined)
    labels = [f"{r.column}: {r.rule}" for r in [*errors, *warnings]]
    labels += [f"{n.column}: {n.how}" for n in checks.normalised]
    found = {label: n for label, n in zip(labels, counts, strict=True) if n}
    error_labels = {f"{r.column}: {r.rule}" for r in errors}
    warning_labels = {f"{r.column}: {r.rule}" for r in warnings}
    return FileReport(
        name=path.name,
        rows=rows,
        accepted=rows - quarantined_rows,
        quarantined=quarantined_rows,
        reasons={k: n for k, n in found.items() if k in error_labels},
        warnings={k: n for k, n in found.items() if k in warning_labels},
        normalised={k: n for k, n in found.items() if k not in error_labels | warning_labels},
        filled=checks.schema.filled,
        added=checks.schema.added,
        cast=checks.schema.cast,
    )


def _repeated(con: duckdb.DuckDBPyConnection, staged: str, checks: RowChecks, path: Path) -> list[Reason]:
    """Find the rows that repeat an earlier one of the file; a hash first, as files without repeats are the rule."""
    found = []
    for nr, (name, columns) in enumerate(checks.unique):
        key = ", ".join(map(quoted, columns))
        (repeats,) = one_row(con, f"{staged} SELECT count(*) - count(DISTINCT hash({key})) FROM staged")
        if repeats:
            table = f"repeated_{nr}"
            ranked = f"SELECT {ROW_NR}, row_number() OVER (PARTITION BY {key} ORDER BY {ROW_NR}) AS nth FROM staged"
            con.execute(
                f"CREATE OR REPLACE TEMP TABLE {table} AS {staged} SELECT {ROW_NR} FROM ({ranked}) WHERE nth > 1"
            )
            condition = f"{ROW_NR} IN (SELECT {ROW_NR} FROM {table})"
            found.append(Reason(" + ".join(columns), f"{name}: stands once in a file", "error", condition))
    return found


def _copy(con: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    con.execute(f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")
