"""How far two samples of a feature differ, and whether it is more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from scipy.stats import chi2_contingency, false_discovery_control, norm

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.profile import Bins

SMALLEST_SHARE = 1e-4
"""Floor under a share: a level that one sample lacks makes a large index, not an infinite one."""
NEARER = 0.75
"""A batch agrees with the newer reference when its effect there is below this share of that beside the older one."""
ENOUGH_EXPECTED = 5.0
"""Bins in which fewer rows are expected are pooled before a test: the chi-squared approximation needs as much."""


def population_stability_index(expected: np.ndarray, observed: np.ndarray) -> float:
    """PSI of two vectors of counts over the same bins: Σ (o - e) ln(o / e) of the shares.

    Source: Siddiqi, Credit Risk Scorecards, 2006. By custom below 0.1 is stable and above 0.25 is not. nan when one
    sample is empty.

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
    """Probability of a difference as large between two samples of one distribution, given as counts over bins.

    Two tests, each at half: Pearson's chi-squared of homogeneity, which sees many small changes, and the largest
    two-proportion z of a single bin, Bonferroni-corrected, which sees one level that moved among many that did not.
    Bins in which too few are expected are pooled. 1 when there is nothing to compare.
    """
    table = _pooled(np.stack([expected, observed]).astype(np.float64))
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        return 1.0
    whole = float(chi2_contingency(table, correction=False).pvalue)
    rows = table.sum(axis=1)
    shares, both = table / rows[:, None], table.sum(axis=0) / table.sum()
    z = np.abs(shares[1] - shares[0]) / np.sqrt(both * (1 - both) * (1 / rows).sum())
    single = 2 * float(norm.sf(z.max())) * table.shape[1]
    return float(min(1.0, 2 * min(whole, single)))


def _pooled(table: np.ndarray) -> np.ndarray:
    """Counts, shape (2, bins), with empty bins left out and those of small expectation made one."""
    table = table[:, table.sum(axis=0) > 0]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / max(table.sum(), 1)
    small = (expected < ENOUGH_EXPECTED).any(axis=0)
    if not small.any():
        return table
    return np.hstack([table[:, ~small], table[:, small].sum(axis=1, keepdims=True)])


@dataclass(frozen=True)
class Compared:
    """Counts of a feature over the same bins: the reference and what is looked at, and the least effect that matters.

    `note` says why there is no reference. What differs from the reference has still not drifted when it is as in
    `settled`, a newer reference, where there is one.
    """

    observed: np.ndarray
    expected: np.ndarray | None
    least_effect: float
    note: str = ""
    settled: np.ndarray | None = None


@dataclass(frozen=True)
class Drift:
    """The verdict on one feature; figures are None where there is no test, and `note` says why.

    `settled`: the figures are those beside the newer reference.
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


def judge(compared: Mapping[str, Compared], *, alpha: float, least_rows: int) -> list[Drift]:
    """Judge every feature of one batch: drifted when its corrected p-value is below `alpha` and its effect matters.

    The p-values are corrected for their number by Benjamini and Hochberg (JRSS B 1995), so that a batch without any
    drift raises a false alarm with a probability of at most `alpha`. A feature that cannot be judged, for want of a
    reference or of rows, is told with its reason and hides no other. A feature that is null in every row where the
    reference was not is the strongest drift. What has drifted is tested once more beside its newer reference, and has
    drifted only when it differs from both: the probability of a false alarm can but fall.
    """
    found = _judge_once(compared, alpha, least_rows)
    settled = {c.feature: compared[c.feature].settled for c in found if c.drifted}
    again = {n: replace(compared[n], expected=newer) for n, newer in settled.items() if newer is not None}
    newer = {d.feature: d for d in _judge_once(again, alpha, least_rows) if not d.drifted}
    return [_settled(n, d) if (n := newer.get(d.feature)) and _is_nearer(n, d) else d for d in found]


def _is_nearer(newer: Drift, older: Drift) -> bool:
    """Whether the newer reference is clearly the nearer one; a new drift is as far from both."""
    return newer.effect is not None and older.effect is not None and newer.effect < NEARER * older.effect


def _settled(newer: Drift, older: Drift) -> Drift:
    note = f"as in the newest orders before the training; effect {older.effect:.3f} beside all training examples"
    return replace(newer, note=note, settled=True)


def _judge_once(compared: Mapping[str, Compared], alpha: float, least_rows: int) -> list[Drift]:
    judged: dict[str, float] = {}
    notes: dict[str, str] = {}
    for name, c in compared.items():
        if c.expected is None:
            notes[name] = c.note or "no reference"
        elif len(c.expected) != len(c.observed):
            notes[name] = f"the reference has {len(c.expected)} bins, the batch {len(c.observed)}"
        elif c.observed.sum() < least_rows or c.expected.sum() < least_rows:
            notes[name] = f"fewer than {least_rows} rows to compare"
        else:
            judged[name] = difference_p_value(c.expected, c.observed)
    corrected = false_discovery_control(list(judged.values()), method="bh") if judged else ()
    q_values = dict(zip(judged, map(float, corrected), strict=True))
    found = []
    for name, c in compared.items():
        rows = int(c.observed.sum())
        if name not in judged or c.expected is None:
            found.append(Drift(name, rows, drifted=False, note=notes[name], min_effect=c.least_effect or None))
            continue
        effect = effect_size(c.expected, c.observed)
        found.append(
            Drift(
                feature=name,
                rows=rows,
                drifted=bool(q_values[name] < alpha and effect >= c.least_effect),
                reference_rows=int(c.expected.sum()),
                psi=population_stability_index(c.expected, c.observed),
                effect=effect,
                p_value=judged[name],
                q_value=q_values[name],
                note=c.note,
                min_effect=c.least_effect,
            )
        )
    return found


def drift(columns: tuple[FeatureColumn, ...], expected: pa.Table, observed: pa.Table) -> dict[str, float]:
    """PSI of every feature between two tables, largest first; numbers by the deciles of the expected one."""
    found = {}
    for column in columns:
        first, second = expected.column(column.name), observed.column(column.name)
        bins = Bins.of(column, first, second)
        found[column.name] = population_stability_index(bins.count(first), bins.count(second))
    return dict(sorted(found.items(), key=lambda item: -item[1]))
