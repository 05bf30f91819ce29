"""Uncertainty of a mean over rows when the rows of one entity (a cluster) may be alike.

The gate, the evaluation, the calibration and the monitoring of quality all use this standard error and this bootstrap.
Rows of different clusters count as independent. Within a cluster any dependence is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 2000
MIN_TAIL_RESAMPLES = 20
"""Resamples that must lie beyond a bound; with fewer the bootstrap is too coarse and Student's t is used."""
GROUPED_DRAW_COST = 10
"""To draw the number of equal clusters costs about as much as to draw this number of single clusters."""
DRAWS_AT_ONCE = 300_000


@dataclass(frozen=True)
class Clusters:
    """Values of rows, summed by cluster: `sums` and `sizes` (number of rows), both of shape (g,)."""

    sums: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, entities: np.ndarray | None) -> Clusters:
        """Sum the values, shape (n,), of every entity. Without entities every row is its own cluster."""
        if entities is None:
            return cls(np.asarray(values, np.float64), np.ones(len(values)))
        _, codes = np.unique(entities, return_inverse=True)
        return cls(np.bincount(codes, weights=values), np.bincount(codes).astype(np.float64))

    def __len__(self) -> int:
        """Number of clusters."""
        return len(self.sums)

    @property
    def mean(self) -> float:
        """Mean over rows."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def standard_error(self) -> float:
        """Cluster-robust standard error of the mean, with the small-sample factor √(g / (g - 1)).

        Source: Liang and Zeger, Biometrika 1986; the factor as in Cameron and Miller, Journal of Human Resources 2015,
        equation 12, for a regression on a constant. Infinite for fewer than two clusters, where it is not defined.
        """
        g = len(self)
        if g < 2:
            return float("inf")
        residuals = self.sums - self.mean * self.sizes
        return float(np.sqrt(g / (g - 1) * np.square(residuals).sum()) / self.sizes.sum())

    def half_width(self, level: float) -> float:
        """Distance of the mean from its one-sided bound at `level`: Student's t with g - 1 degrees of freedom."""
        from scipy.stats import t as student

        return float(student.isf(level, max(len(self) - 1, 1))) * self.standard_error

    def lower(self, level: float) -> float:
        """One-sided lower bound: above the true mean with probability `level`."""
        return self.mean - self.half_width(level)

    def upper(self, level: float) -> float:
        """One-sided upper bound: below the true mean with probability `level`."""
        return self.mean + self.half_width(level)


@dataclass(frozen=True)
class LowerBound:
    """One-sided lower bound of a mean at a level, and the method that gave it."""

    mean: float
    low: float
    level: float
    method: Literal["bootstrap", "normal"]


def lower_bound(clusters: Clusters, level: float, seed: int) -> LowerBound:
    """Lower bound of the mean that lies above the true mean with a probability of at most `level`.

    Uses the percentile of the cluster bootstrap where enough resamples are beyond it, otherwise
    :meth:`Clusters.lower`.
    """
    if RESAMPLES * level >= MIN_TAIL_RESAMPLES and len(clusters) > 1:
        low = float(np.quantile(bootstrap_means(clusters, seed), level))
        return LowerBound(clusters.mean, low, level, "bootstrap")
    return LowerBound(clusters.mean, clusters.lower(level), level, "normal")


def bootstrap_interval(clusters: Clusters, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Two-sided percentile interval of the mean, by the cluster bootstrap."""
    return percentile_interval(bootstrap_means(clusters, seed), level)


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval that holds the share `level` of resampled values, the same share cut off at both ends."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_means(clusters: Clusters, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Means of resamples of whole clusters, shape (resamples,). Of many equal clusters it draws the number.

    Source: Field and Welsh, Bootstrapping clustered data, JRSS B 2007.
    """
    rng = np.random.default_rng(seed)
    g = len(clusters)
    # a difference of logarithms is the same number only up to its last bits
    pairs, counts = np.unique(np.column_stack([clusters.sums.round(12), clusters.sizes]), axis=0, return_counts=True)
    grouped = len(pairs) * GROUPED_DRAW_COST < g
    at_once = max(1, DRAWS_AT_ONCE // (len(pairs) if grouped else g))
    means = []
    for first in range(0, resamples, at_once):
        batch = min(at_once, resamples - first)
        if grouped:
            totals = rng.multinomial(g, counts / g, size=batch) @ pairs
            means.append(totals[:, 0] / totals[:, 1])
        else:
            drawn = rng.integers(0, g, (batch, g), dtype=np.uint32)
            sizes = clusters.sizes[drawn].sum(axis=1) if np.ptp(clusters.sizes) else clusters.sizes.sum()
            means.append(clusters.sums[drawn].sum(axis=1) / sizes)
    return np.concatenate(means)


def bootstrap_rows(entities: np.ndarray, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Row numbers of resamples of whole clusters, for a statistic that is not a mean.

    `entities` has shape (n,). A resample has as many clusters as the sample, and therefore about n rows.
    """
    rng = np.random.default_rng(seed)
    _, codes, sizes = np.unique(entities, return_inverse=True, return_counts=True)
    rows = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    for _ in range(resamples):
        drawn = rng.integers(0, len(sizes), len(sizes))
        drawn_sizes = sizes[drawn]
        # position of every row within its cluster: a running number that restarts with each cluster
        within = np.arange(drawn_sizes.sum()) - np.repeat(np.cumsum(drawn_sizes) - drawn_sizes, drawn_sizes)
        yield rows[np.repeat(starts[drawn], drawn_sizes) + within]
