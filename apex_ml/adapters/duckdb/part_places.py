"""Which rows of a drop that is a folder are of which part."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import pyarrow as pa

from apex_ml.contract.names import ROW_NR
from apex_ml.text import visible


@dataclass(frozen=True)
class PartPlaces:
    """Which rows of a joined file are of which part."""

    names: tuple[str, ...]
    first: tuple[int, ...]
    """The number of the first row of each part."""

    def part_of(self, row_nr: int) -> tuple[str, int]:
        """The name of the part that holds a row, and the row's number in it.

        >>> PartPlaces(("a", "b", "c"), (0, 2, 2)).part_of(3)
        ('c', 1)
        """
        place = bisect_right(self.first, row_nr) - 1
        return self.names[place], row_nr - self.first[place]

    def add_to(self, rows: pa.Table) -> pa.Table:
        """Quarantined rows with the columns `part` and `part_row`."""
        places = [self.part_of(row_nr) for row_nr in rows[ROW_NR].to_pylist()]
        names = pa.array([visible(name) for name, _ in places], pa.string())
        return rows.append_column("part", names).append_column(
            "part_row", pa.array([row for _, row in places], pa.int64())
        )
