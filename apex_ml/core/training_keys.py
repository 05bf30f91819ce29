"""Keys of the rows that a model was fitted and tuned on.

Dates alone are not enough: a file can arrive again with other dates, and an alias can point to a model of a random
split.
"""

from __future__ import annotations

import numpy as np
import pandas as pd


def row_keys(entities: np.ndarray, days: np.ndarray) -> np.ndarray:
    """A 64-bit hash of every row's entity and day, uint64, (n,); the same in every process."""
    frame = pd.DataFrame({"entity": entities, "day": days.astype(np.int64)})
    keys: np.ndarray = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return keys


def pack_keys(keys: np.ndarray) -> bytes:
    """Keys as a model's file: sorted, unique, little-endian."""
    return np.unique(keys).astype("<u8").tobytes()


def unpack_keys(content: bytes) -> np.ndarray:
    """The keys in a file of :func:`pack_keys`, uint64."""
    return np.frombuffer(content, "<u8")
