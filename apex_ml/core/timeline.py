"""Binary search in the times of many keys at once."""

from __future__ import annotations

import numpy as np


class Timeline:
    """Rows sorted by key and time. Both are integers, shape (n,); the unit of time is the caller's."""

    def __init__(self, keys: np.ndarray, times: np.ndarray) -> None:
        self._oldest = int(times.min()) if len(times) else 0
        # so far apart are the keys on one scale that a time behind the newest reaches no neighbour
        self._apart = int(times.max()) - self._oldest + 2 if len(times) else 1
        self._distinct: np.ndarray | None = None
        if len(times) and (int(keys[-1]) + 1) * self._apart >= 2**62:
            self._distinct = np.unique(times)
            self._apart = len(self._distinct) + 1
        self._scale = keys * self._apart + self._places_in_time(times)

    def _places_in_time(self, times: np.ndarray) -> np.ndarray:
        if self._distinct is not None:
            ranks: np.ndarray = np.searchsorted(self._distinct, times)
            return ranks
        since_oldest: np.ndarray = np.clip(times - self._oldest, 0, self._apart - 1)
        return since_oldest

    def first_from(self, keys: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The number of the first row of each key that is not before the time; behind its last one if there is none.

        Both have shape (m,). The keys are among those of the rows.
        """
        rows: np.ndarray = np.searchsorted(self._scale, keys * self._apart + self._places_in_time(times))
        return rows
