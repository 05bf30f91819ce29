"""Classes and segments of the rows on which models are evaluated."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.model import Contract

MAX_SEGMENT_LEVELS = 12
"""Maximum levels of an attribute that gives segments for the evaluation."""


def class_indexes(table: pa.Table, target: str, classes: tuple[str, ...]) -> np.ndarray:
    """Index of each row's class, shape (n,)."""
    codes: np.ndarray = pc.index_in(table.column(target), value_set=pa.array(classes)).to_numpy()
    return codes


def segment_columns(contract: Contract) -> tuple[str, ...]:
    """Attributes with few levels: the evaluation reports losses by each of them."""
    columns = [contract.columns[name] for name in contract.features.attributes]
    return tuple(
        c.name
        for c in columns
        if c.type == "boolean" or (c.domain is not None and len(c.domain.levels) <= MAX_SEGMENT_LEVELS)
    )


def segment_levels(column: pa.ChunkedArray) -> np.ndarray:
    """Levels of an attribute as text, shape (n,); a null is the level `unknown`."""
    levels: np.ndarray = pc.fill_null(column, "unknown").to_numpy(zero_copy_only=False).astype(str)
    return levels
