"""Wide and awkward tables by commands: `apex init --yes`, `apex check` and `apex try` give a right result."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.support.command_line import called, enter_bare_folder
from tests.support.stranger_tables import write_table

Table = dict[str, Any]


def numbers(n: int, width: int, seed: int = 0) -> np.ndarray:
    drawn: np.ndarray = np.random.default_rng(seed).normal(0, 1, (n, width)).round(3)
    return drawn


def two(odds: np.ndarray) -> list[str]:
    came: list[str] = np.where(
        np.random.default_rng(1).random(len(odds)) < 1 / (1 + np.exp(-odds)), "yes", "no"
    ).tolist()
    return came


def with_columns(x: np.ndarray, y: list[str]) -> Table:
    return {f"x{i:03d}": x[:, i] for i in range(x.shape[1])} | {"target": y}


def wide() -> Table:
    """200 columns, of which ten matter."""
    x = numbers(700, 200)
    return with_columns(x, two(0.8 * x[:, :10].sum(axis=1)))


def levels() -> Table:
    """A text of 5,000 levels, a few of which have most rows."""
    random = np.random.default_rng(2)
    level = np.concatenate([np.arange(5000), (random.pareto(1.0, 45_000) * 20).astype(int) % 5000])
    names = ["".join(letters) for letters in product("abcdefghijklmnopqr", repeat=3)]
    good = random.random(5000) < 0.5
    return {"level": [names[n] for n in level], "target": two(np.where(good, -2.0, 2.0)[level])}


def thirty() -> Table:
    """30 classes by the angle of a point."""
    x = numbers(1200, 3)
    angle = np.arctan2(x[:, 0], x[:, 1]) / (2 * np.pi) + 1
    return with_columns(x, [f"class {int(part)}" for part in angle % 1 * 30])


def one_class() -> Table:
    """99.5 % of one class."""
    x = numbers(9000, 4)
    return with_columns(x, two(3 * x[:, 0] - 9))


def empty() -> Table:
    """80 % nulls, in numbers and in a text, and a column of nulls alone."""
    x = numbers(4000, 4)
    gone = np.random.default_rng(3).random(x.shape) < 0.8
    table = with_columns(x, two(3 * x[:, 0] + 2 * x[:, 1]))
    table |= {f"x{i:03d}": pa.array(np.where(gone[:, i], np.nan, x[:, i]), from_pandas=True) for i in range(3)}
    table["x003"] = [
        None if is_gone else "ab"[int(value > 0)] for value, is_gone in zip(x[:, 3], gone[:, 3], strict=True)
    ]
    return table | {"nothing": pa.nulls(4000, pa.float64())}


def small() -> Table:
    """60 rows, which a line divides: 12 of them are for the calibration."""
    x = numbers(60, 4, seed=5)
    return with_columns(x, two(9 * x[:, 0] + 9 * x[:, 1]))


def small_over_time() -> Table:
    """The same with entities and days."""
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(60)]
    return small() | {"person": [f"P{n % 12:02d}" for n in range(60)], "day": days}


CASES: dict[str, tuple[Callable[[], Table], float]] = {
    "200 columns": (wide, 0.9),
    "5,000 levels": (levels, 0.8),
    "30 classes": (thirty, 0.6),
    "99.5 % of one class": (one_class, 0.9),
    "80 % nulls": (empty, 0.97),
    "60 rows": (small, 0.6),
    "60 rows over time": (small_over_time, 0.8),
}


@pytest.mark.parametrize("case", CASES)
def test_a_hard_table_of_a_stranger_is_learned(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, share = CASES[case]
    here = enter_bare_folder(tmp_path, monkeypatch)
    write_table(here / "table" / "1.parquet", make())
    for command in (["init", "hard", "--from", "table", "--target", "target", "--yes"], ["check", "hard"]):
        code, _, err = called(capsys, *command)
        assert code == 0, err
    code, out, err = called(capsys, "try", "hard")
    assert code == 0, err
    losses = {name: float(loss) for name, loss in re.findall(r"^ *(class prior|Apex) .*? ([\d.]+) +[\d.]+%", out, re.M)}
    assert losses["Apex"] < share * losses["class prior"], out


def test_fewer_rows_than_classes_can_be_learned_from_are_not_predicted_with_confidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = enter_bare_folder(tmp_path, monkeypatch)
    table = {name: values[:60] for name, values in thirty().items()}
    write_table(here / "table" / "1.parquet", table)
    assert called(capsys, "init", "hard", "--from", "table", "--target", "target", "--yes")[0] == 0
    code, out, err = called(capsys, "try", "hard")
    assert code == 0, err
    losses = {name: float(loss) for name, loss in re.findall(r"^ *(class prior|Apex) .*? ([\d.]+) +[\d.]+%", out, re.M)}
    assert losses["Apex"] < 1.2 * losses["class prior"], out
