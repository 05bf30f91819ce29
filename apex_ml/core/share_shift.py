"""Class shares of the newest rows that the model does not expect: how large the shift is, and whether it lasts.

Where shares come and go with the season, probabilities that are fitted to the newest ones are wrong afterwards. Where
they change for good, probabilities that are not are wrong. What came of earlier shifts separates the two.
"""

from __future__ import annotations

import numpy as np

from apex_ml.core.evaluation import class_shares, prior_losses, row_losses
from apex_ml.core.examples import Examples

MIN_SHIFT = 0.01
"""Share of the log loss that the right class shares must remove before a shift counts."""
CHANCE = 0.01
"""Probability of a shift that counts where there is none."""
MIN_PERIODS = 3
"""Earlier periods that tell whether a shift lasts."""
STEPS = 4
"""Periods overlap; this many begin within the length of one."""
ROUNDS = 200


def share_ratio(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The factor of each class, (k,), with which probabilities (n, k) have the mean shares of the classes of `y`."""
    shares = class_shares(y, p.shape[1])
    ratio = np.ones(p.shape[1])
    for _ in range(ROUNDS):
        scaled = p * ratio
        means = (scaled / scaled.sum(axis=1, keepdims=True)).mean(axis=0)
        ratio *= shares / np.maximum(means, 1e-12)
        if np.abs(means - shares).max() < 1e-9:
            break
    normalised: np.ndarray = ratio / ratio.sum()
    return normalised


def is_shifted(p: np.ndarray, y: np.ndarray) -> bool:
    """Whether the classes of `y` have clearly other shares than the probabilities (n, k) say."""
    scaled = p * share_ratio(p, y)
    after = row_losses(scaled / scaled.sum(axis=1, keepdims=True), y)
    return _is_less(row_losses(p, y), after, p.shape[1])


def _is_less(before: np.ndarray, after: np.ndarray, classes: int) -> bool:
    """Whether losses of the same rows (n,) are clearly less with other class shares than before."""
    from scipy.stats import chi2

    removed = float((before - after).mean())
    # twice the likelihood ratio of the shares that are free
    chance = chi2.ppf(1 - CHANCE, classes - 1) / (2 * len(before))
    return bool(removed > max(MIN_SHIFT * float(before.mean()), chance))


def do_shares_last(train: Examples, newest: Examples, classes: int) -> bool | None:
    """Whether the shares of a period were those of the period before it, rather than those of all earlier rows.

    Periods are as long as the days of `newest`, which is the last of them. None where there are too few or no days, or
    where the newest shares are not clearly others than those of `train`.
    """
    if train.days is None or newest.days is None or not len(newest.days):
        return None
    usual, now = (prior_losses(class_shares(part.y, classes), newest.y) for part in (train, newest))
    if not _is_less(usual, now, classes):
        return None
    days = np.concatenate([part.days.astype(np.int64) for part in (train, newest) if part.days is not None])
    length = int(days.max() - newest.days.astype(np.int64).min()) + 1
    counts = np.zeros((int(days.max() - days.min()) + 2, classes))
    np.add.at(counts, (days - days.min() + 1, np.concatenate([train.y, newest.y])), 1)
    upto = counts.cumsum(axis=0)  # rows of each class before the day
    starts = np.arange(len(upto) - 1 - length, length - 1, -max(length // STEPS, 1))
    if len(starts) < MIN_PERIODS:
        return None
    own, last, all_earlier = (
        upto[starts + length] - upto[starts],
        upto[starts] - upto[starts - length],
        upto[starts],
    )
    return bool(_distance(own, last) <= _distance(own, all_earlier))


def _distance(counts: np.ndarray, expected: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of the shares of periods, (m, k), from expected ones."""
    p, q = ((rows + 0.5) / (rows + 0.5).sum(axis=1, keepdims=True) for rows in (counts, expected))
    return float((p * np.log(p / q)).sum(axis=1).mean())
