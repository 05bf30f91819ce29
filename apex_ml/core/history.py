"""The history state of many rows in one pass over the rows sorted by entity and day.

:func:`apex_ml.sql.features.select_state` computes the same state with a join, for any dates. Here the rows of an
entity are sorted, so that the state is the difference of two running sums. Both give the same integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.history_state import (
    Aggregate,
    DaySum,
    KnownValues,
    LastDate,
    LastTarget,
    MeasureSum,
    Rows,
    state_columns,
)
from apex_ml.contract.model import Contract
from apex_ml.contract.names import DAY, PLACE, POSITION, exact_name

EPOCH = date(1970, 1, 1)


def settle_ties(contract: Contract, table: pa.Table) -> tuple[pa.Table, bool]:
    """Sort rows of the same entity and day by target, measures (null last) and position.

    Also returns whether some rows are equal in all of these except the position. Only such rows can be duplicates.
    """
    entities, days = table.column(contract.entity).combine_chunks(), table.column(DAY).to_numpy()
    tied = np.zeros(table.num_rows + 1, bool)
    if table.num_rows:
        tied[1:-1] = pc.equal(entities[1:], entities[:-1]).to_numpy(zero_copy_only=False) & (days[1:] == days[:-1])
    rows = np.flatnonzero(tied[1:] | tied[:-1])
    if not len(rows):
        return table, False
    among = table.select([POSITION, PLACE, *map(exact_name, contract.named("measure"))]).take(pa.array(rows))
    keys = [among.column(POSITION).to_numpy()]
    for measure in reversed(contract.named("measure")):
        column = among.column(exact_name(measure))
        keys += [_integers(among, exact_name(measure)), column.is_null().to_numpy()]
    keys += [among.column(PLACE).to_numpy(), np.cumsum(~tied[:-1])[rows]]
    ranking = np.lexsort(keys)
    alike = np.logical_and.reduce([key[ranking[1:]] == key[ranking[:-1]] for key in keys[1:]])
    ordered, mask = among.take(pa.array(ranking)), pa.array(tied[1:] | tied[:-1])
    for name in ordered.column_names:  # entity and day are the same in all of them
        settled = pc.replace_with_mask(table.column(name), mask, ordered.column(name).combine_chunks())
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), settled)
    return table, bool(alike.any())


def whole_entities(batches: Iterable[pa.RecordBatch], entity: str) -> Iterator[pa.Table]:
    """Cut a sorted stream again, so that all rows of an entity are in one table."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        names = batch.column(entity)
        first = pc.index(names, names[-1]).as_py()
        if first == 0 and kept and kept[-1].column(entity)[-1] == names[-1]:
            kept.append(batch)
            continue
        if kept or first:
            yield pa.Table.from_batches([*kept, batch.slice(0, first)])
        kept = [batch.slice(first)]
    if kept:
        yield pa.Table.from_batches(kept)


def _integers(table: pa.Table, name: str) -> np.ndarray:
    column = table.column(name)
    values: np.ndarray = (pc.fill_null(column, 0) if column.null_count else column).to_numpy()
    return values.astype(np.int64, copy=False)


class Replay:
    """The history before each row. All rows of an entity are in the same table.

    The rows are sorted by :func:`~apex_ml.sql.history.select_sorted` and :func:`settle_ties`.

    States are tables of the entity, the timestamp and the columns of
    :func:`~apex_ml.contract.history_state.state_columns`.
    """

    def __init__(self, contract: Contract, table: pa.Table) -> None:
        self.contract, self.table = contract, table
        self._entities = table.column(contract.entity).combine_chunks()
        self._days, self._places = _integers(table, DAY), _integers(table, PLACE)
        changes = np.ones(table.num_rows + 1, bool)
        if table.num_rows:
            changes[1:-1] = pc.not_equal(self._entities[1:], self._entities[:-1]).to_numpy(zero_copy_only=False)
        bounds = np.flatnonzero(changes)
        # rows firsts[i] … ends[i] - 1 belong to entity i
        self._firsts, self._ends = bounds[:-1], bounds[1:]
        counted = np.arange(table.num_rows + 1)
        self._sums: dict[str, np.ndarray] = {}
        for column in state_columns(contract):
            if not isinstance(column.aggregate, LastDate | LastTarget):
                values = self._summed(column.aggregate)
                self._sums[column.name] = counted if values is None else self._running(values)

    def _summed(self, aggregate: Aggregate) -> np.ndarray | None:
        """The values that an aggregate sums, one per row; None means ones."""
        match aggregate:
            case Rows(str(level)):
                return self._has_level(level)
            case MeasureSum(measure):
                return _integers(self.table, exact_name(measure))
            case KnownValues(measure):
                values = self.table.column(exact_name(measure))
                return values.is_valid().to_numpy() if values.null_count else None
            case DaySum(power, level):
                days = self._days**power
                return days if level is None else np.where(self._has_level(level), days, 0)
        return None

    def _has_level(self, level: str) -> np.ndarray:
        equal: np.ndarray = self._places == self.contract.classes.index(level) + 1
        return equal

    @staticmethod
    def _running(values: np.ndarray) -> np.ndarray:
        sums = np.zeros(len(values) + 1, np.int64)
        np.cumsum(values, out=sums[1:])
        return sums

    def _state(self, entities: np.ndarray, days: np.ndarray) -> pa.Table:
        """The state of the entities (numbers from 0) before the days; both have shape (n,)."""
        begins = self._firsts[entities]
        before = days - self.contract.features.history_lag_days
        # the entities are so far apart on this scale that no requested day reaches a neighbour
        oldest = min(int(self._days.min()), int(before.min()))
        apart = max(int(self._days.max()), int(before.max())) - oldest + 1
        numbers = np.repeat(np.arange(len(self._firsts)), self._ends - self._firsts)
        ends = np.searchsorted(numbers * apart + (self._days - oldest), entities * apart + (before - oldest))
        unknown = ends == begins
        latest = np.maximum(ends - 1, 0)

        def day(values: np.ndarray, mask: np.ndarray | None = None) -> pa.Array:
            return pa.array(values.astype(np.int32), pa.int32(), mask=mask).cast(pa.date32())

        columns = {
            self.contract.entity: self._entities.take(pa.array(begins)),
            self.contract.timestamp: day(days),
        }
        for column in state_columns(self.contract):
            if isinstance(column.aggregate, LastDate):
                columns[column.name] = day(self._days[latest], unknown)
            elif isinstance(column.aggregate, LastTarget):
                columns[column.name] = pa.array(self._places[latest], mask=unknown)
            else:
                sums = self._sums[column.name]
                columns[column.name] = pa.array(sums[ends] - sums[begins])
        return pa.table(columns)

    def every_row(self) -> pa.Table:
        """The state of each row before its own day, with the row's position."""
        numbers = np.repeat(np.arange(len(self._firsts)), self._ends - self._firsts)
        return self._state(numbers, self._days).append_column(POSITION, self.table.column(POSITION))

    def last_rows(self) -> tuple[pa.Table, pa.Array]:
        """The state of each entity before the day of its last row, with the row's position.

        Of several rows on that day it takes the one that :func:`~apex_ml.sql.features.select_examples` chooses. Where
        the choice depends on the attributes, the position is null, and the second result holds the candidates.
        """
        last = self._ends - 1
        state = self._state(np.arange(len(last)), self._days[last])
        chosen, open_rows = self._settle(last)
        positions = self.table.column(POSITION).combine_chunks()
        settled = pc.if_else(pa.array(chosen >= 0), positions.take(pa.array(np.maximum(chosen, 0))), None)
        return state.append_column(POSITION, settled), positions.take(pa.array(open_rows))

    def _settle(self, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row of each entity's last row, -1 where it is not decided, and the candidate rows of these entities."""
        chosen = last.copy()
        several = last > self._firsts
        several[several] = self._days[last[several] - 1] == self._days[last[several]]
        owners = np.repeat(np.arange(len(last)), self._ends - self._firsts)
        rows = np.flatnonzero(several[owners] & (self._days == self._days[last][owners]))
        keys = [owners[rows]]
        for measure in self.contract.named("measure"):
            column = self.table.column(exact_name(measure))
            keys += [column.is_valid().to_numpy()[rows], _integers(self.table, exact_name(measure))[rows]]
        keys.append(self._places[rows])
        ranking = np.lexsort(keys[::-1])
        rows, ranks = rows[ranking], np.array([key[ranking] for key in keys], np.int64)
        best = np.flatnonzero(np.diff(ranks[0], append=-1))
        chosen[ranks[0][best]] = rows[best]
        top = np.zeros(len(last), np.int64)
        top[ranks[0][best]] = best
        equal = (ranks == ranks[:, top[ranks[0]]]).all(axis=0)
        still = np.bincount(ranks[0][equal], minlength=len(last)) > 1
        chosen[still] = -1
        return chosen, rows[equal & still[ranks[0]]]

    def snapshot(self, as_of: date) -> pa.Table:
        """The state of every entity before one day, without the day."""
        days = np.full(len(self._firsts), (as_of - EPOCH).days)
        return self._state(np.arange(len(days)), days).drop_columns([self.contract.timestamp])


def settle_by_attributes(contract: Contract, rows: pa.Table) -> pa.Table:
    """For each entity, choose the row whose attributes sort last (nulls first)."""
    keys = [(contract.entity, "ascending"), *((name, "descending") for name in contract.named("attribute"))]
    ordered = rows.take(pc.sort_indices(rows, sort_keys=keys, null_placement="at_end"))
    names = ordered.column(contract.entity).combine_chunks()
    firsts = np.ones(len(names), bool)
    if len(names):
        firsts[1:] = pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)
    return ordered.filter(pa.array(firsts))
