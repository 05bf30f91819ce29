"""The selection rules of the original project: no constants, no identifiers, no pair of features that are alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats.contingency import association, crosstab

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.selection import FeatureVerdict


@dataclass(frozen=True)
class LegacyRules:
    """Thresholds of the original selection."""

    constant: float = 0.95
    """A feature is dropped when one of its values has at least this share."""
    cramers_v: float = 0.80
    """Of two categorical features with at least this Cramér's V, the later one by name is dropped."""
    pearson: float = 0.80
    """Of two numbers with a larger |correlation|, the later one by name is dropped."""

    def evaluate(
        self, columns: Sequence[FeatureColumn], x: np.ndarray, identifiers: Collection[str] = ()
    ) -> tuple[FeatureVerdict, ...]:
        """Evaluate every feature by its column of the encoded training part, shape (n, len(columns)).

        Identifiers need no data and no column; their verdicts come last.
        """
        dropped = {c.name: "an identifier" for c in columns if c.name in identifiers}
        for index, column in enumerate(columns):
            _, counts = np.unique(x[:, index], return_counts=True)
            share = counts.max(initial=0) / max(len(x), 1)
            if column.name not in dropped and share >= self.constant:
                dropped[column.name] = f"near-constant: one value has a share of {share:.3f}"
        for has_codes in (True, False):
            of_kind = [(c.name, i) for i, c in enumerate(columns) if c.has_codes == has_codes]
            remaining = sorted(pair for pair in of_kind if pair[0] not in dropped)
            for (first, i), (second, j) in combinations(remaining, 2):
                if first in dropped or second in dropped:
                    continue
                if has_codes:
                    strength = cramers_v(x[:, i], x[:, j])
                    if strength >= self.cramers_v:
                        dropped[second] = f"Cramér's V with {first} is {strength:.3f}"
                else:
                    strength = pearson(x[:, i], x[:, j])
                    if abs(strength) > self.pearson:
                        dropped[second] = f"the correlation with {first} is {strength:+.3f}"
        names = [*(c.name for c in columns), *(n for n in identifiers if n not in {c.name for c in columns})]
        dropped |= dict.fromkeys(identifiers, "an identifier")
        kept = "no rule excludes it"
        return tuple(FeatureVerdict(n, n not in dropped, dropped.get(n, kept)) for n in names)


def cramers_v(a: np.ndarray, b: np.ndarray) -> float:
    """Cramér's V of two columns of codes, shape (n,), without bias correction (Cramér, 1946); 0 if one is constant."""
    counts = crosstab(a, b).count
    return float(association(counts, method="cramer", correction=False)) if min(counts.shape) > 1 else 0.0


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation over the rows that have both numbers; 0 when one of them does not vary there."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both].astype(np.float64), b[both].astype(np.float64)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
