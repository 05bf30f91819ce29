"""The newest day held back from training is a drop of real orders; and a drop that should not be there is removed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from apex_ml.cli.tables import remove_drop
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError
from apex_ml.pipelines import load_pipeline
from apex_ml.services.held_back import find_held_back, hold_back
from apex_ml.services.run_layout import ACCEPTED, EXAMPLES, HELD_BACK
from apex_ml.settings import Settings
from apex_ml.steps.elt import elt
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex
from tests.support.ledger import ROWS, counts, places, run
from tests.support.order_files import order_table, write_orders


@pytest.fixture
def apex(raw: Path, databases: Any, tmp_path: Path) -> Apex:
    return Apex(Settings.load(home=tmp_path / "home", raw_url=str(raw), **databases.migrated()))


def check(apex: Apex, name: str, without: bool = True) -> dict[str, Any]:
    return validate(apex.context(name), raw=None, as_of=None, force=False, without_newest_day=without).to_json()


def decide(apex: Apex, name: str, result: dict[str, Any]) -> None:
    """What `promote` would write at the end of such a run."""
    apex.sql(
        "INSERT INTO orders.promotions (model_name, action, state, step_run, who, reasons,"
        " data_sha256, contract_sha256)"
        " VALUES (%s, 'reject', 'done', %s, 'test', '{}', %s, %s) RETURNING 1",
        (load_pipeline(apex.settings).model_name, name, result["data_sha256"], apex.context(name).contract.digest()),
    )


def days(files: list[Path], contract: Contract) -> list[date]:
    tables = [pq.read_table(file, columns=[contract.timestamp]) for file in files]
    values = pa.concat_tables(tables)[contract.timestamp].cast(pa.timestamp("s")).to_pylist()
    return [value.date() for value in values]


def test_training_does_not_see_the_newest_day_which_is_a_drop(apex: Apex, contract: Contract) -> None:
    raw = days(sorted(Path(load_pipeline(apex.settings).locations.raw).glob("*.parquet")), contract)
    newest = max(raw)
    result = check(apex, "held")
    assert result["as_of"] == newest.isoformat()
    assert result["held_back"] == {**result["held_back"], "day": newest.isoformat(), "rows": raw.count(newest)}
    assert result["accepted"] == len(raw) - raw.count(newest) - result["quarantined"]
    folder = apex.processed / "held"
    assert max(days(sorted((folder / "validate" / ACCEPTED).glob("*.parquet")), contract)) < newest
    match = find_held_back(apex.context("other"), result["data_sha256"])
    assert match is not None
    drop = pq.read_table(match[1])
    assert set(drop.column_names) == {
        name for name, column in contract.columns.items() if column.role in ("entity", "timestamp", "attribute")
    }
    assert {*days([match[1]], contract)} == {newest} and drop.num_rows == raw.count(newest)
    elt(apex.context("held"))
    examples = pq.read_table(folder / "elt" / EXAMPLES)
    assert pc.max(examples[contract.timestamp]).as_py() < newest


def test_the_drop_has_the_same_bytes_for_any_division_into_files(apex: Apex, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    merged.mkdir()
    tables = [
        pq.read_table(file)
        for file in sorted(Path(load_pipeline(apex.settings).locations.raw).glob("*.parquet"), reverse=True)
    ]
    pq.write_table(pa.concat_tables(tables), merged / "all.parquet")
    first = check(apex, "parts")["held_back"]
    assert check(apex.but(raw_url=str(merged)), "merged")["held_back"] == first


def test_equal_orders_of_one_file_are_all_in_the_drop(contract: Contract, tmp_path: Path) -> None:
    table = order_table(rows=2)  # of two days
    accepted, newest = tmp_path / "accepted", table[contract.timestamp][1].as_py().date()
    write_orders(accepted / "part-0.parquet", table.take([0, 1, 1]))
    write_orders(accepted / "part-1.parquet", table.take([1]))
    with duckdb.connect() as con:
        assert hold_back(con, contract, accepted, newest, tmp_path) == 3
    assert pq.read_table(tmp_path / HELD_BACK)[contract.entity].to_pylist() == [table[contract.entity][1].as_py()] * 2


def test_an_unchanged_newest_day_is_no_new_data(apex: Apex) -> None:
    held = check(apex, "held")
    decide(apex, "held", held)
    assert "no new raw data" in check(apex, "again")["skip"]
    # the nightly run trains with that day, too; after it the main job has no new data
    night = check(apex, "night", without=False)
    assert "skip" not in night and "held_back" not in night and night["data_sha256"] != held["data_sha256"]
    decide(apex, "night", night)
    assert "no new raw data" in check(apex, "night_2", without=False)["skip"]
    second = check(apex, "day_2")
    assert "no new raw data" in second["skip"]
    assert find_held_back(apex.context("x"), second["data_sha256"]) is not None


def test_raw_data_of_one_day_is_not_held_back(apex: Apex, contract: Contract, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    [first, *_] = sorted(Path(load_pipeline(apex.settings).locations.raw).glob("*.parquet"))
    table = pq.read_table(first)
    place = table.schema.get_field_index(contract.timestamp)
    same = pa.repeat(pa.scalar(datetime(2024, 8, 1), table.schema.field(place).type), table.num_rows)
    pq.write_table(table.set_column(place, contract.timestamp, same), folder / "a.parquet")
    result = check(apex.but(raw_url=str(folder)), "one")
    assert "held_back" not in result and result["as_of"] == (date(2024, 8, 1) + timedelta(days=1)).isoformat()


def test_removed_drops_leave_nothing_and_superseded_ones_count_again(
    scoring: Apex, put_drop: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(*arguments: str) -> str:
        with monkeypatch.context() as patch:
            for name, value in scoring.environment().items():
                patch.setenv(name, value)
            done = CliRunner().invoke(remove_drop, arguments)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    first = put_drop("a.parquet")
    bytes_of_first = first.read_bytes()
    run(scoring)
    put_drop("a.parquet", seed=2)
    put_drop("invented-2024-08-24-0001.parquet", seed=3)
    run(scoring, "a.parquet", "invented-2024-08-24-0001.parquet")
    assert counts(scoring) == (3, 3, 3 * ROWS)
    scoring.sql("INSERT INTO orders.outcomes SELECT run_id, row_nr, 'DIGITAL', 'test' FROM orders.scored RETURNING 1")
    assert "Would remove 1 drop with 500 scored orders. Nothing is removed yet" in apply("--invented")
    assert counts(scoring) == (3, 3, 3 * ROWS)
    assert "Removed 1 drop with 500 scored orders" in apply("--invented", "--apply")
    assert counts(scoring) == (2, 2, 2 * ROWS)
    assert scoring.sql("SELECT count(*) FROM orders.outcomes") == [(2 * ROWS,)]
    assert places(scoring)["done"] == sorted(n for n in places(scoring)["done"] if n.startswith("a"))
    with pytest.raises(DataError, match=r"no drop of this name was delivered: b\.parquet"):
        apply("b.parquet")
    # both contents under the name go, and the same bytes would be scored again
    apply("a.parquet", "--apply")
    assert counts(scoring) == (0, 0, 0) and places(scoring) == {"inbox": [], "done": [], "quarantine": []}
    (scoring.inbox / "a.parquet").write_bytes(bytes_of_first)
    run(scoring)
    assert counts(scoring) == (1, 1, ROWS)
    shutil.rmtree(scoring.inbox.parent)
