"""How examples are divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_ml.contract.model import Contract
from apex_ml.contract.split import Split
from apex_ml.core.split import PARTS, stratified_random, temporal
from apex_ml.errors import DataError

THIRDS = Split(fractions=Split.Fractions(train=0.6, validation=0.2, test=0.2))


@given(st.lists(st.integers(19_000, 19_060), min_size=3, max_size=400).filter(lambda d: len(set(d)) >= 3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_day_belongs_to_one_part_and_parts_follow_in_time(days: list[int]) -> None:
    values = np.array(days)
    parts, bounds = temporal(values, THIRDS)
    assert set(parts.tolist()) == {0, 1, 2}
    assert bounds["train"][1] < bounds["validation"][0] <= bounds["validation"][1] < bounds["test"][0]
    for index, name in enumerate(PARTS):
        chosen = values[parts == index]
        assert (int(chosen.min()), int(chosen.max())) == bounds[name]


def test_fractions_are_as_close_as_days_allow() -> None:
    days = np.random.default_rng(0).integers(0, 600, 50_000)
    parts, _ = temporal(days, THIRDS)
    assert np.bincount(parts) / len(days) == pytest.approx([0.6, 0.2, 0.2], abs=0.002)


@pytest.mark.parametrize("gap", [1, 5])
def test_a_gap_leaves_days_between_the_parts_out(gap: int) -> None:
    days = np.repeat(np.arange(100), 10)
    parts, bounds = temporal(days, THIRDS.model_copy(update={"gap_days": gap}))
    assert bounds["validation"][0] - bounds["train"][1] == gap + 1
    assert bounds["test"][0] - bounds["validation"][1] == gap + 1
    assert (parts == -1).sum() == 2 * gap * 10


@pytest.mark.parametrize(
    ("days", "gap", "words"),
    [
        ([1, 1, 1], 0, "at least 3 days, there are 1"),
        ([1, 2], 0, "there are 2"),
        ([], 0, "there are 0"),
        ([1, 2, 3, 4], 30, "gap of 30 days"),
    ],
)
def test_too_few_days_are_refused(days: list[int], gap: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        temporal(np.array(days, np.int64), THIRDS.model_copy(update={"gap_days": gap}))


def test_the_split_needs_no_order_of_rows() -> None:
    days = np.random.default_rng(1).integers(0, 50, 1_000)
    shuffle = np.random.default_rng(2).permutation(1_000)
    assert (temporal(days[shuffle], THIRDS)[0] == temporal(days, THIRDS)[0][shuffle]).all()


def test_stratified_random_keeps_class_shares_and_is_repeatable() -> None:
    target = np.random.default_rng(3).choice(["a", "b", "c"], 10_000, p=[0.5, 0.3, 0.2])
    parts = stratified_random(target, THIRDS, 42)
    assert np.bincount(parts).tolist() == [6_000, 2_000, 2_000]
    for index in range(3):
        shares = [(target[parts == index] == level).mean() for level in "abc"]
        assert shares == pytest.approx([(target == level).mean() for level in "abc"], abs=0.001)
    assert (parts == stratified_random(target, THIRDS, 42)).all()
    assert (parts != stratified_random(target, THIRDS, 43)).any()


def test_a_class_too_rare_to_stratify() -> None:
    with pytest.raises(DataError, match="not possible"):
        stratified_random(np.array(["a"] * 50 + ["b"]), THIRDS, 42)


@pytest.mark.real
def test_stratified_random_gives_the_known_counts_of_the_real_files(real_raw: Path, contract: Contract) -> None:
    files = sorted(real_raw.glob("*.parquet"))
    rows = sum(pq.read_metadata(f).num_rows for f in files)
    clients = np.unique(np.concatenate([pq.read_table(f, columns=[contract.entity])[0].to_numpy() for f in files]))
    assert (rows, len(clients)) == (1_250_000, 149_960)
    # the counts depend on the numbers of the classes alone: over each client's last order these
    target = np.repeat(list(contract.classes), [72_088, 27_804, 50_068])
    parts = stratified_random(target, contract.split, 42)
    assert np.bincount(parts).tolist() == [89_976, 29_992, 29_992]
