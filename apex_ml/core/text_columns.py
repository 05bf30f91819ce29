"""Refuse free text as a feature: nothing can be learned from values that are different in most rows."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.errors import DataError

MIN_ROWS = 100
"""Known values from which a column is examined."""
MAX_DIFFERENT = 0.5
"""Share of different values that levels do not have."""
MIN_WORDS = 3
"""Words of a value, in the mean, from which it is text and no identifier, whose levels are merely unknown later."""


def refuse_text(columns: Sequence[FeatureColumn], table: pa.Table) -> None:
    """Raise :class:`~apex_ml.errors.DataError` with every column without declared levels that holds free text.

    >>> refuse_text([FeatureColumn("note", "categorical")], pa.table({"note": ["late", "early"] * 100}))
    """
    faults = []
    for column in columns:
        if column.kind == "categorical" and column.levels is None:
            values = table.column(column.name).drop_null()
            different = pc.count_distinct(values).as_py()
            if len(values) < MIN_ROWS or different <= MAX_DIFFERENT * len(values):
                continue
            words = 1 + pc.mean(pc.count_substring(pc.utf8_trim_whitespace(values), " ")).as_py()
            if words >= MIN_WORDS:
                faults.append(f"{column.name} has {different:,} different texts in {len(values):,} training rows")
    if faults:
        raise DataError(
            f"train: {'; '.join(faults)}. Free text is no feature: take it out of features.attributes, and add a column"
            " with the group that a text belongs to, of which each has many rows"
        )
