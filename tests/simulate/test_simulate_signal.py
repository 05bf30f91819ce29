"""Signal mode: effect, persistence, trend and drift are there in the stated sizes, and the optimum is one."""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.log_loss import class_codes, log_loss, truth_matrix
from apex_ml.simulate.logits import softmax
from apex_ml.simulate.posterior import effect_nodes, posterior_predictive
from apex_ml.simulate.process import Drift, Mode, Process, override_mode
from apex_ml.simulate.process_columns import AbsNormal, Choice
from apex_ml.simulate.quirks.apply import apply_quirk


def table_of(process: Process) -> np.ndarray:
    table = process.columns[process.target].table
    return np.array([list(row.values()) for row in table.values()])


def draw(process: Process, mode: Mode | str, orders: int = 40_000, clients: int = 5_000) -> tuple[pa.Table, np.ndarray]:
    table, truth = simulate_orders(process, orders=orders, clients=clients, seed=3, mode=mode, probabilities=True)
    return table, truth_matrix(truth)


def levels_of(process: Process, table: pa.Table) -> np.ndarray:
    return table.column(process.given).combine_chunks().indices.to_numpy()


def days_of(process: Process, table: pa.Table) -> np.ndarray:
    return table.column(process.timestamp).to_numpy().astype("datetime64[D]")


def test_the_classes_follow_the_truth(process: Process) -> None:
    table, truth = draw(process, "signal")
    came = np.eye(len(process.classes))[class_codes(table, process)]
    sd = np.sqrt((truth * (1 - truth)).sum(axis=0))
    assert (np.abs((came - truth).sum(axis=0)) < 4 * sd).all()
    for place in range(len(process.classes)):  # calibrated within bands of the truth
        for low in np.arange(0.1, 0.9, 0.2):
            band = (truth[:, place] >= low) & (truth[:, place] < low + 0.2)
            known = truth[band, place]
            assert abs((came[band, place] - known).sum()) < 4 * np.sqrt((known * (1 - known)).sum())


def test_the_trend_is_a_slope_of_the_logit(process: Process) -> None:
    table, truth = draw(process, Mode(trend={"DIGITAL": 0.5}))
    years = (days_of(process, table) - np.datetime64(process.window.start)).astype(float) / 365.25
    expected = softmax(np.log(table_of(process))[levels_of(process, table)] + np.outer(years, [0.5, 0, 0]))
    np.testing.assert_allclose(truth, expected)


def test_the_effect_has_the_stated_sd(process: Process) -> None:
    table, truth = draw(process, Mode(effect_sd={"DIGITAL": 0.8}))
    logits = np.log(truth) - np.log(table_of(process))[levels_of(process, table)]
    shift = logits[:, 0] - logits[:, 1]
    owners = table.column(process.entity).combine_chunks().indices.to_numpy()
    first = np.unique(owners, return_index=True)[1]
    assert shift[first].std() == pytest.approx(0.8, rel=0.05)
    np.testing.assert_allclose(shift, shift[first][np.searchsorted(owners[first], owners)], atol=1e-9)
    np.testing.assert_allclose(logits[:, 1], logits[:, 2], atol=1e-9)


def test_persistence_is_a_bonus_for_the_class_of_the_last_earlier_day(process: Process) -> None:
    table, truth = draw(process, Mode(persistence=1.0), orders=4_000, clients=40)
    days, codes = days_of(process, table), class_codes(table, process)
    owners = table.column(process.entity).combine_chunks().indices.to_numpy()
    base = np.log(table_of(process))[levels_of(process, table)]
    ties = 0
    for row in range(300):
        before = np.flatnonzero((owners == owners[row]) & (days < days[row]))
        logits = base[row].copy()
        if len(before):
            newest = before[days[before] == days[before].max()]
            ties += len(newest) > 1
            logits[codes[newest].max()] += 1.0  # of several on one day, the last in the order of the classes
        np.testing.assert_allclose(truth[row], softmax(logits[None])[0])
    assert ties > 5


def test_drift_starts_on_its_day(process: Process) -> None:
    day = date(2024, 1, 1)
    amount = next(iter(process.named(AbsNormal)))
    inputs = process.named(Choice)[process.given]
    mix = dict(zip(inputs.levels, (0.2, 0.3, 0.5), strict=True))
    drift = {
        "logits": Drift(day=day, logits={"TELEFONO": 1.0}),
        "mix": Drift(day=day, mix={process.given: mix}),
        "scale": Drift(day=day, scale={amount: 2.0}),
    }
    plain = simulate_orders(process, orders=40_000, clients=5_000, seed=3)
    table, truth = simulate_orders(process, orders=40_000, clients=5_000, seed=3, drift=drift, probabilities=True)
    after = pc.greater_equal(table.column(process.timestamp).cast(pa.timestamp("s")), datetime(2024, 1, 1))
    before = pc.invert(after)
    assert table.filter(before).equals(plain.filter(before))
    late = table.filter(after)
    share = np.bincount(levels_of(process, late)) / late.num_rows
    np.testing.assert_allclose(share, list(mix.values()), atol=0.015)
    ratio = pc.divide(late.column(amount), plain.filter(after).column(amount)).to_numpy()
    assert np.nanmedian(ratio) == pytest.approx(2, abs=1e-3)
    expected = softmax(np.log(table_of(process)) + np.array([0.0, 1.0, 0.0]))[levels_of(process, late)]
    np.testing.assert_allclose(truth_matrix(truth.filter(after)), expected)


def test_a_mix_without_a_client_is_refused(process: Process) -> None:
    level = process.named(Choice)[process.given].levels[-1]
    drift = {"mix": Drift(day=process.window.start, mix={process.given: {level: 1.0}})}
    with pytest.raises(ConfigError, match="simulate more clients"):
        simulate_orders(process, orders=10, clients=1, seed=3, drift=drift)


def test_without_an_effect_the_posterior_is_the_truth(process: Process) -> None:
    mode = override_mode(process, "signal", ["effect_sd=null"])
    table, truth = draw(process, mode, orders=5_000, clients=600)
    np.testing.assert_allclose(posterior_predictive(process, table, mode=mode), truth, atol=1e-12)
    base, truth = draw(process, "base", orders=1_000, clients=100)
    np.testing.assert_allclose(posterior_predictive(process, base, mode="base"), truth, atol=1e-12)


def test_the_posterior_beats_every_simpler_predictor(process: Process) -> None:
    table, truth = draw(process, "signal")
    mode = process.mode("signal")
    codes, levels = class_codes(table, process), levels_of(process, table)
    loss = log_loss(posterior_predictive(process, table, mode=mode), codes)
    count = np.zeros((len(table_of(process)), len(process.classes)))
    np.add.at(count, (levels, codes), 1)
    blind = [  # all known values except one in each case
        ["effect_sd=null", "persistence=0"],
        ["effect_sd=null"],
        ["persistence=0"],
        ["trend=null"],
        ["drift=null"],
    ]
    others = [posterior_predictive(process, table, mode=override_mode(process, "signal", less)) for less in blind]
    others += [np.tile(count.sum(axis=0) / len(codes), (len(codes), 1)), (count / count.sum(axis=1)[:, None])[levels]]
    others += [table_of(process)[levels]]
    for number, other in enumerate(others):
        assert loss < log_loss(other, codes) - 0.0005, number
    assert log_loss(truth, codes) < loss  # knowing the effect is better still


def test_the_quadrature_has_converged_and_files_may_come_in_any_order(process: Process) -> None:
    table, _ = draw(process, "signal", orders=3_000, clients=300)
    result = posterior_predictive(process, table, mode="signal")
    np.testing.assert_allclose(result, posterior_predictive(process, table, mode="signal", nodes=24), atol=2e-3)
    np.testing.assert_allclose(result.sum(axis=1), 1)
    shuffle = np.random.default_rng(0).permutation(table.num_rows)
    np.testing.assert_allclose(posterior_predictive(process, table.take(shuffle), mode="signal"), result[shuffle])


def test_the_first_order_is_the_average_over_the_effect(process: Process) -> None:
    mode = Mode(effect_sd={"DIGITAL": 1.0, "TELEFONO": 0.5, "VENDEDOR": 0.7})
    table, _ = draw(process, mode, orders=1, clients=1)
    effects = np.random.default_rng(0).standard_normal((400_000, 3)) * [1.0, 0.5, 0.7]
    expected = softmax(np.log(table_of(process))[levels_of(process, table)] + effects).mean(axis=0)
    np.testing.assert_allclose(posterior_predictive(process, table, mode=mode)[0], expected, atol=0.002)


def test_effects_in_too_many_dimensions_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 dimensions"):
        effect_nodes(np.ones(5), 3)


def test_damaged_orders_are_refused(process: Process) -> None:
    table, _ = draw(process, "base", orders=100, clients=10)
    with pytest.raises(DataError, match="no class of"):
        posterior_predictive(process, apply_quirk(table, "new_channel", "one", 1, process), mode="base")
    with pytest.raises(DataError, match="100 orders with an unknown level"):
        posterior_predictive(process, apply_quirk(table, "case", 1.0, 1, process, columns=[process.given]), mode="base")
