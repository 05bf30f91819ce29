"""Detect drops with far more unknown values or nulls than the training data.

The daily drift check detects this too, but hours later. This test is fast enough to run on every drop while scoring.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from apex_ml.text import visible

MIN_LOST = {"attribute": 0.05, "history": 0.5}
"""Minimum share of the known values that a drop lost; history features also vary with new entities."""
MAX_SHOWN = 60
"""Maximum characters shown of a value."""
USUAL_UNKNOWN = 0.01
"""Share of unknown values or nulls that is usual even when training had none, because new levels appear."""


@dataclass(frozen=True)
class UnknownJump:
    """A feature whose unknown values, or nulls, jumped: their number and share in a drop, and the training share."""

    feature: str
    kind: Literal["unknown", "null"]
    rows: int
    share: float
    usual_share: float


def unknown_jumps(
    observed: Mapping[str, Sequence[int] | np.ndarray],
    references: Sequence[Mapping[str, Sequence[int] | np.ndarray]],
    kinds: Mapping[str, str],
    categorical: Mapping[str, bool],
    *,
    alpha: float,
) -> list[UnknownJump]:
    """Find the features of a drop whose share of unknown values or of nulls is far above that of every reference.

    All counts use the same bins, the last two of which are unknown values (categorical only) and nulls. A jump
    must be significant, with `alpha` shared among all tests, and matter: :data:`MIN_LOST`. `kinds` names the features
    to test.
    """
    tests = [(f, place) for f in kinds if f in observed for place in ((-2, -1) if categorical[f] else (-1,))]
    jumps = []
    for name, place in tests:
        rows = int(observed[name][place])
        if not rows:  # the usual case
            continue
        all_rows = int(np.sum(observed[name]))
        known = [r[name] for r in references if name in r and np.sum(r[name])]
        if not known:
            continue
        usual = max(known, key=lambda counts: counts[place] / np.sum(counts))
        usual_rows, usual_all = int(usual[place]), int(np.sum(usual))
        if is_jump(rows, all_rows, usual_rows, usual_all, MIN_LOST[kinds[name]], alpha / len(tests)):
            kind: Literal["unknown", "null"] = "null" if place == -1 else "unknown"
            jumps.append(UnknownJump(name, kind, rows, rows / all_rows, usual_rows / usual_all))
    return jumps


def matters(rows: int, all_rows: int, usual_rows: int, usual_all: int, min_lost: float) -> bool:
    """Whether at least the share `min_lost` of the known values is lost."""
    if not all_rows or not usual_all or usual_rows == usual_all:
        return False
    usual = usual_rows / usual_all
    return (rows / all_rows - usual) / (1 - usual) >= min_lost


def is_jump(rows: int, all_rows: int, usual_rows: int, usual_all: int, min_lost: float, alpha: float) -> bool:
    """Whether `rows` of `all_rows` are significantly more than `usual_rows` of `usual_all`, and matter.

    The p-value is at most exp(-G), where G is the log likelihood ratio of two shares against one; the usual share
    counts as at least :data:`USUAL_UNKNOWN`. One unknown row is no jump, but three of three are:

    >>> [is_jump(n, n, 0, 90_000, 0.05, 1e-4) for n in (1, 2, 3)]
    [False, False, True]
    >>> is_jump(4, 100, 0, 90_000, 0.05, 1e-4), is_jump(900, 1000, 89_000, 90_000, 0.05, 1e-4)
    (False, False)
    """
    if not matters(rows, all_rows, usual_rows, usual_all, min_lost):
        return False
    usual = max(float(usual_rows), USUAL_UNKNOWN * usual_all)
    pooled = (rows + usual) / (all_rows + usual_all)
    ratio = all_rows * _divergence(rows / all_rows, pooled) + usual_all * _divergence(usual / usual_all, pooled)
    return rows / all_rows > usual / usual_all and ratio > -math.log(alpha)


def _divergence(share: float, other: float) -> float:
    """Kullback-Leibler divergence of two shares, in nats."""
    total = 0.0
    for p, q in ((share, other), (1 - share, 1 - other)):
        if p > 0:
            total += p * math.log(p / max(q, 1e-300))
    return total


def summed(profiles: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Sum of the counts of several runs over the same bins, by feature."""
    names = set.intersection(*(set(p["features"]) for p in profiles)) if profiles else set()
    return {name: np.sum([p["features"][name] for p in profiles], axis=0) for name in sorted(names)}


def escaped(value: str) -> str:
    """A value in quotes. Characters that are invisible or not storable, such as NUL, are shown as escapes.

    >>> print(escaped("EC" + chr(0)), escaped("PE" + chr(0x200B)), escaped("España"))
    'EC\\x00' 'PE\\u200b' 'España'
    """
    return f"'{visible(value[:MAX_SHOWN])}{'…' if len(value) > MAX_SHOWN else ''}'"
