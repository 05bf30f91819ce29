"""Appends to Delta tables as drops: each is scored exactly once."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import uuid
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from rich.console import Console

from apex_ml.adapters.storage.stores import open_storage
from apex_ml.contract.model import Contract
from apex_ml.core.table_version import TableVersion
from apex_ml.errors import ConfigError, DataError
from apex_ml.platform.data_folders import begin_tables
from apex_ml.platform.reports.status import _waiting as waiting_part
from apex_ml.services.inboxes import open_inbox
from apex_ml.services.raw_location import local_raw
from apex_ml.settings import CODE_ROOT
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.list_drops import list_drops
from apex_ml.steps.removal import find_removable, remove
from apex_ml.steps.score import rescore, score
from tests.support.apex_home import COMMAND, Apex
from tests.support.ledger import counts, run, scored_rows
from tests.support.object_servers import ObjectServer

ROWS = 300
PLACES = ["folder", "moto", "rclone"]


@pytest.fixture(scope="module")
def rows(raw: Path, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("drops")

    def of_seed(seed: int) -> pa.Table:
        path = folder / f"{seed}.parquet"
        if not path.exists():
            make_drop(str(raw), date(2024, 8, 24), ROWS, seed, path, contract)
        return pq.read_table(path)

    return of_seed


class Table:
    """A Delta table and the pipeline that scores its appends."""

    def __init__(self, apex: Apex, url: str, options: dict[str, str]) -> None:
        self.apex, self.url, self.options = apex, url, options

    def append(self, rows: pa.Table, mode: Any = "append", **more: Any) -> None:
        write_deltalake(self.url, rows, mode=mode, storage_options=self.options, **more)

    @property
    def delta(self) -> DeltaTable:
        return DeltaTable(self.url, storage_options=self.options)

    def waiting(self) -> list[str]:
        return [name for chunk in list_drops(self.apex.context("list")).chunks for name in chunk.drops]

    def run(self) -> dict[str, Any]:
        return run(self.apex, *self.waiting())

    def alerts(self) -> list[tuple[str, str]]:
        return self.apex.sql("SELECT kind, subject FROM orders.open_alerts ORDER BY alert_id")


def table_at(apex: Apex, place: str, request: pytest.FixtureRequest, tmp_path: Path, **changes: Any) -> Table:
    name, options = f"t{uuid.uuid4().hex[:8]}", {}
    url = str(tmp_path / name)
    if place != "folder":
        server: ObjectServer = request.getfixturevalue(place)
        options = {**server.environment, "AWS_ALLOW_HTTP": "true", "AWS_S3_ALLOW_UNSAFE_RENAME": "true"}
        monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        url = f"s3://{server.bucket}/lake/{name}"
    return Table(apex.but(drops_url=url, scoring__source="delta", **changes), url, options)


@pytest.fixture(params=PLACES)
def everywhere(scoring: Apex, request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    return table_at(scoring, request.param, request, tmp_path)


@pytest.fixture
def table(scoring: Apex, request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    return table_at(scoring, "folder", request, tmp_path)


def test_each_append_after_the_first_look_is_scored_once(everywhere: Table, rows: Any) -> None:
    table = everywhere
    table.append(rows(1), partition_by=["pais_cd"])
    assert table.waiting() == []
    for seed in (2, 3):
        table.append(rows(seed))
    name = table.url.rpartition("/")[2]
    assert table.waiting() == [f"{name}-v000001.parquet", f"{name}-v000002.parquet"]
    assert table.run()["scored"] == 2 and counts(table.apex) == (2, 2, 2 * ROWS)
    table_id = str(table.delta.metadata().id)
    identities = [TableVersion("delta", name, table_id, version).identity() for version in (1, 2)]
    assert table.apex.sql("SELECT sha256 FROM orders.drops ORDER BY drop_id") == [(sha,) for sha in identities]
    assert table.waiting() == [] and table.apex.leftovers() == []
    again = run(table.apex, f"{name}-v000001.parquet", f"{name}-v000002.parquet")
    assert (again["scored"], again["already"]) == (0, 2) and counts(table.apex) == (2, 2, 2 * ROWS)


def test_the_scores_are_those_of_the_same_rows_in_a_file(
    table: Table, scoring: Apex, rows: Any, databases: Any, tmp_path: Path
) -> None:
    content = pa.BufferOutputStream()
    pq.write_table(rows(1), content)
    there = scoring.but(home=tmp_path / "there", **databases.migrated())
    there.deliver("a.parquet", content.getvalue().to_pybytes())
    run(there)
    table.waiting()
    table.append(rows(1))
    table.run()
    # the first value is the sha256 of the drop: of a version, and of bytes
    scores = [[row[1:] for row in scored_rows(apex)] for apex in (table.apex, there)]
    assert scores[0] == scores[1] != []


def test_with_a_first_version_earlier_appends_are_drops(
    scoring: Apex, rows: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    table = table_at(scoring, "folder", request, tmp_path, scoring__first_version=1)
    for seed in range(3):
        table.append(rows(seed))
    assert [name[-12:-8] for name in table.waiting()] == ["0001", "0002"]
    table.run()
    table.apex = table.apex.but(scoring__first_version=0)
    assert [name[-12:-8] for name in table.waiting()] == ["0000"]
    with pytest.raises(ConfigError, match=r"scoring.first_version: 9: the newest version of \S+ is 2"):
        list_drops(table.apex.but(scoring__first_version=9).context("list"))


def test_of_a_table_that_comes_later_every_append_is_a_drop(table: Table, rows: Any) -> None:
    assert table.waiting() == []
    table.append(rows(1))
    assert len(table.waiting()) == 1
    table.run()
    # the same location gets another table
    other = Table(table.apex, table.url, {})
    for path in Path(table.url, "_delta_log").iterdir():
        path.unlink()
    other.append(rows(2))
    assert len(other.waiting()) == 1 and other.run()["scored"] == 1


def test_a_table_that_is_made_again_supersedes_nothing(table: Table, rows: Any) -> None:
    apex = table.apex.but(scoring__first_version=0)
    table = Table(apex, table.url, table.options)
    for first in (1, 3):
        shutil.rmtree(table.url, ignore_errors=True)
        for seed in (first, first + 1):
            table.append(rows(seed))
        assert table.run()["scored"] == 2
    assert apex.sql("SELECT count(*) FROM orders.scored_current") == [(4 * ROWS,)]


def test_the_start_of_the_platform_is_a_first_look(table: Table, rows: Any) -> None:
    messages: list[str] = []
    table.append(rows(1))
    begin_tables(table.apex.settings, messages.append)
    table.append(rows(2))
    table.append(rows(3))
    assert len(table.waiting()) == 2 and messages == []


def test_compaction_is_no_drop_and_what_changes_rows_is_reported_once(table: Table, rows: Any) -> None:
    table.append(rows(1))
    table.waiting()
    table.append(rows(2))
    table.delta.optimize.compact()
    table.append(rows(3), mode="overwrite")
    table.delta.delete("pais_cd = 'PE'")
    table.append(rows(4))
    name = table.url.rpartition("/")[2]
    assert table.waiting() == [f"{name}-v000001.parquet", f"{name}-v000005.parquet"]
    changed = [("table_changed", f"{name}-v000003.parquet"), ("table_changed", f"{name}-v000004.parquet")]
    assert table.alerts() == changed
    messages = [message for (message,) in table.apex.sql("SELECT message FROM orders.open_alerts ORDER BY alert_id")]
    assert f"{name}: Delta version 3" in messages[0] and "WRITE changed or removed rows" in messages[0]
    assert "DELETE changed or removed rows" in messages[1]
    table.apex.sql("UPDATE orders.alerts SET resolved_at = now()")
    assert len(table.waiting()) == 2 and table.alerts() == []  # reported once
    assert table.run()["scored"] == 2 and table.waiting() == []


def test_restored_rows_are_not_scored_again(table: Table, rows: Any) -> None:
    table.waiting()
    table.append(rows(1))
    table.run()
    table.delta.delete()
    table.delta.restore(0)
    assert table.waiting() == [] and [kind for kind, _ in table.alerts()] == ["table_changed"] * 2


def test_partitions_and_columns_that_came_later_are_in_the_rows(table: Table, rows: Any, tmp_path: Path) -> None:
    table.waiting()
    whole = rows(1)
    odd = pa.array(["two words", "á/b=%", None, ""] * (ROWS // 4))
    whole = whole.set_column(whole.schema.get_field_index("ruta_id"), "ruta_id", odd)
    table.append(whole.drop_columns(["estrellas_txt"]), partition_by=["ruta_id"])
    table.append(whole, schema_mode="merge")
    first, second = table.waiting()
    fetched: list[pa.Table] = []
    inbox = open_inbox(table.apex.settings, table.apex.pipeline)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in (first, second):
        with inbox.fetch(name, scratch) as file:
            fetched.append(pq.read_table(file.path))
    assert fetched[0]["estrellas_txt"].null_count == ROWS and fetched[0].column_names == fetched[1].column_names
    values = set(fetched[0]["ruta_id"].to_pylist())
    assert values == {"two words", "á/b=%", None}  # Delta knows no empty text in a partition
    assert list(scratch.iterdir()) == []
    assert sorted(fetched[1]["estrellas_txt"].to_pylist(), key=str) == sorted(
        whole["estrellas_txt"].to_pylist(), key=str
    )


def test_a_vacuumed_append_is_reported_and_the_others_are_scored(everywhere: Table, rows: Any) -> None:
    table = everywhere
    table.waiting()
    table.append(rows(1))
    added = table.delta.file_uris()
    table.append(rows(2))
    locations = table.apex.pipeline.locations
    for uri in added:
        open_storage(locations, table.url, "drops").delete(uri.rpartition("/")[2])
    waiting = table.waiting()
    with pytest.raises(
        DataError, match=r"v000000\.parquet: a file of t\w+: Delta version 0 .* is gone: vacuumed.*append"
    ):
        run(table.apex, *waiting)
    assert counts(table.apex)[2] == ROWS and table.waiting() == []
    assert table.alerts() == [("bad_drop", waiting[0])]


def test_a_log_that_was_cut_off_is_read_from_its_checkpoint_and_lost_appends_are_reported(
    everywhere: Table, rows: Any
) -> None:
    table = everywhere
    table.append(rows(1))
    table.waiting()
    for seed in (2, 3, 4):
        table.append(rows(seed))
    table.delta.create_checkpoint()
    for version in range(3):
        storage = open_storage(table.apex.pipeline.locations, table.url, "drops")
        storage.delete(f"_delta_log/{version:020d}.json")
    name = table.url.rpartition("/")[2]
    assert table.waiting() == [f"{name}-v000003.parquet"]
    assert table.alerts() == [("table_changed", f"{name}: versions 1 to 2")]
    table.apex.sql("UPDATE orders.alerts SET resolved_at = now()")
    assert table.run()["scored"] == 1
    assert table.waiting() == [] and table.alerts() == []


def test_a_scored_append_can_be_scored_again_and_a_removed_one_stays_away(table: Table, rows: Any) -> None:
    table.waiting()
    table.append(rows(1))
    (name,) = table.waiting()
    table.run()
    table.append(rows(2))
    assert rescore(table.apex.context("again"), name).scored == 1 and counts(table.apex) == (1, 2, 2 * ROWS)
    context = table.apex.context("removal")
    remove(context, find_removable(context, [name], invented=False))
    assert counts(table.apex) == (0, 0, 0) and [n[-12:-8] for n in table.waiting()] == ["0001"]


def test_a_bad_append_is_reported_once_and_can_be_named(table: Table, rows: Any) -> None:
    table.waiting()
    table.append(rows(1).drop_columns(["fecha_pedido_dt"]))
    table.append(rows(2).drop_columns(["fecha_pedido_dt"]))
    first, second = table.waiting()
    for _ in range(2):
        with pytest.raises(DataError, match=rf"1 of 1 drops are bad and stay in the table {table.url}"):
            run(table.apex, first)
    assert table.waiting() == [second] and table.alerts() == [("bad_drop", first)]
    assert table.apex.sql("SELECT name, state FROM orders.drops") == [(first, "failed")]
    table.append(rows(3), schema_mode="merge")  # the column is there now, and null in the rows of before
    with pytest.raises(DataError, match="fecha_pedido_dt: not_null"):
        run(table.apex, first)


def test_a_name_that_is_no_append_is_refused(table: Table, rows: Any) -> None:
    table.append(rows(1))
    table.waiting()
    with pytest.raises(ConfigError, match="is no append to"):
        score(table.apex.context("scoring"), ["../a.parquet"])
    assert score(table.apex.context("scoring"), ["t-v000099.parquet"]).drops[0].state == "gone"


@pytest.mark.parametrize("point", ["score_claimed", "score_written", "score_committed"])
def test_a_killed_run_loses_and_doubles_nothing(table: Table, rows: Any, point: str) -> None:
    table.waiting()
    for seed in (1, 2):
        table.append(rows(seed))
    names = table.waiting()
    killed = table.apex.call("score", "--drops", json.dumps(names), APEX_FAULT=point)
    assert killed.code == -signal.SIGKILL, killed.err
    assert counts(table.apex)[2] == (ROWS if point == "score_committed" else 0)
    assert table.waiting() == names  # nobody noted the first one
    assert table.run()["failed"] == 0 and counts(table.apex)[2] == 2 * ROWS
    assert table.waiting() == [] and counts(table.apex)[:2] == (2, 2)


def test_two_workers_and_a_writer_at_the_same_time(table: Table, rows: Any) -> None:
    table.waiting()
    for seed in (1, 2, 3):
        table.append(rows(seed))
    command = [*COMMAND, "score", "--drops", json.dumps(table.waiting())]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, env=table.apex.environment(), cwd=CODE_ROOT, **pipes) for _ in range(2)]
    for seed in (4, 5, 6):
        table.append(rows(seed))
        table.delta.optimize.compact()
        table.waiting()
    for worker in workers:
        _, errors = worker.communicate()
        assert worker.returncode == 0, errors
    run(table.apex, *table.waiting())
    assert table.waiting() == [] and counts(table.apex) == (6, 6, 6 * ROWS)


def test_the_location_of_a_table_is_no_place_of_drops(everywhere: Table, rows: Any) -> None:
    table = everywhere
    table.append(rows(1))
    apex = table.apex.but(scoring__source="files", scoring__after="keep")
    with pytest.raises(ConfigError, match=r"locations.drops=\S+: is a table; .* scoring.source: delta"):
        list_drops(apex.context("list"))
    if not table.options:
        assert {path.name for path in Path(table.url).iterdir() if path.is_dir()} == {"_delta_log"}


@pytest.mark.parametrize("package", ["deltalake", "pyiceberg"])
def test_without_the_packages_the_command_that_installs_them_is_named(
    table: Table, rows: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.append(rows(1))
    source = "delta" if package == "deltalake" else "iceberg"
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    command = rf"needs the package {package}, which is not installed: pip install 'apex-ml\[tables\]'"
    with pytest.raises(ConfigError, match=command):
        list_drops(table.apex.but(scoring__source=source).context("list"))
    if package == "pyiceberg":
        metadata = Path(table.url).parent / "claims" / "metadata" / "00000-a.metadata.json"
        metadata.parent.mkdir(parents=True)
        metadata.write_text("{}")
        with pytest.raises(ConfigError, match=command):
            local_raw(table.apex.settings, table.apex.pipeline, str(metadata.parent.parent))


def test_status_lists_the_appends_that_wait(table: Table, rows: Any) -> None:
    table.append(rows(1))
    table.waiting()
    table.append(rows(2))
    shown = io.StringIO()
    assert waiting_part(table.apex.settings, table.apex.pipeline, Console(file=shown, width=200))
    assert "drops waiting: 1 (t" in shown.getvalue() and "-v000001.parquet)" in shown.getvalue()
