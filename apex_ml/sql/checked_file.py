"""The rows of one file under its row checks: DuckDB SQL.

:class:`CheckedFile` examines every row cheaply. :class:`DoubtfulRows` closely examines the rows that may break a rule
or need normalising, and separates the bad ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from apex_ml.contract.names import IN_DOUBT, ROW_NR
from apex_ml.sql.derived import DerivedValue, select_derived
from apex_ml.sql.parquet import copy_to_parquet, place_name, scan_by_place
from apex_ml.sql.quarantine import is_true, own_values_sql, reasons_sql, value_sql
from apex_ml.sql.quote import identifier, identifiers
from apex_ml.sql.recovered_columns import RecoveredColumns
from apex_ml.sql.row_checks import Reason, RowChecks, UniqueColumns
from apex_ml.sql.session import replace_temp_table

HELD, HELD_STAGED = "held_rows", "held_staged_rows"
DROP_HELD_STAGED = f"DROP TABLE IF EXISTS {HELD_STAGED}"
HELD_DERIVED = "held_derived_values"
HELD_INPUTS = "held_inputs"
DROP_HELD_INPUTS = f"DROP TABLE IF EXISTS {HELD_INPUTS}"
BAD = "bad_rows"
COMPRESSION_LEVEL = 1


@dataclass(frozen=True)
class CheckedFile:
    """SQL clauses and queries over the rows of a file, its columns named by their places."""

    path: Path
    checks: RowChecks
    held: bool = False
    """Whether the rows of :meth:`plain` are in the table HELD."""
    held_staged: bool = False
    """Whether the rows of :meth:`staged` are in the table HELD_STAGED."""
    recovered: RecoveredColumns | None = None
    has_lines: bool = False
    """Whether the column behind those of the file holds the line of each row; else a row has its position."""
    keys: tuple[str, ...] = ()
    """SQL of the values of the last columns of the checks, which the path of the file holds."""

    def rows(self) -> str:
        """All rows as they are in the file, with the derived columns."""
        own = self._own_rows()
        return f"SELECT * FROM ({own}) POSITIONAL JOIN {HELD_DERIVED}" if self.checks.derived else own

    def _own_rows(self) -> str:
        source = self.checks.source
        own = len(source) - len(self.keys)
        file = scan_by_place(self.path, own + self.has_lines)
        row_nr = f"file.{place_name(own) if self.has_lines else 'file_row_number'} AS {ROW_NR}"
        columns: list[str] = []
        for place, name in enumerate(source[:own]):
            if self.recovered is not None and place in self.recovered.places:
                columns += self.recovered.columns(place)
            else:
                columns.append(f"file.{name} AS {name}")
        columns += [f"{value} AS {name}" for name, value in zip(source[own:], self.keys, strict=True)]
        relation = file if self.recovered is None else self.recovered.relation(file)
        return f"SELECT {', '.join([*columns, row_nr])} FROM {relation}"

    def plain(self) -> str:
        """Clause: all rows as `plain`, cast but not normalised, with the column IN_DOUBT."""
        if self.held:
            return f"WITH plain AS (FROM {HELD})"
        return f"WITH source AS ({self.rows()}), plain AS ({self.checks.plain})"

    def staged(self, where: str = "true") -> str:
        """Clause: the rows that fulfil a condition as `staged`, normalised, beside the file's own values.

        From the table HELD_STAGED come all rows.
        """
        if self.held_staged:
            return f"WITH staged AS (FROM {HELD_STAGED})"
        source = f"SELECT * FROM ({self.rows()}) WHERE {where}"
        return f"WITH source AS ({source}), staged AS ({self.checks.staged})"

    def create_held_table(self) -> str:
        """Keep the rows of :meth:`plain` in the table HELD."""
        return replace_temp_table(HELD, f"{self.plain()} FROM plain")

    def create_held_staged_table(self) -> str:
        """Keep the rows of :meth:`staged` in the table HELD_STAGED."""
        return replace_temp_table(HELD_STAGED, f"{self.staged()} FROM staged")

    def create_derived_tables(self) -> list[str]:
        """Keep the values of the derived columns in the table HELD_DERIVED, in the order of the rows.

        An expression that fails on a row is slow, as it is then computed row by row: once is enough. What the
        expressions read is in the table HELD_INPUTS.
        """
        inputs = self.checks.select_inputs(f"({self._own_rows()})")
        return [
            replace_temp_table(HELD_INPUTS, inputs),
            replace_temp_table(HELD_DERIVED, select_derived(self.checks.derived, HELD_INPUTS)),
        ]

    def fail_once(self, value: DerivedValue) -> str:
        """A query that fails as the expression of a derived column does, on a row on which it does."""
        rows = f"{HELD_INPUTS} POSITIONAL JOIN {HELD_DERIVED}"
        return f"SELECT {value.expression} FROM {rows} WHERE {value.failed} LIMIT 1"

    def count_doubts(self) -> str:
        """Count rows, rows in doubt, and for each unique rule the repeated rows, in one pass without normalising."""
        doubtful = f"count(*) FILTER (WHERE {identifier(IN_DOUBT)})"
        return f"{self.plain()} SELECT {', '.join(['count(*)', doubtful, *self._repeats()])} FROM plain"

    def count_normalised_repeats(self) -> str:
        """Count the repeated rows for each unique rule: rows may be equal only after they are normalised."""
        return f"{self.staged()} SELECT {', '.join(self._repeats())} FROM staged"

    def _repeats(self) -> list[str]:
        # by hashes, of which two may be equal by chance
        return [f"count(*) - count(DISTINCT hash({identifiers(u.columns)}))" for u in self.checks.unique]

    def select_plain(self, columns: str) -> str:
        """Columns of all rows, for a file without rows in doubt."""
        return f"{self.plain()} SELECT {columns} FROM plain"

    def create_repeated_table(self, number: int) -> str:
        """Keep the rows that repeat an earlier one by a unique rule, compared by their values, in a table."""
        key = identifiers(self.checks.unique[number].columns)
        ranked = f"SELECT {ROW_NR}, row_number() OVER (PARTITION BY {key} ORDER BY {ROW_NR}) AS nth FROM staged"
        query = f"{self.staged()} SELECT {ROW_NR} FROM ({ranked}) WHERE nth > 1"
        return replace_temp_table(_repeated(number), query)

    def repeated_reason(self, number: int) -> Reason:
        """The rule that the rows of :meth:`create_repeated_table` break."""
        unique = self.checks.unique[number]
        condition = f"{ROW_NR} IN (SELECT {ROW_NR} FROM {_repeated(number)})"
        return Reason(unique.label, unique_rule(unique), unique.severity, condition, columns=unique.columns)


def _repeated(number: int) -> str:
    return f"repeated_{number}"


def unique_rule(unique: UniqueColumns) -> str:
    """The text of a unique rule in reports."""
    return f"{unique.name}: must be unique in a file"


def copy_rows(query: str, path: Path) -> str:
    """Write rows to a file; weakly compressed, as that is much faster."""
    return copy_to_parquet(query, path, COMPRESSION_LEVEL)


@dataclass(frozen=True)
class DoubtfulRows:
    """SQL over the rows in doubt of a file, and those that repeat another one by one of the reasons `repeats`."""

    file: CheckedFile
    repeats: tuple[Reason, ...]

    @property
    def errors(self) -> list[Reason]:
        """Reasons to quarantine a row."""
        return self._reasons("error")

    @property
    def warnings(self) -> list[Reason]:
        """Reasons that are only counted."""
        return self._reasons("warning")

    def _reasons(self, severity: str) -> list[Reason]:
        return [r for r in (*self.file.checks.reasons, *self.repeats) if r.severity == severity]

    def _closely(self) -> str:
        # a row without doubt breaks no rule except that of repeats
        where = [f"coalesce(({self.file.checks.doubt}), false)", *(is_true(r.condition) for r in self.repeats)]
        return self.file.staged(" OR ".join(where))

    def _bad(self) -> str:
        return " OR ".join(is_true(r.condition) for r in self.errors) or "false"

    def count_reasons(self) -> str:
        """Count the bad rows, then the rows of each error, each warning and each declared change of values."""
        conditions = [self._bad(), *(r.condition for r in [*self.errors, *self.warnings])]
        conditions += [n.condition for n in self.file.checks.normalised]
        counters = ", ".join(f"count(*) FILTER (WHERE {c})" for c in conditions)
        return f"{self._closely()} SELECT {counters} FROM staged"

    def top_values(self, reasons: Iterable[Reason], size: int, limit: int) -> str:
        """For each reason a list of the most frequent values behind it, as text of at most `size` characters."""
        tops = [
            f"approx_top_k(left({value_sql(r, self.file.checks, size)}, {size}), {limit}) FILTER (WHERE {r.condition})"
            for r in reasons
        ]
        return f"{self._closely()} SELECT {', '.join(tops)} FROM staged"

    def create_bad_table(self) -> str:
        """Keep the bad rows in the table BAD."""
        return replace_temp_table(BAD, f"{self._closely()} SELECT {ROW_NR} FROM staged WHERE {self._bad()}")

    def copy_bad(self, path: Path) -> str:
        """Write the rows of BAD to a file, each with its reasons and its own values."""
        checks = self.file.checks
        row = f"to_json({reasons_sql(self.errors, checks)}) AS reasons, {own_values_sql(checks)} AS row"
        among = _among_bad()
        return copy_rows(f"{self.file.staged(among)} SELECT {ROW_NR}, {row} FROM staged WHERE {among}", path)

    def copy_good(self, columns: str, path: Path, *, without_bad: bool) -> str:
        """Write columns of all rows to a file, or of all but those of BAD."""
        keep = f"WHERE NOT {_among_bad()}" if without_bad else ""
        return copy_rows(f"{self.file.staged()} SELECT {columns} FROM staged {keep}", path)


def _among_bad() -> str:
    return f"{ROW_NR} IN (SELECT {ROW_NR} FROM {BAD})"
