"""Aggregates of a history over many ranges of sorted rows at once.

Each class takes one value per row, n rows. `over` takes m ranges, rows ``begins[i] … ends[i] - 1`` of them, and returns
one int64 for each. A range has rows of one key alone.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import pyarrow as pa


class RangeAggregate(Protocol):
    """An aggregate of the rows of a range."""

    def over(self, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
        """The aggregate of each range; null where it has none."""


class Sums:
    """Sums of integers, of a range without rows 0. Without values it counts rows."""

    def __init__(self, values: np.ndarray | None, rows: int) -> None:
        self.until = np.arange(rows + 1)
        """Of the first i rows, shape (n + 1,)."""
        if values is not None:
            self.until = np.zeros(rows + 1, np.int64)
            np.cumsum(values, out=self.until[1:])

    def over(self, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
        """The sum of each range."""
        return pa.array(self.until[ends] - self.until[begins])


class Extremes:
    """The smallest or the largest known value, by a sparse table: that of two ranges of 2^k rows that cover a range."""

    def __init__(self, values: np.ndarray, known: np.ndarray, side: Literal["min", "max"]) -> None:
        worst = np.iinfo(np.int64)
        self._better = np.minimum if side == "min" else np.maximum
        self._values = np.where(known, values, worst.max if side == "min" else worst.min)
        self._known = Sums(known, len(values)).until

    def over(self, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
        """The extreme of each range; null where no value is known."""
        levels = np.frexp(ends - begins)[1] - 1  # of n rows, log2(n) rounded down; -1 without rows
        result, table = np.zeros(len(begins), np.int64), self._values
        for level in range(int(levels.max(initial=-1)) + 1):
            of_level = np.flatnonzero(levels == level)
            first, second = table[begins[of_level]], table[ends[of_level] - 2**level]
            result[of_level] = self._better(first, second)
            table = self._better(table[: -(2**level)], table[2**level :])
        return pa.array(result, mask=self._known[ends] == self._known[begins])


class DistinctCounts:
    """Numbers of distinct known values.

    A value is counted at its last row in the range, the one whose next row with this value is not in the range.
    """

    def __init__(self, values: np.ndarray, known: np.ndarray, keys: np.ndarray) -> None:
        rows = np.flatnonzero(known)
        ranking = np.lexsort((values[rows], keys[rows]))  # stable: equal ones stay in the order of rows
        rows = rows[ranking]
        repeated = (values[rows[1:]] == values[rows[:-1]]) & (keys[rows[1:]] == keys[rows[:-1]])
        self._next = np.zeros(len(values), np.int64)  # of an unknown value, less than the end of any range
        self._next[rows] = len(values)
        self._next[rows[:-1][repeated]] = rows[1:][repeated]

    def over(self, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
        """The number of each range."""
        return pa.array(count_at_least(self._next, begins, ends, ends))


class LatestValues:
    """The known value of the latest day that has one, of several the largest. A range ends where a day ends."""

    def __init__(self, values: np.ndarray, known: np.ndarray, keys: np.ndarray, days: np.ndarray) -> None:
        rows = np.flatnonzero(known)
        self._values = values[rows[np.lexsort((values[rows], days[rows], keys[rows]))]]
        self._known = Sums(known, len(values)).until

    def over(self, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
        """The value of each range; null where none is known."""
        none = self._known[ends] == self._known[begins]
        # the last row of a day has the same place among the known ones, whatever the sequence within the day
        values = np.append(self._values, 0)[np.where(none, -1, self._known[ends] - 1)]
        return pa.array(values, mask=none)


def count_at_least(values: np.ndarray, begins: np.ndarray, ends: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """How many of the values of each range are its bound or more; values and bounds are from 0, shape (m,).

    A wavelet matrix: the values are divided bit by bit, the highest first, and the ranges follow them.
    """
    counts, lows, highs = np.zeros(len(begins), np.int64), begins, ends
    bits = int(max(values.max(initial=0), bounds.max(initial=0))).bit_length()
    for bit in reversed(range(bits)):
        ones = (values >> bit & 1).astype(bool)
        zeros_until = Sums(~ones, len(values)).until
        low, high, zeros = zeros_until[lows], zeros_until[highs], zeros_until[-1]
        follows_ones = (bounds >> bit & 1).astype(bool)
        counts += np.where(follows_ones, 0, (highs - lows) - (high - low))
        lows = np.where(follows_ones, zeros + lows - low, low)
        highs = np.where(follows_ones, zeros + highs - high, high)
        values = np.concatenate([values[~ones], values[ones]])
    counts += highs - lows
    return counts
