"""Examples: the rows that a model is fitted on or evaluated with, one part of the split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Examples:
    """One part: features of n rows, class indexes (n,), clusters (n,), and days (n,) for rolling folds."""

    table: pa.Table
    y: np.ndarray
    entities: np.ndarray
    days: np.ndarray | None = None
