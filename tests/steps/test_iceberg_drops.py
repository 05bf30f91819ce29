"""Appends to Iceberg tables as drops: each is scored exactly once."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform

from apex_ml.contract.model import Contract
from apex_ml.core.table_version import TableVersion
from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.list_drops import list_drops
from apex_ml.steps.score import rescore
from tests.support.apex_home import Apex
from tests.support.iceberg_tables import new_catalog, new_table, place_of
from tests.support.ledger import counts, run

ROWS = 300


@pytest.fixture(scope="module")
def rows(raw: Path, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("drops")

    def of_seed(seed: int) -> pa.Table:
        path = folder / f"{seed}.parquet"
        if not path.exists():
            make_drop(str(raw), date(2024, 8, 24), ROWS, seed, path, contract)
        rows = pq.read_table(path)
        place = rows.schema.get_field_index("fecha_pedido_dt")
        return rows.set_column(place, "fecha_pedido_dt", rows["fecha_pedido_dt"].cast("timestamp[us]"))

    return of_seed


def scoring_from(apex: Apex, table: Table, **changes: Any) -> Apex:
    return apex.but(drops_url=place_of(table), scoring__source="iceberg", **changes)


def waiting(apex: Apex) -> list[str]:
    return [name for chunk in list_drops(apex.context("list")).chunks for name in chunk.drops]


def append(table: Table, rows: pa.Table) -> int:
    table.append(rows)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return snapshot.snapshot_id


@pytest.mark.parametrize("place", ["folder", "moto"])
def test_each_append_after_the_first_look_is_scored_once(
    place: str,
    scoring: Apex,
    rows: Any,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = None if place == "folder" else request.getfixturevalue(place)
    for key, value in server.environment.items() if server else ():
        monkeypatch.setenv(key, value)
    table = new_table(new_catalog(tmp_path, server), "claims", rows(1), {"pais_cd": IdentityTransform()})
    apex = scoring_from(scoring, table)
    assert waiting(apex) == []
    snapshots = [append(table, rows(seed)) for seed in (2, 3)]
    names = waiting(apex)
    assert names == [f"claims-s{snapshot}.parquet" for snapshot in snapshots]
    assert run(apex, *names)["scored"] == 2 and counts(apex) == (2, 2, 2 * ROWS)
    identity = [TableVersion("iceberg", "x", str(table.metadata.table_uuid), one).identity() for one in snapshots]
    assert apex.sql("SELECT sha256 FROM orders.drops ORDER BY drop_id") == [(sha,) for sha in identity]
    assert waiting(apex) == [] and apex.leftovers() == []
    assert rescore(apex.context("again"), names[0]).scored == 1


def test_what_changes_rows_is_reported_and_its_own_appends_are_drops(scoring: Apex, rows: Any, tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", rows(1))
    apex = scoring_from(scoring, table)
    waiting(apex)
    table.delete("pais_cd = 'PE'")
    table.overwrite(rows(2))  # pyiceberg deletes in one snapshot, and appends in another
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert waiting(apex) == [f"claims-s{snapshot.snapshot_id}.parquet"]
    alerts = apex.sql("SELECT kind, message FROM orders.open_alerts ORDER BY alert_id")
    assert [kind for kind, _ in alerts] == ["table_changed", "table_changed"]
    assert all("claims: Iceberg snapshot" in message and "is no drop" in message for _, message in alerts)
    apex.sql("UPDATE orders.alerts SET resolved_at = now()")
    waiting(apex)
    assert apex.sql("SELECT count(*) FROM orders.open_alerts") == [(0,)]


def test_snapshots_that_expired_before_anybody_looked_are_reported(scoring: Apex, rows: Any, tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", rows(1))
    apex = scoring_from(scoring, table)
    waiting(apex)
    snapshots = [append(table, rows(seed)) for seed in (2, 3, 4)]
    first = table.history()[0].snapshot_id
    table.maintenance.expire_snapshots().by_ids([first, snapshots[0]]).commit()
    assert waiting(apex) == [f"claims-s{snapshot}.parquet" for snapshot in snapshots[1:]]
    assert apex.sql("SELECT kind, subject FROM orders.open_alerts") == [
        ("table_changed", f"claims: snapshots before {snapshots[1]}")
    ]
    apex.sql("UPDATE orders.alerts SET resolved_at = now()")
    assert run(apex, *waiting(apex))["scored"] == 2
    assert waiting(apex) == [] and apex.sql("SELECT count(*) FROM orders.open_alerts") == [(0,)]


def test_snapshots_that_expire_after_they_were_handled_are_not_missed(scoring: Apex, rows: Any, tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", rows(1))
    apex = scoring_from(scoring, table)
    waiting(apex)
    last = append(table, rows(2))
    run(apex, *waiting(apex))
    assert waiting(apex) == []
    new = append(table, rows(3))
    table.maintenance.expire_snapshots().by_ids([table.history()[0].snapshot_id, last]).commit()
    assert waiting(apex) == [f"claims-s{new}.parquet"]
    assert apex.sql("SELECT count(*) FROM orders.open_alerts") == [(0,)]


def test_after_a_rollback_the_new_snapshots_are_drops(scoring: Apex, rows: Any, tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", rows(1))
    apex = scoring_from(scoring, table)
    waiting(apex)
    first = append(table, rows(2))
    append(table, rows(3))
    run(apex, *waiting(apex))
    table.manage_snapshots().rollback_to_snapshot(first).commit()
    assert waiting(apex) == []
    new = append(table, rows(4))
    assert waiting(apex) == [f"claims-s{new}.parquet"]
    assert apex.sql("SELECT count(*) FROM orders.open_alerts") == [(0,)]


def test_a_first_snapshot_can_be_named(scoring: Apex, rows: Any, tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", rows(1))
    second = append(table, rows(2))
    first = table.history()[0].snapshot_id
    names = [f"claims-s{snapshot}.parquet" for snapshot in (first, second)]
    assert waiting(scoring_from(scoring, table, scoring__first_version=second)) == names[1:]
    assert waiting(scoring_from(scoring, table, scoring__first_version=0)) == names
    with pytest.raises(ConfigError, match=rf"first_version: 7: \S+ has no such snapshot in its history; .*{second}"):
        waiting(scoring_from(scoring, table, scoring__first_version=7))


def test_a_file_of_an_append_that_is_gone_is_reported_once(scoring: Apex, rows: Any, tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", rows(1))
    apex = scoring_from(scoring, table)
    waiting(apex)
    before = set(Path(place_of(table), "data").iterdir())
    append(table, rows(2))
    for path in set(Path(place_of(table), "data").iterdir()) - before:
        path.unlink()
    names = waiting(apex)
    with pytest.raises(DataError, match=r"a file of claims: Iceberg snapshot .* is gone: .*append them again"):
        run(apex, *names)
    assert waiting(apex) == [] and apex.sql("SELECT subject FROM orders.open_alerts") == [(names[0],)]
