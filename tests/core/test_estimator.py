"""Encoder and booster."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb
from sklearn.metrics import log_loss

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.calibration import Calibration
from apex_ml.core.candidates.xgboost import TrainingSettings, fit_xgboost
from apex_ml.core.decision import decide
from apex_ml.core.estimator import LEVELS_LIMIT, Encoder, Model, distinct_rows
from apex_ml.errors import DataError
from tests.support.model_infos import INFO

COLUMNS = (
    FeatureColumn("stars", "categorical", ("1", "2", "3")),
    FeatureColumn("route", "categorical"),
    FeatureColumn("amount", "numeric"),
)
QUICK = TrainingSettings(rounds=60, early_stopping_rounds=8, min_child_weight=5.0)


def table_of(stars: Any, route: Any, amount: Any) -> pa.Table:
    return pa.table(
        {"stars": pa.array(stars, pa.string()), "route": pa.array(route, pa.string()), "amount": pa.array(amount)}
    )


def data(n: int, seed: int) -> tuple[pa.Table, np.ndarray]:
    """The class depends on the stars, and a little on the amount."""
    random = np.random.default_rng(seed)
    stars = random.integers(1, 4, n)
    amount = random.normal(0, 1, n)
    y = (stars + (amount > 1) + (random.random(n) < 0.4)) % 3
    return table_of(stars.astype(str), random.choice(["r1", "r2"], n), amount), y


@pytest.fixture(scope="module")
def fitted() -> tuple[Model, pa.Table, np.ndarray]:
    train, y = data(3_000, 1)
    other, yv = data(1_000, 2)
    encoder = Encoder.fit(COLUMNS, train)
    trained = fit_xgboost((encoder.encode(train), y), (encoder.encode(other), yv), 3, QUICK)
    return Model(encoder, trained.booster, ("a", "b", "c"), INFO), other, yv


CODES = [
    (["1", "2", "3"], [1, 2, 3]),
    ([None, "1"], [0, 1]),
    (["4", "", "1.0", " 1", "B2"], [0, 0, 0, 0, 0]),
]


@pytest.mark.parametrize(("levels", "codes"), CODES)
def test_levels_have_codes_from_one_and_the_unknown_has_zero(levels: list[str | None], codes: list[int]) -> None:
    n = len(levels)
    encoded = Encoder(COLUMNS[:1]).encode(table_of(levels, ["r"] * n, [0.0] * n))
    assert encoded[:, 0].tolist() == codes and encoded.dtype == np.float32


def test_numbers_pass_and_null_is_nan() -> None:
    encoder = Encoder((FeatureColumn("amount", "numeric"), FeatureColumn("count", "numeric")))
    table = pa.table({"amount": pa.array([1.5, None]), "count": pa.array([None, 3], pa.int64())})
    assert np.array_equal(encoder.encode(table), np.array([[1.5, np.nan], [np.nan, 3]], np.float32), equal_nan=True)


def test_numbers_that_a_float_cannot_hold_are_the_largest_that_it_can() -> None:
    numbers = [1e39, -1e300, 3.5, None]
    x = Encoder((FeatureColumn("n", "numeric"),)).encode(pa.table({"n": pa.array(numbers, pa.float64())}))[:, 0]
    largest = np.finfo(np.float32).max
    assert x[:3].tolist() == [largest, -largest, 3.5] and np.isnan(x[3])


def test_levels_without_a_domain_are_learned_most_frequent_first_ties_by_name() -> None:
    route = ["b", "a", "c", "c", None, "d", "b", "a"]
    table = table_of(["1"] * 8, route, [0.0] * 8)
    assert Encoder.fit(COLUMNS, table).columns[1].levels == ("a", "b", "c", "d")
    assert Encoder.fit(COLUMNS, table.take(list(range(7, -1, -1)))) == Encoder.fit(COLUMNS, table)
    many = [f"r{i:05d}" for i in range(LEVELS_LIMIT + 50)]
    levels = Encoder.fit(COLUMNS, table_of(["1"] * len(many), many, [0.0] * len(many))).columns[1].levels
    assert levels == tuple(many[:LEVELS_LIMIT])


def test_a_level_of_few_rows_is_unknown() -> None:
    route = ["a"] * 5 + ["b"] * 4 + ["c"]
    table = table_of(["1"] * 10, route, [0.0] * 10)
    for rows, levels in ((None, ("a", "b", "c")), (1, ("a", "b", "c")), (4, ("a", "b")), (5, ("a",)), (6, ())):
        encoder = Encoder.fit((FeatureColumn("route", "categorical", min_rows=rows),), table)
        assert encoder.columns[0].levels == levels
        assert encoder.encode(table)[-1, 0] == (3 if rows in (None, 1) else 0)


def test_the_frequency_of_a_level_is_its_share_of_the_training_rows() -> None:
    column = FeatureColumn("route", "categorical", encoding="frequency")
    train = table_of(["1"] * 8, ["a", "a", "a", "a", "b", "b", "c", None], [0.0] * 8)
    encoder = Encoder.fit((column,), train)
    other = table_of(["1"] * 5, ["b", "a", "c", "never seen", None], [0.0] * 5)
    assert encoder.encode(other)[:, 0].tolist() == [0.25, 0.5, 0.125, 0.0, 0.0]
    assert Encoder.fit((column,), train.take([7, 6, 5, 4, 3, 2, 1, 0])) == encoder
    rare = Encoder.fit((replace(column, min_rows=2),), train)
    assert rare.encode(other)[:, 0].tolist() == [0.25, 0.5, 0.0, 0.0, 0.0]


def test_a_model_keeps_frequencies_and_a_plain_column_is_stored_as_ever() -> None:
    columns = (
        FeatureColumn("route", "categorical", ("a", "b"), "frequency", 2, (0.7, 0.1)),
        FeatureColumn("stars", "categorical", ("1",)),
        FeatureColumn("amount", "numeric"),
    )
    files = Model(Encoder(columns), b"{}", ("a", "b"), INFO, candidate="logistic").to_files()
    assert Model.from_files(files).encoder.columns == columns
    assert [set(feature) - {"name", "kind", "levels"} for feature in json.loads(files["model.json"])["features"]] == [
        {"encoding", "shares", "min_rows"},
        set(),
        set(),
    ]


def test_a_missing_feature_is_named() -> None:
    with pytest.raises(DataError, match="no columns for these features of the model: stars, route"):
        Encoder(COLUMNS).encode(pa.table({"amount": [1.0]}))


def test_a_new_level_scores_as_unknown(fitted: tuple[Model, pa.Table, np.ndarray]) -> None:
    model = fitted[0]
    table = table_of(["B2", None, "3"], ["new", None, "r1"], [0.0, 0.0, 0.0])
    p = model.probabilities(table)
    assert np.array_equal(p[0], p[1])


def test_probabilities_are_those_of_the_booster_and_sum_to_one(fitted: tuple[Model, pa.Table, np.ndarray]) -> None:
    model, table, _ = fitted
    p = model.probabilities(table)
    assert p.shape == (table.num_rows, 3) and p.dtype == np.float32
    assert p.sum(axis=1) == pytest.approx(np.ones(table.num_rows), abs=1e-6)
    booster = xgb.Booster(model_file=bytearray(model.booster))
    assert np.allclose(p, booster.predict(xgb.DMatrix(model.encoder.encode(table))), atol=1e-6)


def test_saved_and_loaded_it_gives_the_same_probabilities(fitted: tuple[Model, pa.Table, np.ndarray]) -> None:
    model, table, _ = fitted
    files = model.to_files()
    loaded = Model.from_files(files)
    assert loaded.encoder == model.encoder and loaded.classes == model.classes and loaded.info == model.info
    assert loaded.probabilities(table).tobytes() == model.probabilities(table).tobytes()
    assert loaded.to_files() == files
    assert set(json.loads(files["model.json"])) == {
        "classes",
        "features",
        "about",
        "candidate",
        "calibration",
        "weights",
    }


def test_no_rows_give_no_probabilities(fitted: tuple[Model, pa.Table, np.ndarray]) -> None:
    assert fitted[0].probabilities(fitted[1].slice(0, 0)).shape == (0, 3)


def parts(n: int = 2_000) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    (train, y), (other, yv) = data(n, 3), data(n // 2, 4)
    encoder = Encoder.fit(COLUMNS, train)
    return (encoder.encode(train), y), (encoder.encode(other), yv)


def test_training_stops_early_and_keeps_the_best_round() -> None:
    train, validation = parts()
    trained = fit_xgboost(train, validation, 3, replace(QUICK, rounds=400, learning_rate=0.3))
    curve = trained.curve["validation"]
    assert trained.best_round == int(np.argmin(curve)) < 390
    assert trained.validation_log_loss == min(curve)
    booster = xgb.Booster(model_file=bytearray(trained.booster))
    assert booster.num_boosted_rounds() == trained.best_round + 1
    p = booster.inplace_predict(validation[0])
    assert trained.validation_log_loss == pytest.approx(log_loss(validation[1], p), abs=1e-5)


def test_without_early_stopping_every_round_is_kept() -> None:
    trained = fit_xgboost(*parts(), 3, replace(QUICK, rounds=25, early_stopping_rounds=0))
    assert trained.best_round == 24
    assert xgb.Booster(model_file=bytearray(trained.booster)).num_boosted_rounds() == 25


def test_the_same_data_and_seed_give_the_same_bytes() -> None:
    first, second = (fit_xgboost(*parts(), 3, QUICK) for _ in range(2))
    assert first.booster == second.booster and first.curve == second.curve
    other = fit_xgboost(*parts(), 3, replace(QUICK, seed=43))
    assert other.booster != first.booster


def test_balanced_weights_raise_the_rare_class() -> None:
    (x, y), validation = parts()
    keep = (y != 2) | (np.arange(len(y)) % 10 == 0)
    train = (x[keep], y[keep])
    shares = []
    for weights in ("none", "balanced"):
        trained = fit_xgboost(train, validation, 3, replace(QUICK, class_weights=weights, early_stopping_rounds=0))  # type: ignore[arg-type]
        p = xgb.Booster(model_file=bytearray(trained.booster)).inplace_predict(validation[0])
        shares.append(p[:, 2].mean())
    assert shares[1] > 2 * shares[0]


NOTHING = (np.empty((0, 1), np.float32), np.empty(0, np.int64))
SOME = (np.ones((4, 1), np.float32), np.array([0, 1, 2, 0]))


@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        ((SOME[0], np.ones(4, np.int64)), SOME, "the same target"),
        (NOTHING, SOME, "0 training and 4 validation"),
        (SOME, NOTHING, "4 training and 0 validation"),
    ],
)
def test_a_constant_target_is_refused(train: Any, validation: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        fit_xgboost(train, validation, 3, QUICK)


MATRICES = [
    (lambda random: random.integers(0, 3, (500, 2)).astype(np.float32), True),
    (lambda random: random.choice(np.array([0.0, -0.0, np.nan, 1.5], np.float32), (500, 3)), True),
    (lambda random: random.random((500, 3)).astype(np.float32), False),
    (lambda random: np.zeros((1, 4), np.float32), False),
]


@pytest.mark.parametrize(("make", "worth_it"), MATRICES)
def test_distinct_rows_restore_every_bit(make: Any, worth_it: bool) -> None:
    x = make(np.random.default_rng(3))
    distinct = distinct_rows(x)
    assert (distinct is not None) is worth_it
    if distinct is not None:
        first, inverse = distinct
        assert x[first][inverse].tobytes() == x.tobytes()
        assert len(first) == len({row.tobytes() for row in x})


CALIBRATIONS = (
    Calibration(),
    Calibration("temperature", temperature=1.3, prior_ratio=(0.5, 1.0, 2.0)),
    Calibration("isotonic", knots=(((0.0, 0.4, 1.0), (0.1, 0.3, 0.9)),) * 3),
)


@pytest.mark.parametrize("calibration", CALIBRATIONS, ids=lambda c: c.method)
def test_scoring_distinct_rows_changes_no_bit(
    fitted: tuple[Model, pa.Table, np.ndarray], calibration: Calibration
) -> None:
    fitted_model, table, _ = fitted
    model = replace(fitted_model, calibration=calibration, weights=(1.0, 0.7, 1.4))
    few = table.set_column(2, "amount", pa.array(np.round(table["amount"].to_numpy())))
    x = model.encoder.encode(few)
    assert distinct_rows(x) is not None and distinct_rows(model.encoder.encode(table)) is None
    plain = xgb.Booster(model_file=bytearray(model.booster)).inplace_predict(x)
    assert model.raw_probabilities(few).tobytes() == plain.tobytes()
    prediction, p = model.predict(few), calibration.apply(plain)
    assert prediction.probabilities.tobytes() == p.tobytes()
    assert np.array_equal(prediction.predicted, decide(p, model.weights))
    assert prediction.confidence.tobytes() == p[np.arange(len(p)), prediction.predicted].tobytes()
