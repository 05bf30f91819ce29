"""Features of an order know nothing of its own day or later: compared with plain Python, order by order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from apex_ml.contract.model import Contract, MeanRecipe, TargetShareRecipe
from apex_ml.core.features import (
    FeatureColumn,
    _calendar,
    examples_sql,
    feature_columns,
    finish,
    snapshot_sql,
    state_columns,
    state_sql,
)

FIRST = date(2024, 2, 20)
EPOCH = date(1970, 1, 1)
Row = dict[str, Any]


def random_orders(contract: Contract, seed: int, *, clients: int, orders: int, days: int) -> list[Row]:
    """Few clients and days, so that ties abound; some attributes and measures are null."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(orders):
        row: Row = {}
        for column in contract.columns.values():
            if column.role == "entity":
                row[column.name] = f"C{random.integers(clients):06d}"
            elif column.role == "timestamp":
                row[column.name] = FIRST + timedelta(days=int(random.integers(days)))
            elif column.type == "string":
                levels = column.domain.levels if column.domain else ("a", "b")
                row[column.name] = str(random.choice(levels))
            elif column.type == "int64":
                row[column.name] = int(random.integers(0, 20))
            else:
                row[column.name] = round(float(random.normal(50, 30)), column.decimals or 0)
            if column.role in ("attribute", "measure") and random.random() < 0.15:
                row[column.name] = None
        rows.append(row)
    return rows


def as_table(contract: Contract, rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=contract.arrow_schema())


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def reference_example(contract: Contract, rows: list[Row], client: str) -> Row:
    """The client's example by the stated rule: last day, largest measures, last level, largest attributes."""
    mine = [r for r in rows if r[contract.entity] == client]
    last = max(r[contract.timestamp] for r in mine)

    def size(value: Any) -> tuple[int, Any]:
        return (0, 0) if value is None else (1, value)

    def rank(r: Row) -> tuple[Any, ...]:
        measures = [size(r[m]) for m in contract.named("measure")]
        attributes = [(0, "") if r[a] is None else (1, r[a]) for a in contract.named("attribute")]
        return (*measures, contract.classes.index(r[contract.target]), *attributes)

    return max((r for r in mine if r[contract.timestamp] == last), key=rank)


def reference_features(contract: Contract, rows: list[Row], order: Row) -> Row:
    """The features of an order, from the definitions."""
    when = order[contract.timestamp]
    before = when - timedelta(days=contract.features.history_lag_days)
    history = [r for r in rows if r[contract.entity] == order[contract.entity] and r[contract.timestamp] < before]
    out: Row = {name: order[name] for name in contract.features.attributes}
    parts = {
        "day_of_week": when.weekday(),
        "day_of_month": when.day,
        "month": when.month,
        "quarter": (when.month + 2) // 3,
        "weekend": int(when.weekday() >= 5),
    }
    out |= {f"{contract.timestamp}_{part}": parts[part] for part in contract.features.calendar}
    out["history_orders"] = len(history)
    last = max((r[contract.timestamp] for r in history), default=None)
    out["history_days_since_last"] = (when - last).days if last else None
    places = [contract.classes.index(r[contract.target]) for r in history if r[contract.timestamp] == last]
    out[f"history_last_{contract.target}"] = contract.classes[max(places)] if places else None
    smoothing = next(r.smoothing for r in contract.features.history if isinstance(r, TargetShareRecipe))
    for level in contract.classes:
        n = sum(r[contract.target] == level for r in history)
        out[f"history_share_{level}"] = (n + smoothing / len(contract.classes)) / (len(history) + smoothing)
    for recipe in contract.features.history:
        if recipe.recipe == "target_trend":
            years = [(r[contract.timestamp] - EPOCH).days / 365.25 for r in history]
            hits = [float(r[contract.target] == recipe.level) for r in history]
            middle = sum(years) / max(len(years), 1)
            squares = sum((x - middle) ** 2 for x in years)
            products = sum((x - middle) * y for x, y in zip(years, hits, strict=True))
            out[f"history_trend_{recipe.level}"] = products / (squares + recipe.shrinkage)
        for measure in recipe.columns if isinstance(recipe, MeanRecipe) else ():
            known = [r[measure] for r in history if r[measure] is not None]
            out[f"history_mean_{measure}"] = sum(known) / len(known) if known else None
    return out


def examples(con: duckdb.DuckDBPyConnection, contract: Contract, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """The examples and their features, as the step makes them."""
    con.register("orders", as_table(contract, rows))
    con.execute(f"CREATE OR REPLACE TEMP TABLE asked AS {examples_sql(contract, 'orders')}")
    names = ", ".join(f's."{n}"' for n, _, _ in state_columns(contract))
    entity, when = contract.entity, contract.timestamp
    table = con.sql(
        f"SELECT a.*, {names} FROM asked AS a JOIN ({state_sql(contract, 'asked', 'orders')}) AS s"
        f" ON s.{entity} = a.{entity} AND s.{when} = a.{when} ORDER BY a.{entity}, a.{when}"
    ).to_arrow_table()
    return table.to_pylist(), finish(contract, table).to_pylist()


def with_features(contract: Contract, **changes: Any) -> Contract:
    return contract.model_copy(update={"features": contract.features.model_copy(update=changes)})


@pytest.mark.parametrize("lag", [0, 1, 7])
@pytest.mark.parametrize("seed", [1, 2])
def test_last_orders_and_their_features_equal_brute_force(
    con: duckdb.DuckDBPyConnection, contract: Contract, seed: int, lag: int
) -> None:
    contract = with_features(contract, history_lag_days=lag)
    rows = random_orders(contract, seed, clients=25, orders=300, days=20)
    asked, features = examples(con, contract, rows)
    clients = sorted({r[contract.entity] for r in rows})
    assert [a[contract.entity] for a in asked] == clients
    for found, made in zip(asked, features, strict=True):
        wanted = reference_example(contract, rows, found[contract.entity])
        for name in contract.named("timestamp", "target", "attribute"):
            assert found[name] == wanted[name]
        assert made == pytest.approx(reference_features(contract, rows, wanted), abs=1e-9)
    assert list(features[0]) == [c.name for c in feature_columns(contract)]


def test_every_order_as_an_example(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    contract = with_features(contract, grain="every_order")
    rows = random_orders(contract, 3, clients=8, orders=60, days=12)
    asked, features = examples(con, contract, rows)
    assert len(asked) == 60
    for found, made in zip(asked, features, strict=True):
        assert made == pytest.approx(reference_features(contract, rows, found), abs=1e-9)


def test_orders_of_the_same_day_or_later_change_no_feature(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    rows = random_orders(contract, 4, clients=6, orders=80, days=10)
    cut = FIRST + timedelta(days=6)
    client = rows[0][contract.entity]
    order = {**rows[0], contract.timestamp: cut}

    def state(orders: list[Row]) -> list[Row]:
        con.register("orders", as_table(contract, orders))
        con.register("asked", as_table(contract, [order]))
        return con.sql(state_sql(contract, "asked", "orders")).to_arrow_table().to_pylist()

    before = [r for r in rows if r[contract.timestamp] < cut]
    noise = [
        {**r, contract.entity: client, contract.timestamp: cut + timedelta(days=i % 3)} for i, r in enumerate(rows)
    ]
    assert state(before) == state(rows) == state(rows + noise)


def test_result_depends_on_the_rows_and_not_on_their_order(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    rows = random_orders(contract, 5, clients=10, orders=400, days=5)
    once = examples(con, contract, rows)
    for seed in range(3):
        shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        assert examples(con, contract, shuffled) == once


def test_snapshot_is_the_state_of_every_client_as_of_the_day(
    con: duckdb.DuckDBPyConnection, contract: Contract
) -> None:
    rows = random_orders(contract, 6, clients=12, orders=150, days=15)
    as_of = FIRST + timedelta(days=8)
    con.register("orders", as_table(contract, rows))
    found = con.sql(snapshot_sql(contract, "orders", as_of)).to_arrow_table()
    clients = sorted({r[contract.entity] for r in rows})
    assert found[contract.entity].to_pylist() == clients
    asked = [{**rows[0], contract.entity: client, contract.timestamp: as_of} for client in clients]
    con.register("asked", as_table(contract, asked))
    when = contract.timestamp
    states = con.sql(f"SELECT * EXCLUDE ({when}) FROM ({state_sql(contract, 'asked', 'orders')}) ORDER BY 1")
    assert found.to_pylist() == states.to_arrow_table().to_pylist()


def test_a_client_without_history_is_told_by_nulls_and_equal_shares(contract: Contract) -> None:
    row = {contract.timestamp: FIRST} | dict.fromkeys(contract.features.attributes)
    schema = pa.schema(
        [contract.arrow_schema().field(n) for n in row]
        + [pa.field(n, pa.date32() if kind == "DATE" else pa.int64()) for n, kind, _ in state_columns(contract)]
    )
    state = {n: None for n, _, _ in state_columns(contract)}
    (made,) = finish(contract, pa.Table.from_pylist([row | state], schema=schema)).to_pylist()
    assert made["history_orders"] == 0
    assert made["history_days_since_last"] is None and made[f"history_last_{contract.target}"] is None
    assert [made[f"history_share_{c}"] for c in contract.classes] == pytest.approx([1 / 3] * 3)
    assert all(made[f"history_mean_{m}"] is None for m in contract.named("measure"))


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
    days = np.array([(d - EPOCH).days for d in dates], np.int64)
    assert _calendar(days, part).tolist() == [PARTS[part](d) for d in dates]


def test_feature_names_are_distinct_and_identifiers_are_none_of_them(contract: Contract) -> None:
    columns = feature_columns(contract)
    names = [c.name for c in columns]
    assert len(set(names)) == len(names)
    assert not set(names) & {
        c.name for c in contract.columns.values() if c.identifier or c.role in ("entity", "target")
    }
    assert FeatureColumn(f"history_last_{contract.target}", "categorical", contract.classes) in columns
    assert all(a.name != b.name for a, b in pairwise(columns))
