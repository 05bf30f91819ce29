"""Measure how far two samples of a feature differ, and test whether the difference is significant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from scipy.stats import chi2_contingency, false_discovery_control, norm

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.profile import Bins

SMALLEST_SHARE = 1e-4
"""Floor of a share. It keeps the index finite when one sample lacks a level."""
NEARER = 0.75
"""A batch agrees with the newer reference when its effect there is below this share of its effect on the older."""
ENOUGH_EXPECTED = 5.0
"""Bins with fewer expected rows are pooled before a test, as the chi-squared approximation requires."""


def population_stability_index(expected: np.ndarray, observed: np.ndarray) -> float:
    """PSI of two vectors of counts over the same bins: Σ (o - e) ln(o / e) of the shares.

    Source: Siddiqi, Credit Risk Scorecards, 2006. By convention, below 0.1 is stable and above 0.25 is not. nan when
    one sample is empty.

    >>> round(population_stability_index(np.array([50, 50]), np.array([60, 40])), 4)
    0.0405
    """
    if expected.sum() == 0 or observed.sum() == 0:
        return float("nan")
    e, o = (np.maximum(counts / counts.sum(), SMALLEST_SHARE) for counts in (expected, observed))
    return float(((o - e) * np.log(o / e)).sum())


def effect_size(expected: np.ndarray, observed: np.ndarray) -> float:
    """Cohen's w between two vectors of counts over the same bins: √ Σ (o - e)² / e of the shares.

    Source: Cohen, Statistical Power Analysis, 1988. 0.1 is small, 0.3 is medium. nan when one sample is empty.

    >>> round(effect_size(np.array([50, 50]), np.array([55, 45])), 3)
    0.1
    """
    if expected.sum() == 0 or observed.sum() == 0:
        return float("nan")
    e, o = expected / expected.sum(), observed / observed.sum()
    return float(np.sqrt(((o - e) ** 2 / np.maximum(e, SMALLEST_SHARE)).sum()))


def difference_p_value(expected: np.ndarray, observed: np.ndarray) -> float:
    """P-value of the difference between two samples, given as counts over the same bins.

    It combines two tests, each at half the level. Pearson's chi-squared test of homogeneity detects many small changes.
    The largest two-proportion z of a single bin, Bonferroni-corrected, detects one changed level among many. Bins with
    few expected rows are pooled. The result is 1 when there is nothing to compare.
    """
    table = _pooled(np.stack([expected, observed]).astype(np.float64))
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        return 1.0
    overall = float(chi2_contingency(table, correction=False).pvalue)
    rows = table.sum(axis=1)
    shares, both = table / rows[:, None], table.sum(axis=0) / table.sum()
    z = np.abs(shares[1] - shares[0]) / np.sqrt(both * (1 - both) * (1 / rows).sum())
    single = 2 * float(norm.sf(z.max())) * table.shape[1]
    return float(min(1.0, 2 * min(overall, single)))


def _pooled(table: np.ndarray) -> np.ndarray:
    """Counts, shape (2, bins), without empty bins and with the bins of small expectation added up."""
    table = table[:, table.sum(axis=0) > 0]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / max(table.sum(), 1)
    small = (expected < ENOUGH_EXPECTED).any(axis=0)
    if not small.any():
        return table
    return np.hstack([table[:, ~small], table[:, small].sum(axis=1, keepdims=True)])


@dataclass(frozen=True)
class Compared:
    """Counts of a feature over the same bins in a batch and its reference, and the smallest effect that matters.

    `note` says why there is no reference. `settled` is a newer reference, if there is one. A feature that agrees with
    it has not drifted, even when it differs from the older reference.
    """

    observed: np.ndarray
    expected: np.ndarray | None
    min_effect: float
    note: str = ""
    settled: np.ndarray | None = None


@dataclass(frozen=True)
class Drift:
    """The verdict on one feature. Without a test the metrics are None, and `note` says why.

    `settled`: the metrics compare the batch with the newer reference.
    """

    feature: str
    rows: int
    drifted: bool
    reference_rows: int | None = None
    psi: float | None = None
    effect: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    note: str = ""
    min_effect: float | None = None
    settled: bool = False


def detect_drift(compared: Mapping[str, Compared], *, alpha: float, min_rows: int) -> list[Drift]:
    """Test every feature of a batch. It has drifted if its corrected p-value is below `alpha` and its effect matters.

    The p-values are corrected for their number by Benjamini and Hochberg (JRSS B 1995). A batch without any drift
    therefore raises a false alarm with a probability of at most `alpha`. A feature without a reference or with fewer
    than `min_rows` rows is not tested; its verdict gives the reason. A feature that becomes null in every row is the
    strongest drift. A drifted feature is tested again with its newer reference, and has drifted only when it differs
    from both. The second test can only lower the probability of a false alarm.
    """
    verdicts = _test_features(compared, alpha, min_rows)
    settled = {c.feature: compared[c.feature].settled for c in verdicts if c.drifted}
    retest = {n: replace(compared[n], expected=newer) for n, newer in settled.items() if newer is not None}
    newer = {d.feature: d for d in _test_features(retest, alpha, min_rows) if not d.drifted}
    return [_settled(n, d) if (n := newer.get(d.feature)) and _is_nearer(n, d) else d for d in verdicts]


def _is_nearer(newer: Drift, older: Drift) -> bool:
    """Whether the newer reference is clearly nearer. A new drift is about equally far from both."""
    return newer.effect is not None and older.effect is not None and newer.effect < NEARER * older.effect


def _settled(newer: Drift, older: Drift) -> Drift:
    note = f"as in the newest rows before the training; effect {older.effect:.3f} against all training examples"
    return replace(newer, note=note, settled=True)


def _test_features(compared: Mapping[str, Compared], alpha: float, min_rows: int) -> list[Drift]:
    p_values: dict[str, float] = {}
    notes: dict[str, str] = {}
    for name, c in compared.items():
        if c.expected is None:
            notes[name] = c.note or "no reference"
        elif len(c.expected) != len(c.observed):
            notes[name] = f"the reference has {len(c.expected)} bins, the batch {len(c.observed)}"
        elif c.observed.sum() < min_rows or c.expected.sum() < min_rows:
            notes[name] = f"fewer than {min_rows} rows to compare"
        else:
            p_values[name] = difference_p_value(c.expected, c.observed)
    corrected = false_discovery_control(list(p_values.values()), method="bh") if p_values else ()
    q_values = dict(zip(p_values, map(float, corrected), strict=True))
    verdicts = []
    for name, c in compared.items():
        rows = int(c.observed.sum())
        if name not in p_values or c.expected is None:
            verdicts.append(Drift(name, rows, drifted=False, note=notes[name], min_effect=c.min_effect or None))
            continue
        effect = effect_size(c.expected, c.observed)
        verdicts.append(
            Drift(
                feature=name,
                rows=rows,
                drifted=bool(q_values[name] < alpha and effect >= c.min_effect),
                reference_rows=int(c.expected.sum()),
                psi=population_stability_index(c.expected, c.observed),
                effect=effect,
                p_value=p_values[name],
                q_value=q_values[name],
                note=c.note,
                min_effect=c.min_effect,
            )
        )
    return verdicts


def drift(columns: tuple[FeatureColumn, ...], expected: pa.Table, observed: pa.Table) -> dict[str, float]:
    """PSI of every feature between two tables, largest first; numbers by the deciles of the expected one."""
    indexes = {}
    for column in columns:
        first, second = expected.column(column.name), observed.column(column.name)
        bins = Bins.of(column, first, second)
        indexes[column.name] = population_stability_index(bins.count(first), bins.count(second))
    return dict(sorted(indexes.items(), key=lambda item: -item[1]))
