"""Features of an order use nothing from its day or later: compared with plain Python, order by order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from apex_ml.adapters.duckdb.states_by import add_states_by
from apex_ml.contract.columns import Column
from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.history_state import state_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.names import LAST_DATE, LAST_TARGET
from apex_ml.core.features import calendar_part, feature_columns, feature_values, finish, state_needed
from apex_ml.sql.features import select_examples, select_state
from apex_ml.sql.rows import ROWS, select_with_state
from tests.support.reference_features import (
    EPOCH,
    FIRST,
    Row,
    as_table,
    random_orders,
    reference_example,
    reference_features,
    with_every_recipe,
    with_features,
)
from tests.support.snapshots import select_snapshot


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def examples(con: duckdb.DuckDBPyConnection, contract: Contract, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """The examples and their features, as the step makes them."""
    con.register("orders", as_table(contract, rows))
    con.execute(f"CREATE OR REPLACE TEMP TABLE asked AS {select_examples(contract, 'orders')}")
    con.execute(f"CREATE OR REPLACE TEMP VIEW {ROWS} AS FROM orders")
    add_states_by(con, contract, "asked")
    query = select_with_state(contract, "asked", "orders")
    table = con.sql(f"{query} ORDER BY a.{contract.entity}, a.{contract.timestamp}").to_arrow_table()
    return table.to_pylist(), finish(contract, table).to_pylist()


@pytest.mark.parametrize("recipes", [with_features, with_every_recipe])
@pytest.mark.parametrize("lag", [0, 1, 7])
@pytest.mark.parametrize("seed", [1, 2])
def test_last_orders_and_their_features_equal_brute_force(
    con: duckdb.DuckDBPyConnection, contract: Contract, seed: int, lag: int, recipes: Any
) -> None:
    contract = recipes(contract, history_lag_days=lag)
    rows = random_orders(contract, seed, clients=25, orders=300, days=20)
    requested, features = examples(con, contract, rows)
    clients = sorted({r[contract.entity] for r in rows})
    assert [a[contract.entity] for a in requested] == clients
    for result, created in zip(requested, features, strict=True):
        expected = reference_example(contract, rows, result[contract.entity])
        for name in contract.named("timestamp", "target", "attribute"):
            assert result[name] == expected[name]
        assert created == pytest.approx(reference_features(contract, rows, expected), abs=1e-9)
    assert list(features[0]) == [c.name for c in feature_columns(contract)]


@pytest.mark.parametrize("recipes", [with_features, with_every_recipe])
def test_every_order_as_an_example(con: duckdb.DuckDBPyConnection, contract: Contract, recipes: Any) -> None:
    contract = recipes(contract, grain="every_row")
    rows = random_orders(contract, 3, clients=8, orders=60, days=12)
    requested, features = examples(con, contract, rows)
    assert len(requested) == 60
    for result, created in zip(requested, features, strict=True):
        assert created == pytest.approx(reference_features(contract, rows, result), abs=1e-9)


def test_orders_of_the_same_day_or_later_change_no_feature(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    rows = random_orders(contract, 4, clients=6, orders=80, days=10)
    cut = FIRST + timedelta(days=6)
    client = rows[0][contract.entity]
    order = {**rows[0], contract.timestamp: cut}

    def state(orders: list[Row]) -> list[Row]:
        con.register("orders", as_table(contract, orders))
        con.register("asked", as_table(contract, [order]))
        return con.sql(select_state(contract, "asked", "orders")).to_arrow_table().to_pylist()

    before = [r for r in rows if r[contract.timestamp] < cut]
    noise = [
        {**r, contract.entity: client, contract.timestamp: cut + timedelta(days=i % 3)} for i, r in enumerate(rows)
    ]
    assert state(before) == state(rows) == state(rows + noise)


def test_result_depends_on_the_rows_and_not_on_their_order(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    rows = random_orders(contract, 5, clients=10, orders=400, days=5)
    first = examples(con, contract, rows)
    for seed in range(3):
        shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        assert examples(con, contract, shuffled) == first


def test_snapshot_is_the_state_of_every_client_before_the_day(
    con: duckdb.DuckDBPyConnection, contract: Contract
) -> None:
    rows = random_orders(contract, 6, clients=12, orders=150, days=15)
    as_of = FIRST + timedelta(days=8)
    con.register("orders", as_table(contract, rows))
    result = con.sql(select_snapshot(contract, "orders", as_of)).to_arrow_table()
    clients = sorted({r[contract.entity] for r in rows})
    assert result[contract.entity].to_pylist() == clients
    requested = [{**rows[0], contract.entity: client, contract.timestamp: as_of} for client in clients]
    con.register("asked", as_table(contract, requested))
    when = contract.timestamp
    states = con.sql(f"SELECT * EXCLUDE ({when}) FROM ({select_state(contract, 'asked', 'orders')}) ORDER BY 1")
    assert result.to_pylist() == states.to_arrow_table().to_pylist()


def test_a_client_without_history_has_nulls_and_equal_shares(contract: Contract) -> None:
    row = {contract.timestamp: FIRST} | dict.fromkeys(contract.features.attributes)
    schema = pa.schema(
        [contract.arrow_schema().field(n) for n in row]
        + [pa.field(n, pa.date32() if kind == "time" else pa.int64()) for n, kind, *_ in state_columns(contract)]
    )
    state = {n: None for n, *_ in state_columns(contract)}
    (created,) = finish(contract, pa.Table.from_pylist([row | state], schema=schema)).to_pylist()
    assert created["history_orders"] == 0
    assert created["history_days_since_last"] is None and created[f"history_last_{contract.target}"] is None
    assert [created[f"history_share_{c}"] for c in contract.classes] == pytest.approx([1 / 3] * 3)
    assert all(created[f"history_mean_{m}"] is None for m in contract.named("measure"))


PARTS = {
    "day_of_week": lambda d: d.weekday(),
    "day_of_month": lambda d: d.day,
    "month": lambda d: d.month,
    "quarter": lambda d: (d.month + 2) // 3,
    "weekend": lambda d: int(d.weekday() >= 5),
}


@pytest.mark.parametrize("part", PARTS)
def test_calendar_parts_equal_datetime(part: Any) -> None:
    dates = [date(1950, 1, 1) + timedelta(days=i) for i in range(0, 60_000, 13)]
    dates += [date(2024, 2, 28), date(2024, 2, 29), date(2024, 12, 31), date(1970, 1, 1), date(1969, 12, 31)]
    days = np.array([d.toordinal() - EPOCH.toordinal() for d in dates], np.int64)
    assert calendar_part(days, part).tolist() == [PARTS[part](d) for d in dates]


def test_whole_numbers_of_any_size_are_features() -> None:
    column = Column(name="n", description="A number.", type="int64", role="attribute")
    numbers = [2**63 - 1, -(2**63), 2**53 + 1, 7, None]
    assert feature_values(column, pa.chunked_array([pa.array(numbers, pa.int64())])).to_pylist() == [
        *(float(n) for n in numbers[:4] if n is not None),
        None,
    ]


def test_feature_names_are_distinct_and_identifiers_are_none_of_them(contract: Contract) -> None:
    columns = feature_columns(contract)
    names = [c.name for c in columns]
    assert len(set(names)) == len(names)
    assert not set(names) & {
        c.name for c in contract.columns.values() if c.identifier or c.role in ("entity", "target")
    }
    assert FeatureColumn(f"history_last_{contract.target}", "categorical", contract.classes) in columns
    assert all(a.name != b.name for a, b in pairwise(columns))


def test_each_feature_alone_equals_itself_among_all_and_needs_no_other_state(contract: Contract) -> None:
    rng = np.random.default_rng(5)
    n = 200
    states = {name: pa.array(rng.integers(0, 50, n)) for name, kind, *_ in state_columns(contract) if kind == "integer"}
    states[LAST_TARGET] = pa.array(rng.integers(0, len(contract.classes) + 1, n))
    states[LAST_DATE] = pa.array(rng.integers(19_000, 19_500, n).astype(np.int32)).cast(pa.date32())
    rest = {contract.timestamp: pa.array(rng.integers(19_500, 19_900, n).astype(np.int32)).cast(pa.date32())}
    rest |= {name: pa.array([f"{name}-{i % 7}" for i in range(n)]) for name in contract.features.attributes}
    whole = finish(contract, pa.table(rest | states))
    assert whole.column_names == [c.name for c in feature_columns(contract)]
    for name in whole.column_names:
        needed = [column.name for column in state_needed(contract, [name])]
        alone = finish(contract, pa.table(rest | {k: states[k] for k in needed}), [name])
        assert alone.column_names == [name] and alone[name].equals(whole[name]), name
        for state in needed:  # each of them is needed
            lacking = pa.table(rest | {k: states[k] for k in needed if k != state})
            with pytest.raises(KeyError):
                finish(contract, lacking, [name])
    assert state_needed(contract, whole.column_names) == state_columns(contract)
