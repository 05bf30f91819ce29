"""Profiles: counts of a table's rows over the levels and bins of each feature. They are small enough to keep forever.

A model stores the bins and the profile of its training examples. Every scoring run counts its rows over the same
bins. Counts over the same bins can be added, so that a day is the sum of its drops.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.feature_column import FeatureColumn

DECILES = 10
CONFIDENCE_BINS = 20
PROFILE = "profile"
"""Key of a model's own profile in its record."""
FeatureCounts = Mapping[str, Sequence[int]]
"""Rows in every bin, by feature."""


@dataclass(frozen=True)
class Bins:
    """The bins of one feature: its levels, or the edges between its numbers; then one for unknown levels, and null.

    A number equal to an edge belongs to the bin on its right.
    """

    levels: tuple[str, ...] | None = None
    edges: tuple[float, ...] = ()

    @classmethod
    def of(cls, column: FeatureColumn, *samples: pa.ChunkedArray) -> Self:
        """Every level of the samples, or the deciles of the first one."""
        if column.kind == "categorical":
            return cls(tuple(sorted({v for s in samples for v in pc.unique(s).to_pylist()} - {None})))
        numbers = _floats(samples[0])
        known = numbers[~np.isnan(numbers)]
        if not len(known):
            return cls()
        return cls(edges=tuple(np.unique(np.quantile(known, np.linspace(0, 1, DECILES + 1)[1:-1])).tolist()))

    def __len__(self) -> int:
        """Number of bins."""
        return len(self.edges) + 2 if self.levels is None else len(self.levels) + 2

    def count(self, values: pa.ChunkedArray) -> np.ndarray:
        """Rows in every bin, integers of shape (len(self),).

        >>> Bins(levels=("a", "b")).count(pa.chunked_array([["a", "a", "c", None]])).tolist()
        [2, 0, 1, 1]
        >>> Bins(edges=(0.0, 1.0)).count(pa.chunked_array([[-1.0, 0.0, 5.0, None]])).tolist()
        [1, 1, 1, 1]
        """
        if self.levels is None:
            numbers = _floats(values)
            bins = np.searchsorted(self.edges, numbers, side="right")
            bins[np.isnan(numbers)] = len(self.edges) + 1
            return np.bincount(bins, minlength=len(self))
        codes = pc.fill_null(pc.index_in(values, value_set=pa.array(self.levels, pa.string())), len(self.levels))
        counts = np.bincount(codes.to_numpy(), minlength=len(self))
        nulls = values.null_count
        counts[-2:] = counts[-2] - nulls, nulls
        return counts

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return {"edges": list(self.edges)} if self.levels is None else {"levels": list(self.levels)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the result of :meth:`as_dict`."""
        levels = content.get("levels")
        return cls(None if levels is None else tuple(levels), tuple(content.get("edges", ())))


def _floats(values: pa.ChunkedArray) -> np.ndarray:
    numbers: np.ndarray = pc.fill_null(values.cast(pa.float64()), float("nan")).to_numpy()
    return numbers


def bins_of(columns: Sequence[FeatureColumn], table: pa.Table) -> dict[str, Bins]:
    """The bins of every column of a table."""
    return {column.name: Bins.of(column, table.column(column.name)) for column in columns}


class Profile:
    """Counts of rows by bin: of each feature, of the predicted class, and of the confidence in twenty equal bins."""

    def __init__(self, bins: Mapping[str, Bins], classes: int) -> None:
        self.bins = dict(bins)
        self.features = {name: np.zeros(len(b), np.int64) for name, b in bins.items()}
        self.predicted = np.zeros(classes, np.int64)
        self.confidence = np.zeros(CONFIDENCE_BINS, np.int64)

    def add_features(self, table: pa.Table) -> None:
        """Count the rows of a table that has a column for every feature."""
        for name, bins in self.bins.items():
            self.features[name] += bins.count(table.column(name))

    def add_predictions(self, predicted: np.ndarray, confidence: np.ndarray) -> None:
        """Count index of the predicted class and confidence of n rows, shapes (n,)."""
        self.predicted += np.bincount(predicted, minlength=len(self.predicted))
        places = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
        self.confidence += np.bincount(places, minlength=CONFIDENCE_BINS)

    def counts(self) -> dict[str, Any]:
        """The counts without the bins, for JSON; the model stores the bins."""
        return {
            "features": {name: counts.tolist() for name, counts in self.features.items()},
            "predicted": self.predicted.tolist(),
            "confidence": self.confidence.tolist(),
        }

    def of_model(self, recent: FeatureCounts | None) -> ModelProfile:
        """The bins and counts as a model keeps them, with those of the newest rows."""
        return ModelProfile(
            bins=self.bins,
            features={name: counts.tolist() for name, counts in self.features.items()},
            predicted=self.predicted.tolist(),
            confidence=self.confidence.tolist(),
            recent=recent,
        )


@dataclass(frozen=True)
class ModelProfile:
    """A model's own profile; a part is None where the record has none, which an older release may have written.

    `features` are counts of the training examples, `predicted` and `confidence` of the validation examples, `recent` of
    the attributes of the newest rows before the training.
    """

    bins: Mapping[str, Bins] | None = None
    features: FeatureCounts | None = None
    predicted: Sequence[int] | None = None
    confidence: Sequence[int] | None = None
    recent: FeatureCounts | None = None

    def bins_for(self, names: Collection[str]) -> dict[str, Bins]:
        """The bins of some features, without the features that it lacks."""
        return {name: bins for name, bins in (self.bins or {}).items() if name in names}

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        bins = None if self.bins is None else {name: one.as_dict() for name, one in self.bins.items()}
        counts = {name: getattr(self, name) for name in ("features", "predicted", "confidence", "recent")}
        return {name: value for name, value in ({"bins": bins} | counts).items() if value is not None}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the result of :meth:`as_dict`."""
        bins = content.get("bins")
        return cls(
            None if bins is None else {name: Bins.from_dict(one) for name, one in bins.items()},
            *(content.get(name) for name in ("features", "predicted", "confidence", "recent")),
        )


def add_counts(before: Mapping[str, Any], rows: int, more: Mapping[str, Any], more_rows: int) -> dict[str, Any]:
    """Add counts over the same bins; `lag_days` becomes the mean over all rows. An empty `before` adds nothing.

    >>> one = {"features": {"a": [1, 0]}, "predicted": [1, 0], "confidence": [0, 1], "lag_days": 2.0}
    >>> add_counts(one, 1, {**one, "lag_days": 8.0}, 2)
    {'features': {'a': [2, 0]}, 'predicted': [2, 0], 'confidence': [0, 2], 'lag_days': 6.0}
    """
    if not before:
        return dict(more)

    def added(one: list[int], other: list[int]) -> list[int]:
        return [a + b for a, b in zip(one, other, strict=True)]

    return {
        "features": {name: added(counts, more["features"][name]) for name, counts in before["features"].items()},
        "predicted": added(before["predicted"], more["predicted"]),
        "confidence": added(before["confidence"], more["confidence"]),
        "lag_days": round((before["lag_days"] * rows + more["lag_days"] * more_rows) / (rows + more_rows), 3),
    }
