"""Base mode: the moments of the real process, determinism, and what the process file refuses."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.log_loss import bayes_log_loss, class_codes, log_loss, truth_matrix
from apex_ml.simulate.logits import softmax
from apex_ml.simulate.process import DEFAULT_PROCESS, Process, load_process, override_mode
from apex_ml.simulate.process_columns import AbsNormal, Branch, Choice, Integers

ORDERS, CLIENTS = 1_250_000, 150_000


@pytest.fixture(scope="module")
def full(process: Process) -> tuple[pa.Table, pa.Table, float]:
    """The full size, its truth, and the seconds it took."""
    began = time.perf_counter()
    table, truth = simulate_orders(process, orders=ORDERS, clients=CLIENTS, seed=11, probabilities=True)
    return table, truth, time.perf_counter() - began


def shares(column: pa.ChunkedArray) -> dict[str, float]:
    return {row["values"]: row["counts"] / len(column) for row in pc.value_counts(column).to_pylist()}


def test_columns_and_types_are_the_contracts(process: Process, contract: Contract, orders: pa.Table) -> None:
    assert process.types == {name: column.type for name, column in contract.columns.items()}
    assert (process.entity, process.timestamp, process.target) == (contract.entity, contract.timestamp, contract.target)
    assert tuple(process.classes) == contract.classes
    assert orders.column_names == list(contract.columns)
    arrow = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "date": pa.timestamp("ns")}
    assert [field.type for field in orders.schema] == [arrow[kind] for kind in process.types.values()]


def test_levels_are_the_contracts(process: Process, contract: Contract, orders: pa.Table) -> None:
    for name, column in contract.columns.items():
        if column.domain is not None:
            assert set(orders.column(name).unique().to_pylist()) <= set(column.domain.levels)
            assert orders.column(name).null_count == 0


def test_counts(process: Process, full: tuple[pa.Table, pa.Table, float]) -> None:
    table, _, _ = full
    branches = [len(pc.unique(table.column(name))) for name in process.named(Branch)]
    assert branches == [4, 11, 116, 1598]
    top, region, _, leaf = process.named(Branch)
    assert table.group_by([top, region]).aggregate([]).num_rows == 15
    routes = table.group_by([top, leaf]).aggregate([]).group_by(top).aggregate([(leaf, "count")])
    assert dict(zip(*routes.to_pydict().values(), strict=True)) == {"EC": 222, "GT": 514, "PE": 559, "SV": 303}
    per_client = np.bincount(table.column(process.entity).combine_chunks().indices.to_numpy())
    per_client = per_client[per_client > 0]
    assert len(per_client) == pytest.approx(149_960, abs=40)
    assert per_client.mean() == pytest.approx(8.34, abs=0.01)
    assert per_client.max() <= 30


def test_class_mix_and_the_loss_of_the_optimum(process: Process, full: tuple[pa.Table, pa.Table, float]) -> None:
    table, truth, _ = full
    assert shares(table.column(process.target)) == pytest.approx(
        {"DIGITAL": 0.4794, "VENDEDOR": 0.3355, "TELEFONO": 0.1851}, abs=0.003
    )
    assert bayes_log_loss(truth) == pytest.approx(0.9845, abs=0.0015)
    codes = class_codes(table, process)
    assert log_loss(truth_matrix(truth), codes) == pytest.approx(bayes_log_loss(truth), abs=0.002)
    prior = np.tile(np.bincount(codes) / len(codes), (len(codes), 1))
    assert log_loss(prior, codes) == pytest.approx(1.0308, abs=0.002)


def test_the_stated_probabilities_have_the_stated_optimum(process: Process) -> None:
    attribute = process.named(Choice)[process.given]
    table = process.columns[process.target].table
    loss = sum(
        weight * -sum(p * np.log(p) for p in table[level].values()) for level, weight in attribute.weights.items()
    )
    assert loss == pytest.approx(0.9845, abs=5e-5)


def test_conditional_tables(process: Process, full: tuple[pa.Table, pa.Table, float]) -> None:
    table, _, _ = full
    for name, column in process.columns.items():
        if getattr(column, "table", None):
            for level, expected in column.table.items():
                some = table.filter(pc.equal(table.column(column.given), level)).column(name)
                assert shares(some) == pytest.approx(expected, abs=0.01), (name, level)
        elif isinstance(column, Choice):
            assert shares(table.column(name)) == pytest.approx(column.weights, abs=0.005)


def test_measures_and_days(process: Process, full: tuple[pa.Table, pa.Table, float]) -> None:
    table, _, _ = full
    for name, column in process.columns.items():
        values = table.column(name)
        if isinstance(column, AbsNormal):
            amounts = values.to_numpy()
            assert amounts.min() >= 0
            assert amounts.mean() == pytest.approx(column.mean, rel=0.005)
            assert amounts.std() == pytest.approx(column.sd, rel=0.02)
            np.testing.assert_array_equal(amounts, np.round(amounts, 2))
        if isinstance(column, Integers):
            assert shares(values) == pytest.approx(dict.fromkeys(range(1, 15), 1 / 14), abs=0.002)
    days = pc.unique(table.column(process.timestamp).cast(pa.timestamp("s"))).to_pylist()
    assert (min(days).date(), max(days).date(), len(days)) == (date(2023, 1, 1), date(2024, 8, 23), 601)


def test_attributes_never_change(process: Process, full: tuple[pa.Table, pa.Table, float]) -> None:
    table = full[0].slice(0, 300_000)
    attributes = [*process.named(Branch), *process.named(Choice)]
    codes = [table.column(name).combine_chunks().indices for name in (process.entity, *attributes)]
    distinct = (
        pa.table(codes, names=[process.entity, *attributes]).group_by([process.entity, *attributes]).aggregate([])
    )
    assert distinct.num_rows == len(pc.unique(distinct.column(process.entity)))


def test_the_generator_is_fast(full: tuple[pa.Table, pa.Table, float]) -> None:
    assert full[2] < 5


def test_the_seed_decides(process: Process) -> None:
    def draw(seed: int, **more: object) -> pa.Table:
        return simulate_orders(process, orders=500, clients=80, seed=seed, **more)

    assert draw(1).equals(draw(1))
    assert not draw(1).equals(draw(2))
    assert draw(1, mode="signal").equals(draw(1, mode="signal"))


def test_a_new_column_changes_no_other(process: Process) -> None:
    more = process.model_copy(
        update={"columns": {"first": Integers(kind="integers", low=0, high=9), **process.columns}}
    )
    with_it = simulate_orders(more, orders=500, clients=80, seed=1)
    assert with_it.drop_columns(["first"]).equals(simulate_orders(process, orders=500, clients=80, seed=1))


def test_the_truth_is_a_distribution_and_changes_no_order(process: Process) -> None:
    table, truth = simulate_orders(process, orders=500, clients=80, seed=1, mode="signal", probabilities=True)
    assert truth.column_names == [f"p_true_{name}" for name in process.classes]
    np.testing.assert_allclose(truth_matrix(truth).sum(axis=1), 1)
    assert table.equals(simulate_orders(process, orders=500, clients=80, seed=1, mode="signal"))


def test_softmax_survives_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]])), [[1, 0], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"orders": 0}, "orders 0"),
        ({"clients": 0}, "clients 0"),
        ({"seed": -1}, "seed -1"),
        ({"start": date(2024, 1, 2), "end": date(2024, 1, 1)}, "before it starts"),
        ({"mode": "nothing"}, "there are|has base, signal"),
    ],
)
def test_refusals(process: Process, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate_orders(process, **({"orders": 10, "clients": 5, "seed": 1} | arguments))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("TIENDA: 0.60", "TIENDA: 0.70", "add up to 1.1"),
        ("DIGITAL: 0.35, TELEFONO: 0.25, VENDEDOR: 0.40", "DIGITAL: 0.60, VENDEDOR: 0.40", "differ"),
        ("{kind: timestamp}", "{kind: moment}", "moment"),
        ("effect_sd: {DIGITAL: 0.9", "effect_sd: {FAX: 0.9", "unknown FAX"),
        ("low: 1, high: 14", "low: 1, high: 0", "below low"),
        ("persistence: 0.7", "inertia: 0.7", "inertia"),
        ("start: 2023-01-01", "start: 2025-01-01", "before start"),
        ("name: orders", "name: [orders", "not YAML"),
    ],
)
def test_the_process_file_refuses(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = DEFAULT_PROCESS.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "process.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_process(path)
    assert "process.yaml" in str(caught.value)


def test_a_missing_process_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_process(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("persistence", "key=value"),
        ("persistence=much", "persistence"),
        ("effect_sd.FAX=1", "FAX"),
        ("effect_sd.DIGITAL=-1", "greater than or equal to 0"),
        ("persistence.x=1", "holds a value"),
        ("trend=[", "not YAML"),
    ],
)
def test_settings_of_a_mode_refuse(process: Process, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override_mode(process, "signal", [setting])


def test_settings_of_a_mode(process: Process) -> None:
    mode = override_mode(
        process, "signal", ["effect_sd.DIGITAL=1.5", "drift.prices.day=2024-02-01", "drift.channel_mix=null"]
    )
    assert mode.effect_sd["DIGITAL"] == 1.5
    assert set(mode.drift) == set(process.mode("signal").drift) - {"channel_mix"}
    assert mode.drift["prices"].day == date(2024, 2, 1)
