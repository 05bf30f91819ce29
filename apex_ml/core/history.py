"""The history state of many rows in one pass over the rows sorted by entity and time.

:func:`apex_ml.sql.features.select_state` computes the same state with a join, for any dates. Here the rows of an
entity are sorted, so that the state is the difference of two running sums. Both give the same integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.history_state import (
    Aggregate,
    DaySum,
    DistinctValues,
    Extreme,
    KnownValues,
    LastDate,
    LastTarget,
    LatestValue,
    MeasureSum,
    Rows,
    StateColumn,
    longest_window,
    state_columns,
)
from apex_ml.contract.model import Contract
from apex_ml.contract.names import KEY, PLACE, POSITION, SINCE, TIME, WINDOW_DAYS, exact_name
from apex_ml.core.history_aggregates import DistinctCounts, Extremes, LatestValues, RangeAggregate, Sums
from apex_ml.core.row_time import time_array
from apex_ml.core.timeline import Timeline


def settle_ties(contract: Contract, table: pa.Table, key: str | None = None) -> tuple[pa.Table, bool]:
    """Sort rows of the same entity, or of the same value of `key`, and time by target, measures (null last), position.

    Also returns whether some rows are equal in all of these except the position. Only such rows can be duplicates.
    """
    key = key or contract.entity
    entities, times = table.column(key).combine_chunks(), table.column(TIME).to_numpy()
    tied = np.zeros(table.num_rows + 1, bool)
    if table.num_rows:
        tied[1:-1] = pc.equal(entities[1:], entities[:-1]).to_numpy(zero_copy_only=False) & (times[1:] == times[:-1])
    rows = np.flatnonzero(tied[1:] | tied[:-1])
    if not len(rows):
        return table, False
    among = table.drop_columns([key, TIME]).take(pa.array(rows))
    keys = [among.column(POSITION).to_numpy()]
    for measure in reversed(contract.named("measure")):
        column = among.column(exact_name(measure))
        keys += [_integers(among, exact_name(measure)), column.is_null().to_numpy()]
    keys += [among.column(PLACE).to_numpy(), np.cumsum(~tied[:-1])[rows]]
    ranking = np.lexsort(keys)
    alike = np.logical_and.reduce([key[ranking[1:]] == key[ranking[:-1]] for key in keys[1:]])
    ordered, mask = among.take(pa.array(ranking)), pa.array(tied[1:] | tied[:-1])
    for name in ordered.column_names:  # entity and time are the same in all of them
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

    With `by` it is a history by other columns: the rows have the number `KEY` of their values, which takes the place of
    the entity everywhere.

    The rows are sorted by :func:`~apex_ml.sql.history.select_sorted` and :func:`settle_ties`.

    States are tables of the entity, the timestamp and the columns of
    :func:`~apex_ml.contract.history_state.state_columns`.
    """

    def __init__(self, contract: Contract, table: pa.Table, by: tuple[str, ...] = ()) -> None:
        self.contract, self.table, self._key = contract, table, KEY if by else contract.entity
        self._entities = table.column(self._key).combine_chunks()
        self._times, self._places = _integers(table, TIME), _integers(table, PLACE)
        changes = np.ones(table.num_rows + 1, bool)
        if table.num_rows:
            changes[1:-1] = pc.not_equal(self._entities[1:], self._entities[:-1]).to_numpy(zero_copy_only=False)
        bounds = np.flatnonzero(changes)
        # rows firsts[i] … ends[i] - 1 belong to entity i
        self._firsts, self._ends = bounds[:-1], bounds[1:]
        self._numbers = np.repeat(np.arange(len(self._firsts)), self._ends - self._firsts)
        self._timeline = Timeline(self._numbers, self._times)
        self._lag = contract.history_lag
        self._columns = state_columns(contract, by)
        self._aggregates: dict[Aggregate, RangeAggregate] = {
            aggregate: self._aggregate(aggregate)
            for aggregate in dict.fromkeys(column.aggregate for column in self._columns)
            if not isinstance(aggregate, LastDate | LastTarget)
        }

    def _aggregate(self, aggregate: Aggregate) -> RangeAggregate:
        match aggregate:
            case DistinctValues(attribute):
                return DistinctCounts(*self._known(attribute), self._numbers)
            case Extreme(measure, side):
                return Extremes(*self._known(measure), side)
            case LatestValue(measure):
                return LatestValues(*self._known(measure), self._numbers, self._times)
        return Sums(self._summed(aggregate), self.table.num_rows)

    def _known(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The exact values of a column, and which are known."""
        column = self.table.column(exact_name(name))
        return _integers(self.table, exact_name(name)), column.is_valid().to_numpy()

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
                days = (self._times // self.contract.times_a_day) ** power
                return days if level is None else np.where(self._has_level(level), days, 0)
        return None

    def _has_level(self, level: str) -> np.ndarray:
        equal: np.ndarray = self._places == self.contract.classes.index(level) + 1
        return equal

    def _state(self, entities: np.ndarray, times: np.ndarray, columns: Iterable[StateColumn]) -> pa.Table:
        """The state of the entities (numbers from 0) before the times; both have shape (n,)."""
        before = times - self._lag
        begins: dict[int | None, np.ndarray] = {None: self._firsts[entities]}
        for window in dict.fromkeys(column.scope.window for column in self._columns if column.scope.window):
            begins[window] = self._timeline.first_from(entities, before - window * self.contract.times_a_day)
        ends = self._timeline.first_from(entities, before)
        unknown = ends == begins[None]
        latest = np.maximum(ends - 1, 0)
        state = {
            self._key: self._entities.take(pa.array(begins[None])),
            self.contract.timestamp: time_array(self.contract, times),
        }
        for column in columns:
            if isinstance(column.aggregate, LastDate):
                state[column.name] = time_array(self.contract, self._times[latest], unknown)
            elif isinstance(column.aggregate, LastTarget):
                state[column.name] = pa.array(self._places[latest], mask=unknown)
            else:
                state[column.name] = self._aggregates[column.aggregate].over(begins[column.scope.window], ends)
        return pa.table(state)

    @cached_property
    def keys(self) -> np.ndarray:
        """The numbers `KEY` of the rows' values, ascending, shape (m,). For a history by other columns alone."""
        keys: np.ndarray = self._entities.take(pa.array(self._firsts)).to_numpy()
        return keys

    def before(self, keys: np.ndarray, times: np.ndarray) -> pa.Table:
        """The state of some of :attr:`keys` before the times; both have shape (n,)."""
        return self._state(np.searchsorted(self.keys, keys), times, self._columns)

    def every_row(self) -> pa.Table:
        """The state of each row before its own time, with the row's position."""
        state = self._state(self._numbers, self._times, self._columns)
        return state.append_column(POSITION, self.table.column(POSITION))

    def last_rows(self) -> tuple[pa.Table, pa.Array]:
        """The state of each entity before the time of its last row, with the row's position.

        Of several rows of that time it takes the one that :func:`~apex_ml.sql.features.select_examples` chooses. Where
        the choice depends on the attributes, the position is null, and the second result holds the candidates.
        """
        last = self._ends - 1
        state = self._state(np.arange(len(last)), self._times[last], self._columns)
        chosen, open_rows = self._settle(last)
        positions = self.table.column(POSITION).combine_chunks()
        settled = pc.if_else(pa.array(chosen >= 0), positions.take(pa.array(np.maximum(chosen, 0))), None)
        return state.append_column(POSITION, settled), positions.take(pa.array(open_rows))

    def _settle(self, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row of each entity's last row, -1 where it is not decided, and the candidate rows of these entities."""
        chosen = last.copy()
        several = last > self._firsts
        several[several] = self._times[last[several] - 1] == self._times[last[several]]
        owners = self._numbers
        rows = np.flatnonzero(several[owners] & (self._times == self._times[last][owners]))
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

    def snapshot(self, since: int) -> pa.Table:
        """The states of every entity that rows from one time on have.

        With a lag the newest rows before `since` count for later rows only. So an entity has one state for rows from
        then on, and one more for each time within the lag with rows; `SINCE` is the time from which
        on rows have it, and they have the latest of them.

        A window moves on with the time of the row that is scored. For each time that may be the first one in the window
        of a row that has the state, `WINDOW_DAYS` has the time, and a column of a window a list of the state of the
        rows from then on, both in the order of time.
        """
        owners, times = self._states_from(since)
        plain = [column for column in self._columns if column.scope.window is None]
        state = self._state(owners, times, plain)
        if self._lag:
            state = state.rename_columns({self.contract.timestamp: SINCE})
        else:
            state = state.drop_columns([self.contract.timestamp])
        if not longest_window(self._columns):
            return state
        states, begins = self._window_begins(owners, times)
        offsets = np.searchsorted(states, np.arange(len(owners) + 1))
        ends = self._timeline.first_from(owners, times - self._lag)
        for name, values in self._from_each_time(begins, ends[states]):
            lists = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
            state = state.append_column(name, lists)
        return state

    def _window_begins(self, owners: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of states, ascending, each with the first rows of the windows of the rows that have the state.

        A state that another one follows holds for a short time, in which the windows hardly move: the number of all
        first rows grows with the rows, and not with the rows times those in a window.
        """
        firsts = np.flatnonzero(self._is_first_of_time())
        highs = np.searchsorted(firsts, self._timeline.first_from(owners, times - self._lag))
        is_last = np.append(owners[1:] != owners[:-1], True)[: len(owners)]
        until = np.append(times[1:], 0)[: len(times)] - 1  # the last time of the rows that have the state
        size, windows = len(firsts) + 1, {column.scope.window or 0 for column in self._columns} - {0}
        parts: list[np.ndarray] = []
        for window in sorted(windows, reverse=True):
            length = self._lag + window * self.contract.times_a_day
            lows = np.searchsorted(firsts, self._timeline.first_from(owners, times - length))
            ends = np.searchsorted(firsts, self._timeline.first_from(owners, until - length)) + 1
            # of the last state the longest window, which comes first, has every begin
            ends = np.where(is_last, lows if parts else highs, np.minimum(ends, highs))
            counts = ends - lows
            places = np.arange(counts.sum()) + np.repeat(lows - np.cumsum(counts) + counts, counts)
            parts.append(np.repeat(np.arange(len(owners)), counts) * size + places)
        numbers = np.unique(np.concatenate(parts)) if any(map(len, parts[1:])) else parts[0]
        return numbers // size, firsts[numbers % size]

    def _states_from(self, since: int) -> tuple[np.ndarray, np.ndarray]:
        """The number of the entity of each state of the snapshot, and the time from which on rows have it."""
        everyone = np.arange(len(self._firsts))
        first = np.full(len(everyone), since)
        if not self._lag:
            return everyone, first
        newer = np.flatnonzero(self._is_first_of_time() & (self._times >= since - self._lag) & (self._times < since))
        owners = np.append(everyone, self._numbers[newer])
        times = np.append(first, self._times[newer] + 1 + self._lag)
        ranking = np.lexsort([times, owners])
        return owners[ranking], times[ranking]

    def _is_first_of_time(self) -> np.ndarray:
        """Whether a row is the first of its entity and time, shape (n,)."""
        is_first = np.append(True, self._times[1:] != self._times[:-1])[: len(self._times)]
        is_first[self._firsts] = True
        return is_first

    def _from_each_time(self, begins: np.ndarray, ends: np.ndarray) -> Iterator[tuple[str, pa.Array]]:
        yield WINDOW_DAYS, time_array(self.contract, self._times[begins])
        for column in self._columns:
            if column.scope.window is not None:
                yield column.name, self._aggregates[column.aggregate].over(begins, ends)


def settle_by_attributes(contract: Contract, rows: pa.Table) -> pa.Table:
    """For each entity, choose the row whose attributes sort last (nulls first)."""
    keys = [(contract.entity, "ascending"), *((name, "descending") for name in contract.named("attribute"))]
    ordered = rows.take(pc.sort_indices(rows, sort_keys=keys, null_placement="at_end"))
    names = ordered.column(contract.entity).combine_chunks()
    firsts = np.ones(len(names), bool)
    if len(names):
        firsts[1:] = pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)
    return ordered.filter(pa.array(firsts))
