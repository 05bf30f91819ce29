"""Split the rows of one file into accepted and quarantined ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from apex_ml.adapters.duckdb.engine import StrictConnection, one_row, reason_of
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.contract.names import ROW_NR
from apex_ml.sql.checked_file import (
    DROP_HELD_INPUTS,
    DROP_HELD_STAGED,
    CheckedFile,
    DoubtfulRows,
    copy_rows,
    unique_rule,
)
from apex_ml.sql.derived import DerivedValue
from apex_ml.sql.parquet import select_file
from apex_ml.sql.quote import identifiers
from apex_ml.sql.row_checks import Reason
from apex_ml.text import visible

HELD_ROWS = 65_536
"""The rows of a file of at most this size are kept in memory: to compile its checks for each query takes longer."""
_EXAMPLE_LENGTH = 40
_EXAMPLES = 3
_ERROR_LENGTH = 200


@dataclass(frozen=True)
class SplitFiles:
    """Where the rows of a file go. `accepted` gets the contract's columns, and with `row_numbers` the row's position.

    Without `copy` the accepted rows stay in the file itself when it needs no changes. `quarantined` is written only
    when a row is bad.
    """

    accepted: Path
    quarantined: Path
    row_numbers: bool
    copy: bool

    def columns(self, file: CheckedFile) -> str:
        """The columns of the accepted rows."""
        columns = file.checks.columns
        return identifiers([ROW_NR, *columns] if self.row_numbers else columns)


@dataclass(frozen=True)
class Doubts:
    """The result of the first pass over a file: rows, rows in doubt, and repeated rows for each unique rule."""

    rows: int
    doubtful: int
    repeated: tuple[int, ...]


def count_doubts(con: StrictConnection, file: CheckedFile) -> Doubts:
    """Apply every row rule in one pass, without normalising."""
    rows, doubtful, *repeated = one_row(con, file.count_doubts())
    return Doubts(rows, doubtful, tuple(repeated))


def compute_derived(con: StrictConnection, file: CheckedFile) -> None:
    """Keep the derived columns of a file for all queries of its rows."""
    if file.checks.derived:
        for statement in file.create_derived_tables():
            con.execute(statement)


def split_rows(con: StrictConnection, file: CheckedFile, to: SplitFiles) -> FileReport:
    """Check every row cheaply, then the rows in doubt closely; a file without such rows is copied unchanged."""
    doubts = count_doubts(con, file)
    # repeats that only warn remove no row: their hashes are counted, of which two may be equal by chance
    if not doubts.doubtful and (
        not any(doubts.repeated) or all(unique.severity == "warning" for unique in file.checks.unique)
    ):
        return _keep_all(con, file, to, doubts)
    if doubts.rows <= HELD_ROWS:
        con.execute(file.create_held_staged_table())
        file = replace(file, held_staged=True)
    repeated = doubts.repeated
    if doubts.doubtful and file.checks.unique:
        repeated = one_row(con, file.count_normalised_repeats())
    numbers = [number for number, n in enumerate(repeated) if n]
    for number in numbers:  # equal hashes alone prove nothing: the values are compared
        con.execute(file.create_repeated_table(number))
    return _split_closely(con, DoubtfulRows(file, tuple(map(file.repeated_reason, numbers))), to, doubts.rows)


def _keep_all(con: StrictConnection, file: CheckedFile, to: SplitFiles, doubts: Doubts) -> FileReport:
    query = file.select_plain(to.columns(file))
    if to.copy:
        con.execute(copy_rows(query, to.accepted))
        query = select_file(to.accepted)
    by_rule = zip(file.checks.unique, doubts.repeated, strict=True)
    warnings = {f"{unique.label}: {unique_rule(unique)}": n for unique, n in by_rule if n}
    return replace(_report(file, doubts.rows, 0, query), warnings=warnings)


def _split_closely(con: StrictConnection, doubtful: DoubtfulRows, to: SplitFiles, rows: int) -> FileReport:
    errors, warnings, normalised = doubtful.errors, doubtful.warnings, doubtful.file.checks.normalised
    bad, *counts = one_row(con, doubtful.count_reasons())
    broken = [reason for reason, n in zip([*errors, *warnings], counts, strict=False) if n]
    examples = _examples(con, doubtful, broken)
    if bad:
        con.execute(doubtful.create_bad_table())
        con.execute(doubtful.copy_bad(to.quarantined))
    con.execute(doubtful.copy_good(to.columns(doubtful.file), to.accepted, without_bad=bool(bad)))
    con.execute(DROP_HELD_STAGED)
    con.execute(DROP_HELD_INPUTS)
    remaining = iter(counts)
    labels = [[f"{r.column}: {r.rule}" for r in kind] for kind in (errors, warnings)]
    labels.append([f"{n.column}: {n.how}" for n in normalised])
    by_kind = [{label: n for label, n in zip(of_kind, remaining, strict=False) if n} for of_kind in labels]
    return replace(
        _report(doubtful.file, rows, bad, select_file(to.accepted)),
        reasons=by_kind[0],
        warnings=by_kind[1],
        normalised=by_kind[2],
        examples=examples,
    )


def _examples(con: StrictConnection, doubtful: DoubtfulRows, broken: list[Reason]) -> dict[str, tuple[str, ...]]:
    """By label, the most frequent values that break each of some rules. Whole rows are no example."""
    failing = {value.rule for value in doubtful.file.checks.derived}
    shown = [reason for reason in broken if len(reason.columns) <= 2 or reason.rule in failing]
    if not shown:
        return {}
    tops = one_row(con, doubtful.top_values(shown, _EXAMPLE_LENGTH, _EXAMPLES))
    examples = {f"{r.column}: {r.rule}": tuple(values or ()) for r, values in zip(shown, tops, strict=True)}
    for value in doubtful.file.checks.derived:
        if (label := f"{value.column}: {value.rule}") in examples:
            examples[label] += _error(con, doubtful.file, value)
    return examples


def _error(con: StrictConnection, file: CheckedFile, value: DerivedValue) -> tuple[str, ...]:
    """The error of an expression on one of the rows on which it fails."""
    try:
        con.execute(file.fail_once(value)).fetchall()
    except duckdb.Error as error:
        return (visible(reason_of(error))[:_ERROR_LENGTH],)
    return ()


def _report(file: CheckedFile, rows: int, quarantined: int, query: str) -> FileReport:
    schema = file.checks.schema
    return FileReport(
        name=file.path.name,
        rows=rows,
        accepted=rows - quarantined,
        quarantined=quarantined,
        reasons={},
        warnings={},
        normalised={},
        filled=schema.filled,
        added=schema.added,
        cast=schema.cast,
        query=query,
    )
