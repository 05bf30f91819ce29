"""XGBoost with its own categories: many levels are learned, and a level that is not known is explicitly unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.candidates import candidate
from apex_ml.core.candidates.interface import FitContext, Fitted, Part
from apex_ml.core.candidates.xgboost_native import MIN_LEVEL_ROWS, known_levels, with_missing
from apex_ml.core.estimator import Encoder, Model
from apex_ml.core.evaluation import row_losses
from tests.support.model_infos import INFO

LEVELS = tuple(f"level {i:03d}" for i in range(300))
COLUMNS = (
    FeatureColumn("product", "categorical"),
    FeatureColumn("size", "categorical", ("s", "m", "l")),
    FeatureColumn("price", "numeric"),
)
KIND = candidate("xgboost_native")
QUICK = {**KIND.defaults(FitContext(("a", "b"), ())), "rounds": 120}


def rows(n: int, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Rows whose class depends on the product: each of 300 has its own probability, in no order."""
    random = np.random.default_rng(seed)
    probability = np.random.default_rng(0).choice([0.05, 0.95], len(LEVELS))
    product = random.integers(0, len(LEVELS), n)
    table = pa.table(
        {
            "product": pa.array(np.asarray(LEVELS)[product]),
            "size": pa.array(random.choice(["s", "m", "l"], n)),
            "price": pa.array(random.normal(0, 1, n)),
        }
    )
    return table, (random.random(n) < probability[product]).astype(np.int64)


@pytest.fixture(scope="module")
def parts() -> tuple[Encoder, dict[str, Part]]:
    tables = {name: rows(size, i) for i, (name, size) in enumerate({"train": 12_000, "validation": 3_000}.items())}
    encoder = Encoder.fit(COLUMNS, tables["train"][0])
    return encoder, {name: Part(encoder.encode(table), y) for name, (table, y) in tables.items()}


def fitted(name: str, encoder: Encoder, parts: dict[str, Part], **params: float) -> Fitted:
    kind = candidate(name)
    context = FitContext(("a", "b"), encoder.columns, threads=1)
    return kind.fit({**kind.defaults(context), **params}, parts["train"], parts["validation"], context)


@pytest.fixture(scope="module")
def native(parts: tuple[Encoder, dict[str, Part]]) -> Fitted:
    return fitted("xgboost_native", *parts, rounds=120)


def test_sets_of_levels_say_more_than_their_order(parts: tuple[Encoder, dict[str, Part]], native: Fitted) -> None:
    validation = parts[1]["validation"]
    ordered = fitted("xgboost", *parts, rounds=120)
    losses = [
        row_losses(candidate(name).load(one.content).predict(validation.x), validation.y).mean()
        for name, one in (("xgboost_native", native), ("xgboost", ordered))
    ]
    # the best possible is the entropy of 5 %, 0.199
    assert losses[0] < 0.28 and losses[0] < 0.9 * losses[1]


def test_a_new_level_null_and_a_rare_one_get_the_same_answer_near_the_prior(
    parts: tuple[Encoder, dict[str, Part]],
) -> None:
    table, y = rows(6_000, 3)
    rare = pa.array(["seldom"] * (MIN_LEVEL_ROWS - 1) + table.column("product").to_pylist()[MIN_LEVEL_ROWS - 1 :])
    table = table.set_column(0, "product", rare)
    encoder = Encoder.fit(COLUMNS, table)
    assert "seldom" in (encoder.columns[0].levels or ())
    validation, yv = rows(2_000, 4)
    inputs = {"train": Part(encoder.encode(table), y), "validation": Part(encoder.encode(validation), yv)}
    content = fitted("xgboost_native", encoder, inputs, rounds=60).content
    model = Model(encoder, content, ("a", "b"), INFO, candidate="xgboost_native")
    asked = pa.table(
        {
            "product": pa.array(["never seen", None, "seldom", LEVELS[0], LEVELS[1]]),
            "size": pa.array(["s"] * 5),
            "price": pa.array([0.0] * 5),
        }
    )
    p = model.probabilities(asked)
    assert np.array_equal(p[0], p[1]) and np.array_equal(p[0], p[2])
    assert 0.25 < p[0, 1] < 0.75  # the levels themselves are near 0.05 or 0.95
    assert not np.array_equal(p[0], p[3]) and not np.array_equal(p[0], p[4])


def test_the_contract_says_how_many_rows_a_level_needs_and_a_frequency_is_a_number() -> None:
    table = pa.table({"product": [f"p{n:02d}" for n in range(20) for _ in range(n + 1)]})

    def known(**keys: Any) -> list[int] | None:
        encoder = Encoder.fit((FeatureColumn("product", "categorical", **keys),), table)
        return known_levels(encoder.columns, encoder.encode(table))[0]

    counts = {rows: len(known(min_rows=rows) or ()) for rows in (None, 1, 3, 8)}
    assert counts == {None: 20 - MIN_LEVEL_ROWS + 1, 1: 20, 3: 18, 8: 13}
    assert known(encoding="frequency") is None


def test_it_is_stored_without_pickle_explains_itself_and_repeats(
    parts: tuple[Encoder, dict[str, Part]], native: Fitted
) -> None:
    encoder, inputs = parts
    assert fitted("xgboost_native", encoder, inputs, rounds=120).content == native.content
    model = Model(encoder, native.content, ("a", "b"), INFO, candidate="xgboost_native")
    loaded = Model.from_files(model.to_files())
    table, _ = rows(500, 9)
    assert loaded.probabilities(table).tobytes() == model.probabilities(table).tobytes()
    contributions = loaded.contributions(table)
    assert contributions is not None and contributions.shape == (500, 2, 3)
    odds = np.log(loaded.raw_probabilities(table))
    sums = contributions.sum(axis=2)
    difference = (odds[:, 1] - odds[:, 0]) - (sums[:, 1] - sums[:, 0])
    assert np.ptp(difference) == pytest.approx(0, abs=1e-3)
    # few rows are scored by one thread: with the same result
    many = pa.concat_tables([table] * 6)
    assert loaded.probabilities(many)[:500].tobytes() == loaded.probabilities(table).tobytes()


def test_its_presets_are_in_the_ranges_of_its_search_and_the_default_is_the_first() -> None:
    import optuna

    context = FitContext(("a", "b"), ())
    presets = KIND.presets(context)
    assert presets[0] == KIND.defaults(context) and len(presets) == 3
    for preset in presets:
        assert KIND.suggest(optuna.trial.FixedTrial(preset)) == preset


def test_two_features_that_say_something_only_together_are_learned_by_every_preset() -> None:
    random = np.random.default_rng(8)
    columns = (FeatureColumn("x", "numeric"), FeatureColumn("y", "numeric"))
    parts = []
    for n in (2_000, 1_000):
        x = random.normal(0, 1, (n, 2)).astype(np.float32)
        parts.append(Part(x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)))
    context = FitContext(("a", "b"), columns, early_stopping_rounds=30)
    for preset in KIND.presets(context):
        fitted = KIND.fit(preset, *parts, context)
        assert row_losses(KIND.load(fitted.content).predict(parts[1].x), parts[1].y).mean() < 0.2, preset


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=200),
    st.lists(st.integers(0, 60), min_size=1, max_size=50),
)
def test_a_code_is_kept_exactly_when_training_had_enough_rows_of_it(train: list[int], asked: list[int]) -> None:
    column = FeatureColumn("c", "categorical", tuple(map(str, range(60))))
    x = np.asarray(train, np.float32)[:, None]
    known = known_levels((column,), x)
    result = with_missing(np.asarray(asked, np.float32)[:, None], known)[:, 0]
    for code, value in zip(asked, result, strict=True):
        enough = code > 0 and train.count(code) >= MIN_LEVEL_ROWS
        assert value == code if enough else np.isnan(value)
