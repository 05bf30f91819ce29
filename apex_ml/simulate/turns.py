"""Orders in turns: what a client did on earlier days is known when its next order is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from apex_ml.simulate.draws import Codes, Days


@dataclass(frozen=True)
class Turns:
    """Orders cut into turns: an entity's orders of one day share a turn, its next day is the next turn."""

    rows: npt.NDArray[np.int64]  # positions of the orders, turn by turn
    bounds: npt.NDArray[np.int64]  # turn t is rows[bounds[t]:bounds[t + 1]]

    @classmethod
    def of(cls, entities: Codes, days: Days) -> Turns:
        """The turns of orders, given the entity's code and the day of each."""
        if not len(entities):
            return cls(np.zeros(0, np.int64), np.zeros(1, np.int64))
        first = int(days.min())
        key = entities.astype(np.int64) * (int(days.max()) - first + 1) + (days - first)
        order = np.argsort(key, kind="stable")
        key, owner = key[order], entities[order]
        new_turn = np.concatenate([[True], key[1:] != key[:-1]])
        new_entity = np.concatenate([[True], owner[1:] != owner[:-1]])
        turns = np.cumsum(new_turn)
        turn = turns - turns[np.flatnonzero(new_entity)][np.cumsum(new_entity) - 1]
        return cls(order[np.argsort(turn, kind="stable")], np.concatenate([[0], np.cumsum(np.bincount(turn))]))

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        """Positions of the orders of each turn."""
        return (self.rows[a:b] for a, b in pairwise(self.bounds))


def remember(last: npt.NDArray[np.int8], entities: Codes, classes: Codes) -> None:
    """Set the last class of the entities of a turn; of several on one day, the one latest in the process's order."""
    last[entities] = -1
    np.maximum.at(last, entities, classes.astype(np.int8))
