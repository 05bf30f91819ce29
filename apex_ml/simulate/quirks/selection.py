"""Choose the rows or files that a quirk changes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from apex_ml.errors import ConfigError
from apex_ml.simulate.quirks.interface import Mask, Rate

Places = npt.NDArray[np.int64]


def check_rate(name: str, rate: Rate) -> None:
    """Raise ConfigError for a rate that is neither a share nor ``one``."""
    if rate != "one" and not (isinstance(rate, float | int) and 0 < rate <= 1):
        raise ConfigError(f"quirk {name}: rate {rate} must be above 0 and at most 1, or 'one'")


def choose(count: int, rate: Rate, random: np.random.Generator) -> Places:
    """Choose places among `count`, sorted: one, or a share rounded to the nearest and at least one."""
    number = 1 if rate == "one" else max(1, round(float(rate) * count))
    return np.sort(random.permutation(count)[: min(number, count)])


def split_by_file(counts: list[int], chosen: Places) -> list[Places]:
    """Places within each of consecutive files of `counts` rows, of places chosen over all of their rows."""
    ends = np.cumsum(counts)
    return [
        chosen[(chosen >= end - count) & (chosen < end)] - (end - count)
        for count, end in zip(counts, ends, strict=True)
    ]


def mask_of(count: int, places: Places) -> Mask:
    """Mark `places` among `count` rows."""
    mask = np.zeros(count, np.bool_)
    mask[places] = True
    return mask
