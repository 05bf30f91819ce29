"""Divide examples into train, validation and test."""

from __future__ import annotations

import numpy as np

from apex_ml.contract.split import Split
from apex_ml.errors import DataError
from apex_ml.wording import counted

PARTS = ("train", "validation", "test")


def temporal(days: np.ndarray, split: Split) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Assign each example by its day: every day belongs to one part, train before validation before test.

    `days` are int days, shape (n,). Returns the parts, shape (n,), as indexes into PARTS, with -1 in a gap; and the
    first and last day of each part. Each cut is the day whose share of examples is closest to the given fraction.
    Raises :class:`~apex_ml.errors.DataError` when there are fewer than three days.
    """
    unique, counts = np.unique(days, return_counts=True)
    if len(unique) < 3:
        raise DataError(f"split: a temporal split needs examples of at least 3 days, there are {len(unique)}")
    share = np.cumsum(counts) / counts.sum()
    train_end = int(np.clip(np.abs(share - split.fractions.train).argmin(), 0, len(unique) - 3))
    until_validation = split.fractions.train + split.fractions.validation
    validation_end = int(np.clip(np.abs(share - until_validation).argmin(), train_end + 1, len(unique) - 2))
    first_cut, second_cut = int(unique[train_end]), int(unique[validation_end])
    gap = split.gap_days
    parts = np.full(len(days), -1, np.int8)
    parts[days <= first_cut] = 0
    parts[(days > first_cut + gap) & (days <= second_cut)] = 1
    parts[days > second_cut + gap] = 2
    bounds = {}
    for index, part in enumerate(PARTS):
        chosen = days[parts == index]
        if not len(chosen):
            raise DataError(
                f"split: no examples are left for {part} with a gap of {counted(gap, 'day')}; use a smaller gap_days"
            )
        bounds[part] = (int(chosen.min()), int(chosen.max()))
    return parts, bounds


def stratified_random(target: np.ndarray, split: Split, seed: int) -> np.ndarray:
    """Assign examples at random with equal class shares. The result is for comparison only and never promotable.

    First the test part is drawn, then validation from the rest. Returns indexes into PARTS, shape (n,). Raises
    :class:`~apex_ml.errors.DataError` when a class is too rare for three parts.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(target))
    fractions = split.fractions
    try:
        rest, test = train_test_split(rows, test_size=fractions.test, random_state=seed, stratify=target)
        within = fractions.validation / (fractions.train + fractions.validation)
        _, validation = train_test_split(rest, test_size=within, random_state=seed, stratify=target[rest])
    except ValueError as error:
        raise DataError(f"split: stratified_random is not possible: {error}") from error
    parts = np.zeros(len(target), np.int8)
    parts[validation], parts[test] = 1, 2
    return parts
