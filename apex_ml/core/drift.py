"""How far two samples of a feature differ."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.core.features import FeatureColumn

BINS = 10
SMALLEST_SHARE = 1e-4
"""Floor under a share: a level that one sample lacks makes a large index, not an infinite one."""


def population_stability_index(expected: np.ndarray, observed: np.ndarray) -> float:
    """PSI of two vectors of counts over the same bins: Σ (o - e) ln(o / e) of the shares.

    Source: Siddiqi, Credit Risk Scorecards, 2006. By custom below 0.1 is stable and above 0.25 is not. nan when one
    sample is empty.

    >>> round(population_stability_index(np.array([50, 50]), np.array([60, 40])), 4)
    0.0405
    """
    if expected.sum() == 0 or observed.sum() == 0:
        return float("nan")
    e = np.maximum(expected / expected.sum(), SMALLEST_SHARE)
    o = np.maximum(observed / observed.sum(), SMALLEST_SHARE)
    return float(((o - e) * np.log(o / e)).sum())


def binned(
    column: FeatureColumn, expected: pa.ChunkedArray, observed: pa.ChunkedArray
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of both samples: by level, or by the deciles of the expected sample; null is a bin of its own."""
    if column.kind == "categorical":
        levels = sorted({*pc.unique(expected).to_pylist(), *pc.unique(observed).to_pylist()} - {None})
        return _by_level(expected, levels), _by_level(observed, levels)
    first, second = (_floats(values) for values in (expected, observed))
    known = first[~np.isnan(first)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else np.empty(0)
    return _by_edge(first, edges), _by_edge(second, edges)


def _floats(values: pa.ChunkedArray) -> np.ndarray:
    found: np.ndarray = pc.fill_null(values.cast(pa.float64()), float("nan")).to_numpy()
    return found


def _by_level(values: pa.ChunkedArray, levels: list[str]) -> np.ndarray:
    codes = pc.fill_null(pc.index_in(values, value_set=pa.array(levels, pa.string())), len(levels)).to_numpy()
    return np.bincount(codes, minlength=len(levels) + 1)


def _by_edge(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    bins = np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))
    return np.bincount(bins, minlength=len(edges) + 2)


def drift(columns: tuple[FeatureColumn, ...], expected: pa.Table, observed: pa.Table) -> dict[str, float]:
    """PSI of every feature between two tables, largest first."""
    found = {
        c.name: population_stability_index(*binned(c, expected.column(c.name), observed.column(c.name)))
        for c in columns
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))
