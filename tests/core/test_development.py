"""From parts to a model: candidates, selection, edge cases and repeatability."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.candidates import candidate, candidate_names, missing_requirements
from apex_ml.core.candidates.interface import FitContext, Part
from apex_ml.core.decision import macro_f1
from apex_ml.core.development import Development, Options, develop
from apex_ml.core.estimator import Encoder, Model
from apex_ml.core.evaluation import row_losses
from apex_ml.core.examples import Examples
from apex_ml.core.explanation import mean_contributions
from apex_ml.core.rolling_folds import rolling_folds
from apex_ml.core.search import Budget
from apex_ml.core.selection import NoiseTest, beats_noise
from apex_ml.core.strategies.legacy.rules import LegacyRules
from apex_ml.errors import ConfigError, DataError
from tests.support.model_infos import INFO

CLASSES = ("a", "b", "c")
COLUMNS = (
    FeatureColumn("ripeness", "categorical", ("low", "mid", "high")),
    FeatureColumn("country", "categorical", ("x", "y")),
    FeatureColumn("amount", "numeric"),
)
TRUE = {"low": [0.35, 0.25, 0.40], "mid": [0.55, 0.15, 0.30], "high": [0.75, 0.05, 0.20]}


def examples(n: int, seed: int, **columns: Any) -> Examples:
    """Orders whose class depends on ripeness alone."""
    random = np.random.default_rng(seed)
    ripeness = random.choice(list(TRUE), n, p=[0.5, 0.35, 0.15])
    p = np.array([TRUE[r] for r in ripeness]).reshape(n, 3)
    y = (random.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1)
    values = {"ripeness": ripeness, "country": random.choice(["x", "y"], n), "amount": random.normal(0, 1, n)}
    return Examples(pa.table({**{k: pa.array(v) for k, v in values.items()}, **columns}), y, random.integers(0, n, n))


def parts(n: int = 3_000, seed: int = 1) -> dict[str, Examples]:
    return {
        name: examples(size, seed + i)
        for i, (name, size) in enumerate((("train", n), ("validation", n // 3), ("test", n // 3)))
    }


def developed(
    examples: dict[str, Examples], columns: tuple[FeatureColumn, ...] = COLUMNS, **options: Any
) -> Development:
    return develop(examples, columns, CLASSES, ("country",), Options(threads=1, **options), INFO)


@pytest.fixture(scope="module")
def usual() -> Development:
    return developed(parts(12_000))


def test_only_what_beats_noise_is_kept(usual: Development) -> None:
    assert [v.name for v in usual.verdicts if v.kept] == ["ripeness"]
    assert usual.model.encoder.names == ("ripeness",)
    assert all("permuted copies" in v.reason for v in usual.verdicts)


def test_rolling_folds_are_in_time_order() -> None:
    days = np.array([5, 1, 2, 3, 4, 6, 7, 8] * 4)
    part = Part(days[:, None].astype(np.float32), np.arange(len(days)) % 2)
    folds = rolling_folds(part, days, 3)
    assert len(folds) == 3
    for fitted, evaluated in folds:
        assert fitted.x.max() < evaluated.x.min()
    assert [len(f.y) for f, _ in folds] == sorted(len(f.y) for f, _ in folds)
    assert rolling_folds(part, days, 1) == [] == rolling_folds(part, None, 3)


def test_a_search_can_use_rolling_folds() -> None:
    inputs = parts(900)
    dated = {name: replace(part, days=np.arange(len(part.y))) for name, part in inputs.items()}
    done = developed(dated, budget=Budget(2), search_folds=2)
    assert len(done.trials) == 2
    assert done.trials[0].value != developed(dated, budget=Budget(2)).trials[0].value


def test_prior_and_logistic_are_reported_with_the_winner(usual: Development) -> None:
    assert set(usual.candidates) == {"xgboost", "prior", "logistic"}
    assert usual.winner == "xgboost"
    assert usual.candidates["xgboost"] < usual.candidates["prior"] - 0.02
    assert usual.metrics["test_gain_over_prior_low"] > 0


def test_evaluation_reports_intervals_segments_and_both_decision_rules(usual: Development) -> None:
    m = usual.metrics
    assert m["test_log_loss_low"] < m["test_log_loss"] < m["test_log_loss_high"]
    assert {r.value for r in usual.tables.segments["country"]} == {"x", "y"}
    assert sum(r.rows for r in usual.tables.segments["country"]) == 4_000
    assert np.sum(usual.tables.confusion) == np.sum(usual.tables.confusion_weighted) == 4_000
    assert m["test_weighted_macro_f1"] >= m["test_macro_f1"] - 0.02


def test_costs_choose_the_class_and_are_reported(usual: Development) -> None:
    costs = ((0.0, 9.0, 1.0), (70.0, 0.0, 70.0), (1.0, 9.0, 0.0))
    done = developed(parts(), decision="cost", costs=costs)
    m, test = done.metrics, parts()["test"]
    prediction = done.model.predict(test.table)
    assert (prediction.predicted == 1).mean() > 0.5 > (prediction.probabilities.argmax(axis=1) == 1).mean()
    assert m["test_mean_cost"] == pytest.approx(np.asarray(costs)[test.y, prediction.predicted].mean())
    assert m["test_mean_cost_low"] < m["test_mean_cost"] < m["test_mean_cost_high"]
    assert m["test_mean_cost"] < m["test_mean_cost_most_probable"]
    assert m["test_mean_cost"] <= m["test_mean_cost_one_class"] + 0.2
    loaded = Model.from_files(done.model.to_files())
    assert loaded.costs == costs and (loaded.predict(test.table).predicted == prediction.predicted).all()
    assert "test_mean_cost" not in usual.metrics and b"costs" not in usual.model.to_files()["model.json"]


def test_two_classes_have_an_area_and_thresholds() -> None:
    two = {name: replace(part, y=(part.y > 0).astype(int)) for name, part in parts().items()}
    options = Options(threads=1, positive=0, decision="cost", costs=((0.0, 3.0), (1.0, 0.0)))
    done = develop(two, COLUMNS, ("a", "b"), (), options, INFO)
    m, score = done.metrics, done.model.probabilities(two["test"].table)[:, 0]
    assert m["test_auc"] == pytest.approx(roc_auc_score(two["test"].y == 0, score), abs=1e-9)
    assert m["test_positive_share"] == (two["test"].y == 0).mean()
    half = next(row for row in done.tables.thresholds if row.threshold == 0.25)
    # a missed a costs 3, a false one 1: the threshold of the costs is a quarter
    assert half.cost == pytest.approx(m["test_mean_cost"]) == pytest.approx(min(r.cost for r in done.tables.thresholds))
    assert "thresholds" not in developed(parts()).tables.as_dict()


def test_contributions_add_up_to_the_margin_and_show_the_important_feature() -> None:
    inputs = parts(3_000)
    done = developed(inputs, selection="none")
    model, table = done.model, inputs["test"].table
    result = model.contributions(table)
    assert result is not None and result.shape == (1_000, 3, 3)
    # with the same bias for every order, differences of the sums are differences of the log odds
    odds = np.log(model.raw_probabilities(table))
    message = result.sum(axis=2)
    rest = (odds - odds[:, :1]) - (message - message[:, :1])
    assert np.ptp(rest, axis=0) == pytest.approx(np.zeros(3), abs=1e-4)
    rows = done.tables.contributions
    assert rows[0].feature == "ripeness"
    assert rows[0].classes["b"] == pytest.approx(np.abs(result[:, 1, 0]).mean(), abs=1e-6)
    assert {r.rows for r in rows} == {1_000}


def test_contributions_use_a_limited_reproducible_sample(usual: Development) -> None:
    assert usual.tables.contributions[0].rows == 2_000  # of 4,000 test orders
    table = examples(500, 8).table
    first, second = (mean_contributions(usual.model, table, 3, rows=100) for _ in range(2))
    assert first == second != mean_contributions(usual.model, table, 4, rows=100)


def test_a_candidate_without_contributions_reports_none() -> None:
    tables = developed(parts(600), contenders=("logistic",)).tables
    assert tables.contributions == [] and "contributions" not in tables.as_dict()


def test_the_same_input_gives_the_same_bytes_twice() -> None:
    first, second = (developed(parts(), budget=Budget(3)) for _ in range(2))
    assert first.model.to_files() == second.model.to_files()
    assert first.metrics == second.metrics


def test_the_test_part_changes_nothing_about_the_model() -> None:
    inputs = parts()
    other = {**inputs, "test": examples(500, 99)}
    assert developed(inputs).model.to_files() == developed(other).model.to_files()


@pytest.mark.parametrize("name", candidate_names())
def test_every_candidate_fits_scores_and_survives_its_bytes(name: str) -> None:
    if lacking := missing_requirements(name):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    train, validation = parts()["train"], parts()["validation"]
    encoder = Encoder.fit(COLUMNS, train.table)
    context = FitContext(CLASSES, encoder.columns)
    kind = candidate(name)
    x, xv = encoder.encode(train.table), encoder.encode(validation.table)
    fitted = kind.fit(kind.defaults(context), Part(x, train.y), Part(xv, validation.y), context)
    p = kind.load(fitted.content).predict(xv)
    assert p.dtype == np.float32
    assert p.shape == (len(xv), 3)
    assert p.sum(axis=1) == pytest.approx(np.ones(len(xv)), abs=1e-5)
    bayes = row_losses(np.array([TRUE[r] for r in validation.table.column("ripeness").to_pylist()]), validation.y)
    assert row_losses(p, validation.y).mean() < bayes.mean() + (0.06 if name == "prior" else 0.02)


def test_an_unknown_candidate_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match="no candidate 'forest'; the candidates are lightgbm, logistic, prior, xgboost"
    ):
        candidate("forest")


def test_the_decision_is_the_most_probable_class_or_tuned_for_macro_f1() -> None:
    inputs = parts()
    plain, tuned = developed(inputs, selection="none"), developed(inputs, selection="none", decision="macro_f1")
    table, y = inputs["test"].table, inputs["test"].y
    p, q = plain.model.predict(table), tuned.model.predict(table)
    assert np.array_equal(p.probabilities, q.probabilities)
    assert plain.model.weights == (1.0, 1.0, 1.0) and np.array_equal(p.predicted, p.probabilities.argmax(axis=1))
    assert tuned.model.weights != plain.model.weights and (q.predicted != p.predicted).any()
    assert macro_f1(y, q.predicted, 3) > macro_f1(y, p.predicted, 3)


def test_balanced_weights_are_corrected_back_to_the_true_prior() -> None:
    inputs = parts(9_000)
    plain, balanced = developed(inputs, selection="none"), developed(inputs, selection="none", class_weights="balanced")
    assert balanced.metrics["test_log_loss"] < plain.metrics["test_log_loss"] * 1.02
    mean = balanced.model.probabilities(inputs["test"].table).mean(axis=0)
    assert mean == pytest.approx(np.bincount(inputs["test"].y) / len(inputs["test"].y), abs=0.04)


def _constant_target(examples: dict[str, Examples]) -> None:
    examples["train"] = replace(examples["train"], y=np.zeros_like(examples["train"].y))


def _empty_test(parts_by_name: dict[str, Examples]) -> None:
    parts_by_name["test"] = examples(0, 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_constant_target, "the same target, a, so no model can be fitted"), (_empty_test, "the test part is empty")],
)
def test_unlearnable_data_is_one_clear_error(spoil: Any, message: str) -> None:
    inputs = parts(600)
    spoil(inputs)
    with pytest.raises(DataError, match=message):
        developed(inputs)


def test_no_features_are_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="declares no feature: name some under features"):
        developed(parts(300), columns=())
    inputs = {n: replace(p, table=p.table.set_column(1, "country", [["x"] * len(p.y)])) for n, p in parts(300).items()}
    with pytest.raises(DataError, match="no feature is left: country: near-constant"):
        developed(inputs, columns=(COLUMNS[1],), selection="legacy", rules=LegacyRules().evaluate)


def _class_missing_in_validation(examples: dict[str, Examples]) -> None:
    y = examples["validation"].y
    examples["validation"] = replace(examples["validation"], y=np.where(y == 2, 0, y))


def _class_with_three_rows(examples: dict[str, Examples]) -> None:
    y = np.where(examples["train"].y == 2, 0, examples["train"].y)
    y[:3] = 2
    examples["train"] = replace(examples["train"], y=y)


def _class_missing_in_train(examples: dict[str, Examples]) -> None:
    y = examples["train"].y
    examples["train"] = replace(examples["train"], y=np.where(y == 2, 0, y))


@pytest.mark.parametrize("spoil", [_class_missing_in_validation, _class_with_three_rows, _class_missing_in_train])
@pytest.mark.parametrize("contenders", [("xgboost",), ("logistic", "xgboost")])
def test_rare_and_missing_classes_give_finite_probabilities(spoil: Any, contenders: tuple[str, ...]) -> None:
    inputs = parts(900)
    spoil(inputs)
    done = developed(inputs, contenders=contenders)
    p = done.model.probabilities(inputs["test"].table)
    assert np.isfinite(p).all()
    assert (p > 0).all()
    assert np.isfinite(list(done.metrics.values())).all()


def test_fifty_rows_in_all_are_enough_to_end() -> None:
    done = developed(parts(30))
    assert np.isfinite(done.metrics["test_log_loss"])


def test_an_all_null_feature_and_an_id_with_many_levels_are_handled() -> None:
    n = 6_000
    inputs = {
        name: examples(
            size, i, nothing=pa.nulls(size, pa.float64()), who=pa.array([f"c{j * 7919 % 100_000}" for j in range(size)])
        )
        for i, (name, size) in enumerate((("train", n), ("validation", n // 3), ("test", n // 3)))
    }
    columns = (*COLUMNS, FeatureColumn("nothing", "numeric"), FeatureColumn("who", "categorical"))
    done = developed(inputs, columns)
    assert done.model.encoder.names == ("ripeness",)
    everything = developed(inputs, columns, selection="none", contenders=("logistic",))
    assert np.isfinite(everything.metrics["test_log_loss"])


def test_noise_alone_keeps_the_closest_feature_and_says_so() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(0, 1, (900, 4)).astype(np.float32), random.integers(0, 3, 900)
    verdicts = beats_noise(
        ["n1", "n2", "n3", "n4"], (x[:600], y[:600]), (x[600:], y[600:]), 3, NoiseTest(repeats=5, threads=1)
    )
    assert sum(v.kept for v in verdicts) == 1
    assert "no feature beats noise" in next(v.reason for v in verdicts if v.kept)


def test_the_noise_test_ends_when_the_result_is_certain() -> None:
    random = np.random.default_rng(3)
    x = random.normal(0, 1, (1_200, 5)).astype(np.float32)
    y = (x[:, 0] + random.normal(0, 1, len(x)) > 0).astype(int)
    test = NoiseTest(repeats=12, rounds=12, threads=1)
    verdicts = beats_noise(list("abcde"), (x[:800], y[:800]), (x[800:], y[800:]), 2, test)
    enough = next(wins for wins in range(13) if binom.sf(wins - 1, 12, 1 / 6) < 0.01 / 5)
    (done,) = {v.repeats for v in verdicts}
    assert enough <= done < 12
    assert verdicts[0].wins == done and "in " + str(done) + " of " + str(done) in verdicts[0].reason
    assert all(v.wins >= enough if v.kept else v.wins + 12 - done < enough for v in verdicts)


def test_noise_features_are_rarely_kept() -> None:
    """40 features without signal, in four draws, beside one with: a false one is kept at most once."""
    false = 0
    for seed in range(4):
        random = np.random.default_rng(seed)
        x = random.normal(0, 1, (2_400, 11)).astype(np.float32)
        y = (x[:, 0] + random.normal(0, 1, len(x)) > 0).astype(int)
        names = [f"f{i}" for i in range(11)]
        verdicts = beats_noise(
            names, (x[:1_600], y[:1_600]), (x[1_600:], y[1_600:]), 2, NoiseTest(seed=seed, rounds=12, threads=1)
        )
        assert verdicts[0].kept
        false += sum(v.kept for v in verdicts[1:])
    assert false <= 1
