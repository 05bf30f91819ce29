"""Drops that are folders, as Spark writes them: each is scored whole or not at all, on disk and in object stores."""

from __future__ import annotations

import hashlib
import io
import json
import random
import signal
import subprocess
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.postgres.partitions import OWN_ROWS
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.list_drops import list_drops
from apex_ml.steps.removal import find_removable, remove
from apex_ml.steps.score import rescore
from tests.support.apex_home import Apex
from tests.support.concurrent_reader import reading
from tests.support.ledger import counts, places, run
from tests.support.object_servers import ObjectServer, in_object_store
from tests.support.scored_tables import BEFORE, tables

ROWS = 300
SCORED = (
    "SELECT s.row_nr, s.cliente_id, s.fecha_pedido_dt, s.predicted, s.p_digital, s.confidence"
    " FROM orders.scored AS s ORDER BY s.run_id, s.row_nr"
)


@pytest.fixture(scope="module")
def table(raw: Path, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    path = tmp_path_factory.mktemp("drop") / "whole.parquet"
    make_drop(str(raw), date(2024, 8, 24), ROWS, 7, path, contract)
    return pq.read_table(path)


@pytest.fixture(params=["folder", "moto", "rclone"])
def inbox(scoring: Apex, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Apex:
    if request.param == "folder":
        return scoring
    return in_object_store(scoring, request.getfixturevalue(request.param), monkeypatch)


def as_parquet(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def parts_of(table: pa.Table, count: int = 3) -> dict[str, bytes]:
    """The rows in several parts, in their order."""
    step = -(-table.num_rows // count)
    return {f"part-{n:05}.snappy.parquet": as_parquet(table.slice(n * step, step)) for n in range(count)}


def deliver(apex: Apex, name: str, files: dict[str, bytes], *, marker: str = "_SUCCESS") -> None:
    for part, content in files.items():
        apex.deliver(f"{name}/{part}", content)
    if marker:
        apex.deliver(f"{name}/{marker}", b"")


def waiting(apex: Apex) -> list[str]:
    return [name for chunk in list_drops(apex.context("list")).chunks for name in chunk.drops]


def identity(files: Iterable[tuple[str, bytes]]) -> str:
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def in_done(apex: Apex) -> list[str]:
    """The keys below done/."""
    if is_object_store(apex.pipeline.locations.drops):
        return [file.key for file in apex.storage.list_all("done/")]  # type: ignore[attr-defined]
    root = apex.inbox.parent
    return sorted(path.relative_to(root).as_posix() for path in (root / "done").rglob("*") if path.is_file())


def test_a_complete_folder_is_one_drop_with_the_rows_of_one_file(
    inbox: Apex, table: pa.Table, scoring: Apex, databases: Any, tmp_path: Path
) -> None:
    files = parts_of(table)
    deliver(inbox, "spark", files, marker="")
    listed = list_drops(inbox.context("list"))
    assert listed.chunks == () and listed.folders == ("spark",) and "without _SUCCESS" in str(listed.skip)
    for noise in ("_temporary/0/part-9.parquet", ".part-0.parquet.crc", "part-00001.parquet.filepart"):
        inbox.deliver(f"spark/{noise}", b"noise")
    inbox.deliver("spark/_SUCCESS", b"")
    assert waiting(inbox) == ["spark"]
    assert run(inbox, "spark")["scored"] == 1
    assert counts(inbox) == (1, 1, ROWS)
    drop = inbox.sql("SELECT name, sha256, rows_in FROM orders.drop_summary")
    assert drop == [("spark", identity(files.items()), ROWS)]
    assert waiting(inbox) == [] and list_drops(inbox.context("list")).folders == ()
    assert len([key for key in in_done(inbox) if key.endswith(".snappy.parquet")]) == 3
    whole = scoring.but(home=tmp_path / "whole", drops_url="", **databases.migrated())
    whole.deliver("a.parquet", as_parquet(table))
    run(whole)
    assert inbox.sql(SCORED) == whole.sql(SCORED) != []
    assert inbox.leftovers() == []


def test_a_folder_is_scored_once_whatever_its_name_and_its_redelivery_is_moved(inbox: Apex, table: pa.Table) -> None:
    for name in ("first", "second", "first"):
        deliver(inbox, name, parts_of(table))
        result = run(inbox, name)
        assert waiting(inbox) == []
    assert (result["scored"], result["already"]) == (0, 1) and counts(inbox) == (1, 1, ROWS)
    deliver(inbox, "first", parts_of(table.slice(0, 200)))
    assert run(inbox, "first")["scored"] == 1 and counts(inbox) == (2, 2, ROWS + 200)


def test_folders_below_name_columns(
    inbox: Apex, table: pa.Table, scoring: Apex, databases: Any, tmp_path: Path
) -> None:
    countries = sorted(set(table["pais_cd"].to_pylist()))
    assert len(countries) > 1
    plain = table.drop_columns(["pais_cd", "fecha_pedido_dt"])
    files = {
        f"pais_cd={country}/fecha_pedido_dt=2024-08-24/part-0.parquet": as_parquet(
            plain.filter(pc.equal(table["pais_cd"], country))
        )
        for country in countries
    }
    deliver(inbox, "by country", files)
    assert run(inbox, "by country")["scored"] == 1
    whole = scoring.but(home=tmp_path / "whole", drops_url="", **databases.migrated())
    whole.deliver("a.parquet", as_parquet(table))
    run(whole)
    assert sorted(row[1:] for row in inbox.sql(SCORED)) == sorted(row[1:] for row in whole.sql(SCORED)) != []
    day, country = "fecha_pedido_dt=2024-08-24", countries[0]
    of_country = plain.append_column("pais_cd", table["pais_cd"]).filter(pc.equal(table["pais_cd"], country))
    deliver(inbox, day, {"part-0.parquet": as_parquet(of_country)})
    assert run(inbox, day)["scored"] == 1 and counts(inbox)[2] == ROWS + of_country.num_rows


def test_a_folder_with_a_bad_part_is_in_quarantine_and_names_the_part(inbox: Apex, table: pa.Table) -> None:
    files = parts_of(table)
    files["part-00001.snappy.parquet"] = files["part-00001.snappy.parquet"][:-40] + b"x" * 40
    deliver(inbox, "broken", files)
    with pytest.raises(DataError, match=r"broken: part-00001\.snappy\.parquet: .*truncated"):
        run(inbox, "broken")
    assert counts(inbox)[2] == 0 and waiting(inbox) == [] and in_done(inbox) == []
    (alert,) = inbox.sql("SELECT message FROM orders.open_alerts")
    assert "part-00001.snappy.parquet" in alert[0]
    if is_object_store(inbox.pipeline.locations.drops):
        time.sleep(1.1)  # stores tell the time of an upload to the second
    deliver(inbox, "broken", parts_of(table))
    assert run(inbox, "broken")["scored"] == 1 and counts(inbox)[2] == ROWS


def test_quarantined_rows_name_their_part(scoring: Apex, table: pa.Table, contract: Contract) -> None:
    clients = table[contract.entity].to_pylist()
    clients[120] = clients[250] = "nobody"
    place = table.schema.get_field_index(contract.entity)
    bad = table.set_column(place, contract.entity, pa.array(clients))
    deliver(scoring, "spark", parts_of(bad))
    run(scoring, "spark")
    rows = scoring.sql("SELECT source_name, row_nr, part, part_row FROM orders.quarantine ORDER BY row_nr")
    assert rows == [
        ("spark", 120, "part-00001.snappy.parquet", 20),
        ("spark", 250, "part-00002.snappy.parquet", 50),
    ]
    assert scoring.sql("SELECT count(*), max(row_nr) FROM orders.scored") == [(ROWS - 2, ROWS - 1)]


def test_a_part_that_repeats_a_row_of_another_part_counts_as_in_one_file(
    scoring: Apex, table: pa.Table, databases: Any, tmp_path: Path
) -> None:
    repeated = pa.concat_tables([table, table.slice(0, 5)])
    deliver(scoring, "spark", parts_of(repeated))
    one = scoring.but(home=tmp_path / "one", **databases.migrated())
    one.deliver("a.parquet", as_parquet(repeated))
    result, expected = run(scoring, "spark"), run(one)
    same = ("rows_scored", "rows_quarantined", "reasons", "warnings")
    assert [result["drops"][0][key] for key in same] == [expected["drops"][0][key] for key in same]
    assert scoring.sql(SCORED) == one.sql(SCORED)


@pytest.mark.parametrize("change", ["changed", "gone", "added"])
def test_a_part_that_changes_meanwhile_leaves_nothing(
    inbox: Apex, table: pa.Table, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    from apex_ml.services import score_file as module

    files = parts_of(table)
    deliver(inbox, "spark", files)
    write = module.write_scores

    def meanwhile(*args: Any, **kwargs: Any) -> int:
        written = write(*args, **kwargs)
        if change == "gone":
            inbox.storage.delete("inbox/spark/part-00001.snappy.parquet")
        else:
            name = "part-00001" if change == "changed" else "part-00007"
            inbox.deliver(f"spark/{name}.snappy.parquet", as_parquet(table.slice(0, 10)))
        return written

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_scores", meanwhile)
        result = run(inbox, "spark")
    assert result["drops"][0]["state"] == "changed" and counts(inbox) == (0, 0, 0)
    assert waiting(inbox) == ["spark"]
    assert run(inbox, "spark")["scored"] == 1
    assert counts(inbox)[2] == {"changed": 210, "gone": 200, "added": ROWS + 10}[change]


def test_a_scored_folder_can_be_scored_again_and_removed(inbox: Apex, table: pa.Table) -> None:
    deliver(inbox, "dt=2024-08-24", parts_of(table))
    run(inbox, "dt=2024-08-24")
    assert rescore(inbox.context("again"), "dt=2024-08-24").scored == 1
    assert counts(inbox) == (1, 2, 2 * ROWS)
    context = inbox.context("removal")
    remove(context, find_removable(context, ["dt=2024-08-24"], invented=False))
    assert counts(inbox) == (0, 0, 0) and [key for key in in_done(inbox) if key.endswith(".parquet")] == []


def test_a_manifest_says_which_files_are_data_and_when_all_are_there(inbox: Apex, table: pa.Table) -> None:
    apex = inbox.but(scoring__folder_complete="manifest", scoring__folder_file="manifest.json")
    files = parts_of(table)
    entries = [
        {"url": f"s3://elsewhere/unload/{name}", "meta": {"content_length": len(content)}}
        for name, content in files.items()
    ]
    deliver(apex, "unload", {"manifest.json": json.dumps({"entries": entries}).encode()}, marker="")
    *first, last = files
    for name in first:
        apex.deliver(f"unload/{name}", files[name])
    apex.deliver(f"unload/{last}", files[last][:100])
    why = list_drops(apex.context("list")).skip
    assert why == f"unload is a folder that waits for 1 file of its manifest.json, such as {last}"
    apex.deliver(f"unload/{last}", files[last])
    apex.deliver("unload/left-over.parquet", as_parquet(table.slice(0, 10)))
    assert waiting(apex) == ["unload"] and run(apex, "unload")["scored"] == 1
    assert counts(apex) == (1, 1, ROWS)


def test_a_quiet_folder_is_complete(inbox: Apex, table: pa.Table) -> None:
    apex = inbox.but(scoring__folder_complete="quiet", scoring__folder_quiet_seconds=3)
    begun = time.monotonic()
    deliver(apex, "spark", parts_of(table), marker="")
    listed = list_drops(apex.context("list"))
    if time.monotonic() - begun < 1.5:
        assert listed.folders == ("spark",) and "has changed for 3" in str(listed.skip)
    time.sleep(3.5)
    assert waiting(apex) == ["spark"] and run(apex, "spark")["scored"] == 1


def test_parts_of_other_types_are_read_exactly_or_refused(scoring: Apex, table: pa.Table) -> None:
    name = "frecuencia_visitas_cd"
    place = table.schema.get_field_index(name)
    nothing = table.slice(100, 100).set_column(place, name, pa.nulls(100))
    files = parts_of(table)
    files["part-00001.snappy.parquet"] = as_parquet(nothing)
    deliver(scoring, "nulls", files)
    result = run(scoring, "nulls")
    assert result["drops"][0]["state"] == "scored"
    odd = table.slice(100, 100).set_column(place, name, pa.array([["list"]] * 100))
    files["part-00001.snappy.parquet"] = as_parquet(odd)
    deliver(scoring, "odd", files)
    with pytest.raises(DataError, match=rf"odd: column {name} is .* in part-00000.* and list.* in part-00001"):
        run(scoring, "odd")


def test_kept_folders_are_drops_where_the_pipeline_says_so(
    scoring: Apex, moto: ObjectServer, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = in_object_store(scoring, moto, monkeypatch, scoring__after="keep", scoring__folder_complete="marker")
    files = parts_of(table)
    for name, content in files.items():
        kept.storage.put(f"incoming/run=1/{name}", content)
    listed = list_drops(kept.context("list"))
    assert listed.chunks == () and listed.folders == ("incoming/run=1",)
    kept.storage.put("incoming/run=1/_SUCCESS", b"")
    kept.storage.put("single.parquet", as_parquet(table.slice(0, 50)))
    assert sorted(waiting(kept)) == ["incoming/run=1", "single.parquet"]
    assert run(kept, "incoming/run=1", "single.parquet")["scored"] == 2
    assert waiting(kept) == [] and counts(kept) == (2, 2, ROWS + 50)
    kept.storage.put("incoming/run=1/part-00009.parquet", as_parquet(table.slice(0, 20)))
    assert waiting(kept) == ["incoming/run=1"]
    assert run(kept, "incoming/run=1")["rows_scored"] == ROWS + 20 and waiting(kept) == []
    assert kept.sql("SELECT count(*) FROM orders.scored_current") == [(ROWS + 20 + 50,)]
    kept.storage.put(f"incoming/run=1/{next(iter(files))}", as_parquet(table.slice(0, 10)))
    assert run(kept, "incoming/run=1")["rows_scored"] == ROWS - 100 + 10 + 20 and waiting(kept) == []
    assert kept.sql("SELECT count(*) FROM orders.scored_current") == [(ROWS - 70 + 50,)]
    assert rescore(kept.context("again"), "single.parquet").scored == 1


def test_what_a_killed_move_leaves_in_a_store_is_never_scored(
    scoring: Apex, moto: ObjectServer, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    apex = in_object_store(scoring, moto, monkeypatch)
    delete = ObjectStorage.delete_same
    deleted: list[str] = []

    def killed(self: ObjectStorage, key: str, expected: Any) -> bool:
        if "part-00002" in key or key.endswith("_SUCCESS"):
            raise KeyboardInterrupt
        deleted.append(key)
        return delete(self, key, expected)

    broken = parts_of(table)
    broken["part-00001.snappy.parquet"] = b"PAR1"
    for name, files, error in (("good", parts_of(table), KeyboardInterrupt), ("bad", broken, KeyboardInterrupt)):
        deliver(apex, name, files)
        with monkeypatch.context() as patched, pytest.raises(error):
            patched.setattr(ObjectStorage, "delete_same", killed)
            run(apex, name)
    assert deleted
    assert counts(apex)[2] == ROWS
    assert sorted(waiting(apex)) == ["bad", "good"]
    with pytest.raises(DataError, match="the rest of a folder that was refused"):
        run(apex, *waiting(apex))
    assert counts(apex)[2] == ROWS and waiting(apex) == []
    assert [file.key for file in apex.storage.list_all("inbox/")] == []  # type: ignore[attr-defined]


READ = ("part_1_read", "part_2_read", "part_4_read")
MOVED = ("part_copied", "part_deleted")


@pytest.fixture(scope="module")
def large(raw: Path, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts of a drop that gets a partition of its own, with rows for the quarantine."""
    path = tmp_path_factory.mktemp("large") / "whole.parquet"
    make_drop(str(raw), date(2024, 8, 24), OWN_ROWS, 8, path, contract)
    table = pq.read_table(path)
    clients = table[contract.entity].to_pylist()
    clients[5::90] = ["nobody"] * len(clients[5::90])
    return parts_of(
        table.set_column(table.schema.get_field_index(contract.entity), contract.entity, pa.array(clients)), 4
    )


@pytest.mark.parametrize(("place", "seed"), [("folder", 0), ("moto", 1), ("rclone", 2)])
def test_after_a_kill_at_any_part_the_tables_equal_an_undisturbed_run(
    scoring: Apex,
    large: dict[str, bytes],
    databases: Any,
    tmp_path: Path,
    place: str,
    seed: int,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apex = scoring
    if place != "folder":
        apex = in_object_store(scoring, request.getfixturevalue(place), monkeypatch)
    chance = random.Random(seed)
    deliver(apex, "spark", large)
    drops = json.dumps(["spark"])
    with reading(apex):
        for point in chance.sample([*READ, *BEFORE], 4):
            killed = apex.call("score", "--drops", drops, APEX_FAULT=point)
            assert killed.code == -signal.SIGKILL, (point, killed.err)
            assert counts(apex) == (0, 0, 0)
        after = ["score_committed", *(MOVED if place != "folder" else ())]
        for point in after:
            killed = apex.call("score", "--drops", drops, APEX_FAULT=point)
            assert killed.code == -signal.SIGKILL, (point, killed.err)
        assert apex.call("score", "--drops", drops).code == 0
    quiet = scoring.but(home=tmp_path / "quiet", drops_url="", **databases.migrated())
    deliver(quiet, "spark", large)
    run(quiet, "spark")
    assert tables(apex) == tables(quiet)
    assert waiting(apex) == [] and places(apex)["inbox"] == [] and apex.leftovers() == []
    assert len([key for key in in_done(apex) if key.endswith(".parquet")]) == len(large)


def test_the_command_line_of_sha256sum_gives_the_identity(scoring: Apex, table: pa.Table) -> None:
    deliver(scoring, "spark", parts_of(table))
    command = "find * -type f -name '*.parquet' | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d' ' -f1"
    shown = subprocess.check_output(["sh", "-c", command], cwd=scoring.inbox / "spark", text=True).strip()
    run(scoring, "spark")
    assert scoring.sql("SELECT sha256 FROM orders.drops") == [(shown,)]


def test_links_are_refused(scoring: Apex, table: pa.Table, tmp_path: Path) -> None:
    deliver(scoring, "spark", parts_of(table))
    elsewhere = tmp_path / "elsewhere.parquet"
    elsewhere.write_bytes(as_parquet(table))
    (scoring.inbox / "spark" / "part-00009.parquet").symlink_to(elsewhere)
    with pytest.raises(DataError, match=r"spark: part-00009\.parquet is a link to .*; deliver a folder that holds"):
        run(scoring, "spark")
    (tmp_path / "outside").mkdir()
    (scoring.inbox / "link").symlink_to(tmp_path / "outside")
    listed = list_drops(scoring.context("list"))
    assert listed.skip == "link is a link to a folder; deliver the folder itself"


def test_an_empty_folder_has_no_data(scoring: Apex) -> None:
    deliver(scoring, "nothing", {})
    with pytest.raises(DataError, match="nothing: no data files are in this folder; deliver parquet files in it"):
        run(scoring, "nothing")
    assert places(scoring)["quarantine"] == ["nothing", "nothing.reason.json"]
