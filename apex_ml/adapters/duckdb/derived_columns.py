"""Compute the derived columns of requests, by the SQL that computes those of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa

from apex_ml.adapters.duckdb.derived_types import derived_types
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.contract.requests.derived import Computed
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.contract.time_units import EPOCH, EPOCH_IN_UTC
from apex_ml.sql.derived import OUTSIDE_YEARS, failed_rule, not_finite_rule, select_values
from apex_ml.sql.session import SHOW_INSTANTS_IN_UTC

MAX_KNOWN = 20_000
"""Rows of which the values are kept."""
_MEMORY = "256MB"
_ROWS = "rows"
"""The name of the argument that the statement reads."""


def request_reader(contract: Contract) -> RequestReader:
    """A reader of requests, with the engine that computes derived columns if the contract has any."""
    return RequestReader(contract, DerivedColumns(contract) if contract.derived else None)


class DerivedColumns:
    """Computes the derived columns of rows. For one thread at a time."""

    def __init__(self, contract: Contract) -> None:
        names = contract.sources(*{column.role for column in contract.derived.values()})
        self._sources = [contract.columns[name] for name in names]
        self._types = derived_types(contract)
        self._derived = list(contract.derived.values())
        self._con = duckdb.connect(":memory:", config={"threads": "1", "memory_limit": _MEMORY})
        self._con.execute(SHOW_INSTANTS_IN_UTC)
        (self._statement,) = self._con.extract_statements(select_values(contract, self._types, _ROWS))
        # rows repeat: days do
        self._known: dict[tuple[Any, ...], list[Computed]] = {}

    def __call__(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Computed]]:
        """The derived columns, from the values of the others."""
        rows = list(zip(*(columns[column.name] for column in self._sources), strict=True))
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        if new := [row for row in dict.fromkeys(rows) if row not in self._known]:
            self._known.update(zip(new, self._compute(new), strict=True))
        computed = [self._known[row] for row in rows]
        return {column.name: [values[nr] for values in computed] for nr, column in enumerate(self._derived)}

    def _compute(self, rows: list[tuple[Any, ...]]) -> list[list[Computed]]:
        values = zip(self._sources, zip(*rows, strict=True), strict=True)
        table = pa.table({column.name: pa.array(cells, column.arrow_type) for column, cells in values})
        return [
            [self._computed(column, *row[4 * nr : 4 * nr + 4]) for nr, column in enumerate(self._derived)]
            for row in self._run(table)
        ]

    def _run(self, rows: pa.Table) -> list[tuple[Any, ...]]:
        # DuckDB finds the argument by its name
        return self._con.execute(self._statement).fetchall()

    def _computed(
        self, column: Column, value: Any, lost_by: str | None, has_failed: bool, is_not_finite: bool
    ) -> Computed:
        if has_failed:
            return Computed(None, failed_rule(column))
        if is_not_finite:
            return Computed(None, not_finite_rule(column))
        if lost_by is not None:
            return Computed(None, lost_by)
        if value is None or column.type not in ("date", "timestamp"):
            return Computed(value)
        try:
            if column.type == "date":
                return Computed(EPOCH + timedelta(days=value))
            time = EPOCH_IN_UTC + timedelta(microseconds=value)
        except OverflowError:
            return Computed(None, OUTSIDE_YEARS)
        return Computed(time if column.timezone is not None else time.replace(tzinfo=None))
