from __future__ import annotations

import numpy as np
import pytest

from apex_ml.core.timeline import Timeline


@pytest.mark.parametrize("scale", [1, 10**15], ids=["days", "so far apart that they are ranked"])
def test_the_first_row_from_a_time_on_is_that_of_a_loop(scale: int) -> None:
    random = np.random.default_rng(1)
    keys = np.sort(random.integers(0, 3000, 5000))
    keys = np.unique(keys, return_inverse=True)[1]
    times = random.integers(0, 50, 5000) * scale
    ranking = np.lexsort([times, keys])
    keys, times = keys[ranking], times[ranking]
    timeline = Timeline(keys, times)
    asked, at = random.integers(0, keys[-1] + 1, 300), random.integers(-5, 60, 300) * scale
    expected = [
        sum(1 for k, t in zip(keys, times, strict=True) if k < key or (k == key and t < time))
        for key, time in zip(asked, at, strict=True)
    ]
    assert timeline.first_from(asked, at).tolist() == expected


def test_without_rows_everything_is_behind_the_last() -> None:
    nothing = np.zeros(0, np.int64)
    assert Timeline(nothing, nothing).first_from(np.array([-1, 0]), np.array([5, 7])).tolist() == [0, 0]
