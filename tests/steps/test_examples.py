"""The examples as `elt` makes them, from files: equal to plain Python, and blind to the future."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb import accepted_rows as orders_of_run
from apex_ml.adapters.duckdb.accepted_rows import SortedRows, accepted_files
from apex_ml.adapters.mlflow.registry import ModelVersion
from apex_ml.contract.model import Contract
from apex_ml.contract.names import SINCE, snapshot_by
from apex_ml.core.estimator import Encoder, Model
from apex_ml.core.features import feature_columns, features_of_entity, finish, kind_of, state_needed
from apex_ml.core.history_by import StatesBy
from apex_ml.core.row_time import time_from, time_value, times_of
from apex_ml.services.accepted_rows import load_rows
from apex_ml.services.drop_features import features_query
from apex_ml.services.scorer import Scorer
from apex_ml.serving.history import History
from apex_ml.sql.row_checks import ROW_NR
from apex_ml.sql.rows import ROWS
from apex_ml.steps import elt as step
from apex_ml.steps.elt import make_examples
from tests.support.apex_home import context_of
from tests.support.model_infos import INFO
from tests.support.reference_features import (
    FIRST,
    Row,
    as_table,
    moment,
    random_orders,
    reference_example,
    reference_features,
    with_every_recipe,
    with_features,
    with_times,
)
from tests.support.snapshots import select_snapshot

AS_OF = FIRST + timedelta(days=40)
OF_ROWS: dict[str, Callable[[Contract], Contract]] = {
    "dates": lambda contract: contract,
    "times": lambda contract: with_times(contract, None),
    # whose clock skips an hour among the days of the rows
    "instants": lambda contract: with_times(contract, "America/New_York"),
}
LAGGED = [
    *(("dates", seed, lag) for seed, lag in ((1, "0d"), (2, "1d"), (1, "7d"))),
    *(("times", 3, lag) for lag in ("0d", "5h", "150h")),
    # over days among which the clock skips an hour
    *(("instants", 4, lag) for lag in ("0d", "7d", "19h")),
]
"""Kinds of timestamps with a seed and a lag."""


def lag_keys(lag: str) -> dict[str, int]:
    return {{"d": "history_lag_days", "h": "history_lag_hours"}[lag[-1]]: int(lag[:-1])}


def examples_of(
    contract: Contract,
    rows: Sequence[Row],
    folder: Path,
    *,
    files: int = 3,
    as_of: date | None = None,
    range_rows: int = 40,
    on_states: Callable[[StatesBy], None] | None = None,
) -> tuple[list[Row], list[Row], int]:
    """(examples, snapshot, repeated rows) of rows in several files."""
    folder.mkdir(parents=True)
    table = as_table(contract, list(rows))
    for nr, places in enumerate(np.array_split(np.arange(len(rows)), files)):
        pq.write_table(table.take(pa.array(places)), folder / f"part-{nr}.parquet", row_group_size=37)
    snapshot: list[Row] = []
    with duckdb.connect() as con:
        paths = accepted_files(folder)
        orders = SortedRows(con, contract, paths, range_rows)
        since = None if as_of is None else time_value(contract, as_of)
        parts = list(make_examples(orders, 2, since, lambda t: snapshot.extend(t.to_pylist()), on_states))
    return [row for part in parts for row in part.to_pylist()], snapshot, orders.repeated


def _plain(value: Any) -> Any:
    return round(float(value), 6) if isinstance(value, float | int) else value


def keyed(contract: Contract, rows: Sequence[Row]) -> list[Row]:
    """Rows sorted by their content, null first."""
    return sorted(rows, key=lambda r: [(r[n] is not None, str(_plain(r[n]))) for n in sorted(r)])


def assert_alike(rows: Sequence[Row], expected: Sequence[Row]) -> None:
    """Equal, numbers to nine digits: plain Python adds them in another order."""
    assert len(rows) == len(expected)
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            is_number = isinstance(value, float | int) and ours[name] is not None
            equal = math.isclose(ours[name], value, rel_tol=1e-9, abs_tol=1e-9) if is_number else ours[name] == value
            assert equal, (name, ours, theirs)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut clients and days at many places."""
    for module in (step, orders_of_run):
        monkeypatch.setattr(module, "BATCH_ROWS", 16)


@pytest.mark.parametrize("grain", ["last_row_per_entity", "every_row"])
@pytest.mark.parametrize(("of_rows", "seed", "lag"), LAGGED)
@pytest.mark.parametrize("recipes", [with_features, with_every_recipe])
def test_examples_equal_plain_python(
    contract: Contract, tmp_path: Path, grain: str, lag: str, of_rows: str, seed: int, recipes: Any
) -> None:
    requested = recipes(OF_ROWS[of_rows](contract), grain=grain, **lag_keys(lag))
    rows = list({tuple(r.items()): r for r in random_orders(requested, seed, clients=25, orders=600, days=30)}.values())
    if grain == "every_row":
        chosen = rows
    else:
        chosen = [reference_example(requested, rows, c) for c in sorted({r[requested.entity] for r in rows})]
    expected = [
        {n: r[n] for n in (requested.entity, requested.timestamp, requested.target)}
        | reference_features(requested, rows, r)
        for r in chosen
    ]
    result, _, repeated = examples_of(requested, rows, tmp_path / "a")
    assert repeated == 0
    assert_alike(keyed(requested, result), keyed(requested, expected))


@pytest.mark.parametrize("grain", ["last_row_per_entity", "every_row"])
def test_ranges_of_entities_change_nothing(contract: Contract, tmp_path: Path, grain: str) -> None:
    expected = with_every_recipe(contract, grain=grain)
    rows = random_orders(expected, 5, clients=30, orders=500, days=12)
    rows += rows[:40]
    whole = examples_of(expected, rows, tmp_path / "whole", as_of=AS_OF, range_rows=10_000)
    for size in (1, 50, 170):
        assert examples_of(expected, rows, tmp_path / str(size), as_of=AS_OF, range_rows=size) == whole
    assert whole[2] >= 40


DELIVERIES = [
    # how often each of three orders occurs in each file, and how often it is used
    ([(3, 1, 1)], (3, 1, 1)),
    ([(2, 1, 0), (2, 1, 0)], (2, 1, 0)),
    ([(2, 0, 1), (1, 2, 0), (0, 1, 1)], (2, 2, 1)),
    ([(1, 1, 1), (4, 1, 0), (2, 0, 3)], (4, 1, 3)),
]


@pytest.mark.parametrize(("files", "taken"), DELIVERIES)
@pytest.mark.parametrize("range_rows", [1, 1000])
def test_equal_rows_of_one_file_stay_and_a_second_delivery_is_left_out(
    contract: Contract, tmp_path: Path, files: list[tuple[int, ...]], taken: tuple[int, ...], range_rows: int
) -> None:
    requested = with_features(contract, grain="every_row")
    attribute = contract.features.attributes[0]
    base = random_orders(requested, 4, clients=1, orders=1, days=1)[0]
    # equal in all that their history needs: only the attribute distinguishes them
    rows = [{**base, attribute: level} for level in ("EC", "GT", None)]
    for nr, counts in enumerate(files):
        table = as_table(requested, [row for row, n in zip(rows, counts, strict=True) for _ in range(n)])
        pq.write_table(table, tmp_path / f"part-{nr}.parquet")
    delivered, expected = sum(map(sum, files)), Counter(dict(zip(("EC", "GT", None), taken, strict=True)))
    with duckdb.connect() as con:
        orders = SortedRows(con, requested, accepted_files(tmp_path), range_rows)
        examples = [row for part in make_examples(orders, 2) for row in part.to_pylist()]
        assert Counter(r[attribute] for r in examples) == +expected
        assert orders.repeated == delivered - sum(taken)
        assert load_rows(con, requested, tmp_path) == (delivered, orders.repeated)
        assert Counter(level for (level,) in con.execute(f"SELECT {attribute} FROM {ROWS}").fetchall()) == +expected


def test_rows_repeated_in_several_files_count_once(contract: Contract, tmp_path: Path) -> None:
    contract = with_every_recipe(contract)
    rows = list({tuple(r.items()): r for r in random_orders(contract, 3, clients=8, orders=200, days=6)}.values())
    first, snapshot, _ = examples_of(contract, rows, tmp_path / "once", as_of=AS_OF)
    second, same, repeated = examples_of(contract, rows + rows[:70], tmp_path / "again", as_of=AS_OF)
    assert repeated == 70
    assert (second, same) == (first, snapshot)


@pytest.mark.parametrize("lag", [0, 7])
@pytest.mark.parametrize("grain", ["last_row_per_entity", "every_row"])
def test_future_orders_change_no_past_feature(contract: Contract, tmp_path: Path, grain: str, lag: int) -> None:
    """Shuffled, removed and added orders of the future change no bit of the examples before them."""
    expected = with_every_recipe(contract, grain=grain, history_lag_days=lag)
    rows = random_orders(expected, 7, clients=12, orders=300, days=40)
    cut = FIRST + timedelta(days=25)
    past = [r for r in rows if r[expected.timestamp] < cut]
    future = [r for r in rows if r[expected.timestamp] >= cut]
    random = np.random.default_rng(1)
    shuffled = [
        {n: future[int(random.integers(len(future)))][n] if n != expected.timestamp else r[n] for n in r}
        for r in future
    ]
    added = random_orders(expected, 8, clients=12, orders=100, days=10)
    added = [{**r, expected.timestamp: r[expected.timestamp] + (cut - FIRST)} for r in added]
    names = [c.name for c in feature_columns(expected)]
    # one order a client and day to ask for, whose own day is the first of the future
    clients = sorted({r[expected.entity] for r in past})
    requested = [{**past[0], expected.entity: c, expected.timestamp: cut} for c in clients]
    results = []
    for nr, others in enumerate(([], future, shuffled, added, future[: len(future) // 2])):
        inputs = past + (others if grain == "every_row" else []) + (requested if grain != "every_row" else [])
        if grain != "every_row":
            # the last order must be the asked one: the future is what shares its day
            inputs += [{**r, expected.timestamp: cut} for r in others]
        examples, _, _ = examples_of(expected, inputs, tmp_path / str(nr))
        observed = [r for r in examples if r[expected.timestamp] < cut or (grain != "every_row")]
        history = [n for n in names if kind_of(expected, n) == "history"]
        if grain != "every_row":  # whose attributes are not those of the same row
            history = [n for n in history if n in features_of_entity(expected)]
        kept = [{n: r[n] for n in (expected.entity, expected.timestamp, *history)} for r in observed]
        results.append(keyed(expected, [r for r in kept if r[expected.entity] in clients]))
    assert results[0] and all(f == results[0] for f in results[1:])


def test_the_snapshot_is_what_every_order_of_that_day_would_see(contract: Contract, tmp_path: Path) -> None:
    rows = list({tuple(r.items()): r for r in random_orders(contract, 9, clients=15, orders=300, days=30)}.values())
    for as_of in (FIRST + timedelta(days=12), AS_OF):
        _, snapshot, _ = examples_of(contract, rows, tmp_path / str(as_of), as_of=as_of)
        with duckdb.connect() as con:
            con.register("orders", as_table(contract, rows))
            expected = con.sql(select_snapshot(contract, "orders", as_of)).to_arrow_table().to_pylist()
        assert [{n: r[n] or None for n in r} for r in snapshot] == [{n: r[n] or None for n in r} for r in expected]


def scorer_of(contract: Contract, home: Any, folder: Path, as_of: date, known: Sequence[Row]) -> Scorer:
    """A scorer of a model that reads every feature, with the history of known rows."""
    path = folder / "snapshot.parquet"

    def write(states: StatesBy) -> None:
        pq.write_table(states.snapshot, snapshot_by(path, states.by))

    _, snapshot, _ = examples_of(contract, known, folder / "accepted", as_of=as_of, on_states=write)
    pq.write_table(pa.Table.from_pylist(snapshot), path)
    context = context_of(home(), "scoring")
    model = Model(Encoder(feature_columns(contract)), b"", contract.classes, INFO)
    return Scorer(
        replace(context, pipeline=replace(context.pipeline, contract=contract)),
        ModelVersion("m", 1, "", "", {}),
        model,
        path,
        "",
        as_of,
        time_from(contract, time_value(contract, as_of)),
        lambda: folder / "accepted",
    )


def scored_features(scorer: Scorer, rows: Sequence[Row], folder: Path) -> list[Row]:
    """The key and the features of a drop's rows, in their order."""
    contract = scorer.context.contract
    drop = as_table(contract, list(rows))
    pq.write_table(drop.append_column(ROW_NR, pa.array(range(drop.num_rows))), folder / "drop.parquet")
    with duckdb.connect() as con:
        query = features_query(con, scorer, f"SELECT * FROM '{folder / 'drop.parquet'}'", "drop")
        states = con.sql(f"{query} ORDER BY {ROW_NR}").to_arrow_table()
    features = finish(contract, states, scorer.model.encoder.names)
    for name in (contract.entity, contract.timestamp):
        features = features.append_column(name, states.column(name))
    return features.to_pylist()


def in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


@pytest.mark.parametrize(("of_rows", "lag"), sorted({(of_rows, lag) for of_rows, _, lag in LAGGED}))
@pytest.mark.parametrize("recipes", [with_features, with_every_recipe])
def test_training_and_scoring_give_an_order_the_same_bits(
    contract: Contract, home: Any, tmp_path: Path, lag: str, recipes: Any, of_rows: str
) -> None:
    """Uses the snapshot for orders of its day, and the state of their own time for earlier ones."""
    expected = recipes(OF_ROWS[of_rows](contract), grain="every_row", **lag_keys(lag))
    rows = list({tuple(r.items()): r for r in random_orders(expected, 11, clients=15, orders=400, days=30)}.values())
    as_of = FIRST + timedelta(days=25)
    first = moment(expected, as_of)
    columns = [expected.entity, expected.timestamp, *(c.name for c in feature_columns(expected))]
    trained = [r for r in examples_of(expected, rows, tmp_path / "training")[0] if r[expected.timestamp] <= first]

    known = [r for r in rows if r[expected.timestamp] < first]
    drop = [r for r in rows if r[expected.timestamp] <= first]
    scored = scored_features(scorer_of(expected, home, tmp_path, as_of, known), drop, tmp_path)

    def bits(rows_of: list[Row]) -> list[str]:
        # repr shows every bit of a float
        return sorted(repr([in_utc(r[n]) for n in columns]) for r in rows_of)

    assert {r[expected.timestamp] == first for r in scored} == {True, False}
    assert bits(scored) == bits(trained)


@pytest.mark.parametrize(("of_rows", "seed", "lag"), LAGGED)
def test_a_drop_and_a_request_of_a_later_day_equal_plain_python(
    contract: Contract, home: Any, tmp_path: Path, of_rows: str, seed: int, lag: str
) -> None:
    """A window moves on with the day of the row, while the snapshot stays, and so do the last days within the lag.

    Both ways to score give the same bits.
    """
    expected = with_every_recipe(OF_ROWS[of_rows](contract), grain="every_row", **lag_keys(lag))
    as_of = FIRST + timedelta(days=25)
    known = random_orders(expected, seed, clients=12, orders=200, days=25)
    known = list({tuple(r.items()): r for r in known}.values())
    later = random_orders(expected, seed + 2, clients=15, orders=120, days=40)
    later = [{**r, expected.timestamp: r[expected.timestamp] + timedelta(days=25)} for r in later]
    scorer = scorer_of(expected, home, tmp_path, as_of, known)
    in_drop = scored_features(scorer, later, tmp_path)
    plain = [reference_features(expected, known, r) for r in later]
    assert_alike([{n: r[n] for n in plain[0]} for r in in_drop], plain)

    names = [c.name for c in feature_columns(expected)]
    in_requests = requested_features(scorer, later)
    assert [repr([r[n] for n in names]) for r in in_requests] == [repr([r[n] for n in names]) for r in in_drop]


def requested_features(scorer: Scorer, rows: Sequence[Row]) -> list[Row]:
    """The features of the rows of a request, in their order."""
    contract = scorer.context.contract
    history = History(contract, scorer.snapshot, "", scorer.as_of, scorer.since, state_needed(contract, ()))
    table = as_table(contract, list(rows))
    times = times_of(contract, table)
    places = history.places(table.column(contract.entity).to_pylist())
    own = {name: table.column(name) for name in contract.named("entity", "attribute")}
    for name, values in history.states(places, times, own).items():
        table = table.append_column(name, values)
    return finish(contract, table).select([c.name for c in feature_columns(contract)]).to_pylist()


def test_a_snapshot_of_an_earlier_edition_has_one_state_for_all_days(
    contract: Contract, home: Any, tmp_path: Path
) -> None:
    """It lacks the days of the lag: a row has what one of the first day of the snapshot has."""
    expected = with_features(contract, grain="every_row", history_lag_days=2)
    as_of = FIRST + timedelta(days=25)
    scorer = scorer_of(expected, home, tmp_path, as_of, random_orders(expected, 1, clients=6, orders=100, days=25))
    table = pq.read_table(scorer.snapshot)
    days = table.column(SINCE).to_pylist()
    assert max(days) == as_of + timedelta(days=2)
    first = table.filter(pa.array([day == as_of for day in days]))
    pq.write_table(first.drop_columns([SINCE]), scorer.snapshot)
    rows = random_orders(expected, 3, clients=6, orders=1, days=1)
    later = [{**rows[0], expected.timestamp: as_of + timedelta(days=n)} for n in range(4)]
    names = [c.name for c in feature_columns(expected) if c.name == "history_orders"]
    counts = [[r[n] for n in names] for r in scored_features(scorer, later, tmp_path)]
    assert names and counts == [counts[0]] * 4
    assert [[r[n] for n in names] for r in requested_features(scorer, later)] == counts


@pytest.mark.parametrize("day", [date(1970, 1, 1), date(1, 1, 1), date(9999, 12, 31)])
def test_dates_at_the_ends_of_the_calendar(contract: Contract, tmp_path: Path, day: Any) -> None:
    every = with_every_recipe(contract, grain="every_row")
    rows = random_orders(every, 10, clients=3, orders=20, days=5)
    odd = {**rows[0], contract.timestamp: day}
    result, _, _ = examples_of(every, [*rows, odd], tmp_path / "a")
    expected = reference_features(every, [*rows, odd], odd)
    (ours,) = [r for r in result if r[contract.timestamp] == day]
    assert_alike([{n: ours[n] for n in expected}], [expected])
