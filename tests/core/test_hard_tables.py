"""Tables that are hard to learn from: wide, empty, unbalanced, small, of many levels, of many classes."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.contest import MAX_SELECTION_COST
from apex_ml.core.development import Development, Options, develop
from apex_ml.core.examples import Examples
from apex_ml.core.search import Budget
from apex_ml.core.selection import NoiseTest, beats_noise, rows_to_test
from apex_ml.core.training_time import PROGRESS_SECONDS, TrainingTime
from apex_ml.errors import DataError
from tests.support.model_infos import INFO

CONTENDERS = ("xgboost_native", "logistic")


def numbers(n: int, width: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {f"x{i:03d}": random.normal(0, 1, n) for i in range(width)}


def drawn(p: np.ndarray, seed: int) -> np.ndarray:
    """Classes drawn from probabilities of shape (n, k)."""
    chosen: np.ndarray = (np.random.default_rng(seed).random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)
    return np.minimum(chosen, p.shape[1] - 1)


def two(odds: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-odds))
    return np.column_stack([1 - p, p])


def wide(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """200 columns, of which each of ten says a little."""
    columns = numbers(n, 200, seed)
    return columns, drawn(two(0.6 * sum(columns[f"x{i:03d}"] for i in range(10))), seed + 100)


def narrow(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Of 20 columns one says a little."""
    columns = numbers(n, 20, seed)
    return columns, drawn(two(0.6 * columns["x000"]), seed + 100)


def levelled(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A column of 5,000 levels, a few of which have most rows."""
    level = (np.random.default_rng(seed).pareto(1.0, n) * 20).astype(int) % 5000
    odds = np.where(np.random.default_rng(1).random(5000) < 0.5, -2.0, 2.0)[level]
    return {"level": np.char.add("v", level.astype(str))}, drawn(two(odds), seed + 100)


def one_class(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """99.5 % of one class."""
    columns = numbers(n, 4, seed)
    return columns, drawn(two(3 * columns["x000"] - 9), seed + 100)


def empty(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """80 % nulls in every column."""
    columns = numbers(n, 6, seed)
    y = drawn(two(2 * columns["x000"] + columns["x001"]), seed + 100)
    random = np.random.default_rng(seed + 200)
    return {name: np.where(random.random(n) < 0.8, np.nan, v) for name, v in columns.items()}, y


def small(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A line that divides two classes, and 60 rows in all."""
    columns = numbers(n, 4, seed)
    return columns, drawn(two(4 * columns["x000"] + 4 * columns["x001"]), seed + 100)


def parts_of(
    make: Callable[[int, int], tuple[dict[str, np.ndarray], np.ndarray]], rows: int
) -> tuple[dict[str, Examples], tuple[FeatureColumn, ...]]:
    sizes = {"train": 6 * rows // 10, "validation": 2 * rows // 10, "test": 2 * rows // 10}
    parts = {}
    for seed, (name, n) in enumerate(sizes.items()):
        columns, y = make(n, seed)
        table = pa.table({k: pa.array(v, from_pandas=True) for k, v in columns.items()})
        parts[name] = Examples(table, y, np.arange(n))
    kinds = {f.name: "categorical" if pa.types.is_string(f.type) else "numeric" for f in parts["train"].table.schema}
    return parts, tuple(FeatureColumn(name, kind) for name, kind in kinds.items())  # type: ignore[arg-type]


def trained(
    parts: dict[str, Examples], columns: tuple[FeatureColumn, ...], classes: int = 2, **options: object
) -> Development:
    names = tuple(f"class {i}" for i in range(classes))
    chosen = Options(contenders=CONTENDERS, threads=1, **options)  # type: ignore[arg-type]
    return develop(parts, columns, names, (), chosen, INFO)


CASES = {"wide": (wide, 2_000, 0.9), "levels": (levelled, 20_000, 0.8), "one class": (one_class, 9_000, 0.95),
         "nulls": (empty, 6_000, 0.97), "small": (small, 60, 0.7)}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_hard_table_is_learned(case: str) -> None:
    make, rows, share = CASES[case]
    parts, columns = parts_of(make, rows)
    done = trained(parts, columns)
    p = done.model.probabilities(parts["test"].table)
    assert np.isfinite(p).all() and p.sum(axis=1) == pytest.approx(np.ones(len(p)), abs=1e-5)
    assert done.metrics["test_log_loss"] < share * done.metrics["test_prior_log_loss"]


@pytest.mark.parametrize("case", ["small", "nulls"])
def test_the_selection_costs_no_more_than_its_limit_on_validation(case: str) -> None:
    make, rows, _ = CASES[case]
    parts, columns = parts_of(make, rows)
    usual, every = (trained(parts, columns, selection=selection) for selection in ("noise", "none"))
    best = min(every.candidates[name] for name in CONTENDERS)
    assert usual.candidates[usual.winner] <= best * (1 + MAX_SELECTION_COST) + 1e-4
    if len(usual.model.encoder.names) == len(columns) and any(v.wins == 0 for v in usual.verdicts):
        assert any("with all features the validation loss is clearly lower" in v.reason for v in usual.verdicts)


def test_a_model_of_all_features_repeats_from_its_recorded_parameters() -> None:
    make, rows, _ = CASES["small"]
    parts, columns = parts_of(make, rows)
    usual = trained(parts, columns)
    assert usual.model.encoder.names == tuple(column.name for column in columns)
    again = trained(parts, columns, features=frozenset(usual.model.encoder.names), fixed=usual.chosen)
    assert again.model.to_files() == usual.model.to_files()


def test_free_text_is_refused_as_a_feature_with_a_hint() -> None:
    n = 300
    random = np.random.default_rng(0)
    texts = pa.array([f"the customer called about order {i}" for i in range(n)])
    table = pa.table({"note": texts, "x": pa.array(random.normal(0, 1, n))})
    part = Examples(table, random.integers(0, 2, n), np.arange(n))
    columns = (FeatureColumn("note", "categorical"), FeatureColumn("x", "numeric"))
    with pytest.raises(DataError, match=r"note has 300 different texts in 300 training rows.*features\.attributes"):
        trained({"train": part, "validation": part, "test": part}, columns)


def thirty(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """30 classes by the angle of a point."""
    columns = numbers(n, 4, seed)
    angle = np.arctan2(columns["x000"], columns["x001"]) + np.random.default_rng(seed + 9).normal(0, 0.1, n)
    return columns, ((angle / (2 * np.pi) + 1) % 1 * 30).astype(int)


class Clock:
    """A clock that advances by the same time at each reading."""

    def __init__(self, step: float) -> None:
        self.step, self.readings = step, itertools.count()

    def __call__(self) -> float:
        return self.step * next(self.readings)


def test_thirty_classes_are_learned_within_a_time_budget_and_show_their_progress() -> None:
    parts, columns = parts_of(thirty, 3_000)
    names = tuple(f"class {i}" for i in range(30))
    lines: list[str] = []
    spent = TrainingTime(400.0, lines.append, Clock(1.0))
    options = Options(contenders=CONTENDERS, threads=1)
    done = develop(parts, columns, names, (), options, INFO, spent=spent)
    assert spent.was_short
    assert done.metrics["test_log_loss"] < 0.75 * done.metrics["test_prior_log_loss"]
    form = r"training candidate=xgboost_native preset=\d/3 round=\d+ validation_log_loss=\d\.\d{5} seconds=\d+"
    assert any(re.fullmatch(form, line) for line in lines)
    # each line is at least PROGRESS_SECONDS after the one before
    seconds = [int(line.rpartition("=")[2]) for line in lines if "preset=1/3 round" in line]
    assert all(later - earlier >= PROGRESS_SECONDS for earlier, later in itertools.pairwise(seconds))


def test_without_any_time_each_candidate_has_one_round() -> None:
    parts, columns = parts_of(small, 600)
    spent = TrainingTime(0.0, clock=Clock(1.0))
    done = develop(parts, columns, ("a", "b"), (), Options(contenders=CONTENDERS, threads=1), INFO, spent=spent)
    assert spent.was_short and np.isfinite(done.metrics["test_log_loss"])


def test_a_search_ends_with_the_time_budget_and_its_best_parameters_are_used() -> None:
    parts, columns = parts_of(small, 600)
    spent = TrainingTime(3.0, clock=time.monotonic)
    options = Options(contenders=("xgboost",), threads=1, budget=Budget(10_000), selection="none")
    done = develop(parts, columns, ("a", "b"), (), options, INFO, spent=spent)
    assert 0 < len(done.trials) < 10_000
    assert done.metrics["test_log_loss"] < done.metrics["test_prior_log_loss"]


def test_without_time_the_noise_test_keeps_what_more_repeats_could_have_kept() -> None:
    parts, columns = parts_of(narrow, 3_000)
    x = {name: np.column_stack(part.table.to_pandas().to_numpy().T).astype(np.float32) for name, part in parts.items()}
    fit, held_out = (x["train"], parts["train"].y), (x["validation"], parts["validation"].y)
    names = [column.name for column in columns]
    asked: list[int] = []
    verdicts = beats_noise(names, fit, held_out, 2, NoiseTest(threads=1), lambda: not asked.append(1))
    assert len(asked) == 1 and all(v.repeats == 1 for v in verdicts)
    complete = beats_noise(names, fit, held_out, 2, NoiseTest(threads=1))
    assert {v.name for v in complete if v.kept} <= {v.name for v in verdicts if v.kept}


@pytest.mark.parametrize(
    ("features", "classes", "rows"), [(20, 3, 40_000), (80, 3, 40_000), (200, 3, 16_000), (200, 30, 5_000)]
)
def test_the_noise_test_takes_fewer_rows_of_wide_tables(features: int, classes: int, rows: int) -> None:
    assert rows_to_test(features, classes) == rows


def few_entities(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Histories that are numbers of 12 entities, and say nothing of the class."""
    columns = numbers(n, 2, seed)
    y = drawn(two(2 * columns["x000"] + 2 * columns["x001"]), seed + 100)
    entity = np.random.default_rng(seed).integers(0, 12, n)
    return columns | {f"history_{i}": np.random.default_rng(i).normal(0, 1, 12)[entity] for i in range(3)}, y


def test_the_history_of_few_entities_is_left_out_where_the_model_is_better_without() -> None:
    parts, columns = parts_of(few_entities, 300)
    repeated = {n: Examples(part.table, part.y, np.arange(len(part.y)) % 12) for n, part in parts.items()}
    history = frozenset(column.name for column in columns if column.name.startswith("history"))
    # of so few rows all features stay, unless that is clearly worse
    usual = trained(repeated, columns)
    assert set(usual.model.encoder.names) > history
    done = trained(repeated, columns, of_entity=history)
    left_out = {v.name for v in done.verdicts if "without the history of 12 entities" in v.reason}
    assert left_out == history and done.model.encoder.names == ("x000", "x001")
    assert done.candidates[done.winner] < usual.candidates[usual.winner]
    again = trained(
        repeated, columns, of_entity=history, fixed=done.chosen, features=frozenset(done.model.encoder.names)
    )
    assert again.model.to_files() == done.model.to_files()
