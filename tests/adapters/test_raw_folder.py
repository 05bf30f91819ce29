"""Which files of a raw folder are data: links, commit markers and table formats; what is not read is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from apex_ml.adapters.storage.drops import Inbox
from apex_ml.adapters.storage.files import UnreadableError, name_errors
from apex_ml.adapters.storage.path_keys import path_keys
from apex_ml.adapters.storage.raw_folder import RawFiles, raw_files
from apex_ml.errors import ConfigError, DataError
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from tests.support.apex_home import context_of

OLD, NEW, LOST = (f"part-00000-tid-{n}-c000.snappy.parquet" for n in (1, 2, 3))
SETTING = "APEX_RAW_URL"
NO_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Beginning of a command for which permission bits hold, also for root."""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def put(folder: Path, *names: str, text: str = "") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def raw_files_of(folder: Path, columns: tuple[str, ...] = ()) -> RawFiles:
    return raw_files(folder, SETTING, columns)


def names(files: RawFiles) -> list[str]:
    return [files.name(path) for path in files.files]


def test_a_link_to_a_folder_elsewhere_is_followed_and_reported(raw: Path, tmp_path: Path) -> None:
    put(raw, "2024-06/part-00000.parquet")
    put(tmp_path / "nas", "2024-07/part-00000.parquet", "2024-07/deep/part-00000.parquet", "one.parquet")
    (raw / "2024-07").symlink_to(tmp_path / "nas" / "2024-07")
    (raw / "file.parquet").symlink_to(tmp_path / "nas" / "one.parquet")
    files = raw_files_of(raw)
    assert names(files) == [
        "2024-06/part-00000.parquet", "2024-07/deep/part-00000.parquet", "2024-07/part-00000.parquet", "file.parquet",
    ]  # fmt: skip
    assert files.links == {
        "2024-07": str(tmp_path / "nas" / "2024-07"), "file.parquet": str(tmp_path / "nas" / "one.parquet"),
    }  # fmt: skip
    assert files.left_out == {}


def test_circular_and_repeated_links_are_left_out_and_reported(raw: Path, tmp_path: Path) -> None:
    put(raw, "month/a.parquet")
    put(tmp_path / "nas", "b.parquet")
    links = {
        "a-link": raw / "month", "month/up": raw, "above": tmp_path, "nas": tmp_path / "nas",
        "nas-again": tmp_path / "nas", "root": Path("/"),
    }  # fmt: skip
    for name, target in links.items():
        (raw / name).symlink_to(target)
    (tmp_path / "nas" / "round").symlink_to(tmp_path / "nas")
    files = raw_files_of(raw)
    assert names(files) == ["month/a.parquet", "nas/b.parquet"]
    assert files.left_out == {
        "a-link": "a link to month, which is read already",
        "above": f"a link to {tmp_path}, which holds this folder",
        "month/up": "a link to the folder itself, which is read already",
        "nas-again": "a link to nas, which is read already",
        "nas/round": "a link to nas, which is read already",
        "root": "a link to /, which holds this folder",
    }


def test_a_link_to_nothing_is_a_file_that_cannot_be_read(raw: Path) -> None:
    put(raw, "a.parquet")
    (raw / "gone").symlink_to(raw / "nowhere")
    (raw / "itself").symlink_to(raw / "itself")
    assert names(raw_files_of(raw)) == ["a.parquet", "gone", "itself"]


def test_the_raw_folder_itself_may_be_a_link(raw: Path, tmp_path: Path) -> None:
    put(raw, "a/part-00000.parquet")
    (tmp_path / "link").symlink_to(raw)
    assert names(raw_files_of(tmp_path / "link")) == ["a/part-00000.parquet"]


def test_files_without_a_databricks_commit_are_left_out(raw: Path) -> None:
    extra = "part-00001-tid-2-c000.snappy.parquet"
    put(raw, OLD, NEW, LOST, extra, "own.parquet", "_started_1", "_started_2", "_started_3", "_SUCCESS")
    put(raw, "_committed_1", text=json.dumps({"added": [OLD], "removed": []}))
    put(raw, "_committed_2", text=json.dumps({"added": [NEW, "part-9-tid-2-.parquet"], "removed": [OLD]}))
    files = raw_files_of(raw)
    assert names(files) == ["own.parquet", NEW]
    assert files.left_out == {
        OLD: "_committed_2 lists it as removed",
        LOST: "_started_3 was never committed",
        extra: "_committed_2 does not list it",
        "part-9-tid-2-.parquet": "a commit marker lists it, and it is not there",
    }


def test_markers_apply_to_their_own_folder(raw: Path) -> None:
    put(raw, f"a/{OLD}", f"b/{OLD}", "a/_started_1")
    assert names(raw_files_of(raw)) == [f"b/{OLD}"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"added": "x"}', '{"removed": [1]}'])
def test_a_marker_that_cannot_be_read_is_named(raw: Path, text: str) -> None:
    put(raw, f"month/{OLD}", "month/_started_1")
    put(raw, "month/_committed_1", text=text)
    with pytest.raises(DataError, match=r"^month/_committed_1: cannot be read .*remove its markers"):
        raw_files_of(raw)


def commit(folder: Path, version: int, *actions: dict[str, Any]) -> None:
    put(folder, f"_delta_log/{version:020d}.json", text="\n".join(map(json.dumps, actions)) + "\n")


def add(path: str, **more: Any) -> dict[str, Any]:
    return {"add": {"path": path, "dataChange": True, **more}}


def remove(path: str) -> dict[str, Any]:
    return {"remove": {"path": path, "dataChange": True}}


PROTOCOL = {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}


def meta(columns: tuple[str, ...] = (), **configuration: str) -> dict[str, Any]:
    return {"metaData": {"id": "1", "partitionColumns": list(columns), "configuration": configuration}}


def test_the_files_of_a_delta_tables_newest_version_are_read(raw: Path) -> None:
    put(
        raw,
        "plain.parquet",
        f"t/{OLD}",
        f"t/{NEW}",
        "t/day=1 x/p.parquet",
        "t/day=2/p.parquet",
        "t/_change_data/c.parquet",
    )
    commit(raw / "t", 0, PROTOCOL, meta(("day",)), add(OLD), add("day=1%20x/p.parquet"))
    commit(raw / "t", 1, remove(OLD), add(NEW), {"commitInfo": {"operation": "WRITE"}})
    put(raw, "t/_delta_log/00000000000000000001.checkpoint.parquet", "t/_delta_log/_last_checkpoint")
    files = raw_files_of(raw, columns=("client",))
    assert names(files) == ["plain.parquet", "t/day=1 x/p.parquet", f"t/{NEW}"]
    assert files.left_out == {
        f"t/{OLD}": "version 1 of the Delta table does not list it",
        "t/day=2/p.parquet": "version 1 of the Delta table does not list it",
        "t/_change_data": "a folder whose name begins with _ or . is never data",
    }


def test_a_delta_table_is_partitioned_by_columns_in_its_folders(raw: Path) -> None:
    folders = {"client=a": "a", "client=b%252Fc": "b/c", "client=__HIVE_DEFAULT_PARTITION__": None}
    commit(raw / "t", 0, PROTOCOL, meta(("client",)))
    for version, (folder, value) in enumerate(folders.items(), 1):
        put(raw, f"t/{unquote(folder)}/p.parquet")
        commit(raw / "t", version, add(f"{folder}/p.parquet", partitionValues={"client": value}))
    files = raw_files_of(raw, columns=("client", "day"))
    assert [path_keys(name)["client"] for name in names(files)] == [None, "a", "b/c"]


def no_zero(t: Path) -> None:
    commit(t, 7, add(NEW))


def only_checkpoint(t: Path) -> None:
    put(t, "_delta_log/00000000000000000010.checkpoint.parquet")


def newer_checkpoint(t: Path) -> None:
    commit(t, 0, add(NEW))
    put(t, "_delta_log/00000000000000000003.checkpoint.parquet")


def catalog(t: Path) -> None:
    commit(t, 0, add(NEW))
    put(t, "_delta_log/_staged_commits/00000000000000000001.x.json")


DELTA: dict[str, Callable[[Path], None]] = {
    "a part of its log is in checkpoints only": no_zero,
    "a part of its log is in checkpoints only, which cannot": only_checkpoint,
    "a part of its log is in checkpoints": newer_checkpoint,
    "its commits are coordinated by a catalog": catalog,
    "it has deletion vectors": lambda t: commit(t, 0, add(NEW, deletionVector={"storageType": "u"})),
    "its columns are mapped": lambda t: commit(t, 0, meta(**{"delta.columnMapping.mode": "name"}), add(NEW)),
    "it is partitioned by client, which neither": lambda t: commit(t, 0, meta(("day", "client")), add(NEW)),
    "it is partitioned by client, which neither client=b": lambda t: commit(
        t, 0, meta(("client",)), add("client=b/p.parquet", partitionValues={"client": "a"})
    ),
    "it needs liquid": lambda t: commit(
        t, 0, {"protocol": {"minReaderVersion": 3, "readerFeatures": ["timestampNtz", "liquid"]}}, add(NEW)
    ),
    "its files are outside its folder": lambda t: commit(t, 0, add("s3://bucket/a.parquet")),
}


@pytest.mark.parametrize("why", DELTA)
def test_a_delta_table_that_needs_more_is_refused_with_the_remedy(raw: Path, why: str) -> None:
    put(raw, "plain.parquet", f"t/{NEW}")
    DELTA[why](raw / "t")
    with pytest.raises(DataError, match=rf"^t: is a Delta table that Apex does not read \({why}.*export it as plain"):
        raw_files_of(raw, columns=("client",))


def test_a_delta_table_without_one_of_its_files_is_refused(raw: Path) -> None:
    put(raw, NEW)
    commit(raw, 0, add(NEW), add("gone.parquet"))
    with pytest.raises(DataError, match=r"1 file that its log lists cannot be found, such as gone\.parquet"):
        raw_files_of(raw)


def hudi(raw: Path) -> None:
    put(raw, "t/.hoodie/hoodie.properties", "t/a.parquet")


def hudi_partition(raw: Path) -> None:
    put(raw, "t/.hoodie_partition_metadata", "t/a.parquet")


def iceberg(raw: Path) -> None:
    put(raw, "t/metadata/00000-aa.metadata.json", "t/data/a.parquet")


@pytest.mark.parametrize(
    ("make", "kind"), [(hudi, "a Hudi table"), (hudi_partition, "a Hudi table"), (iceberg, "an Iceberg table")]
)
def test_other_table_formats_are_refused(raw: Path, make: Callable[[Path], None], kind: str) -> None:
    make(raw)
    with pytest.raises(DataError, match=f"^t: is {kind} that Apex does not read .*export it as plain parquet"):
        raw_files_of(raw)


@pytest.mark.parametrize("make", [hudi, iceberg, lambda raw: commit(raw / "t", 0, add("data/a.parquet"))])
def test_a_folder_inside_a_table_is_refused(raw: Path, make: Callable[[Path], None]) -> None:
    make(raw)
    put(raw, "t/data/a.parquet")
    with pytest.raises(DataError, match=r"APEX_RAW_URL=.*t/data: is inside .* table, .*raw/t, whose log"):
        raw_files_of(raw / "t" / "data")


def test_uncommitted_files_of_a_stream_are_left_out(raw: Path) -> None:
    put(raw, "a.parquet", "b.parquet", "day=1/c.parquet", "d.parquet")
    entry = '{{"path":"file:///lake/out/{}","size":1,"action":"{}"}}'
    put(raw, "_spark_metadata/0", text="v1\n" + entry.format("d.parquet", "add"))
    first = "\n".join(entry.format(name, "add") for name in ("a.parquet", "b.parquet"))
    put(raw, "_spark_metadata/1.compact", text=f"v1\n{first}\n{entry.format('b.parquet', 'delete')}")
    put(raw, "_spark_metadata/2", text="v1\n" + entry.format("day=1/c.parquet", "add"))
    files = raw_files_of(raw)
    assert names(files) == ["a.parquet", "day=1/c.parquet"] and sorted(files.left_out) == ["b.parquet", "d.parquet"]


def test_hidden_data_is_reported_and_the_reasons_are_in_the_message(raw: Path) -> None:
    put(raw, "_temporary/0/a.parquet", "b.parquet.filepart", "_SUCCESS", ".b.parquet.crc")
    with pytest.raises(
        DataError, match=r"no data files; .*; _temporary: a folder whose name .*; b\.parquet\.filepart: "
    ):
        raw_files_of(raw)
    put(raw, "a.parquet")
    assert sorted(raw_files_of(raw).left_out) == ["_temporary", "b.parquet.filepart"]


@pytest.mark.parametrize("below", ["", "/raw"])
def test_a_location_that_names_a_file_says_so(tmp_path: Path, below: str) -> None:
    file = tmp_path / "orders.parquet"
    file.touch()
    message = "this" if not below else str(file)
    with pytest.raises(
        DataError, match=rf"APEX_RAW_URL={file}{below}: {message} is a file, no folder; set APEX_RAW_URL to"
    ):
        raw_files_of(Path(f"{file}{below}"))
    settings = Settings.load(home=tmp_path / "home", drops_url=f"{file}{below}", processed_url=f"{file}{below}")
    with pytest.raises(ConfigError, match=rf"locations.drops={file}{below}: {file} is a file, no folder"):
        Inbox(load_pipeline(settings))
    with pytest.raises(ConfigError, match=rf"locations.processed={file}{below}: {file} is a file, no folder"):
        context_of(settings, "night").output("validate")


@pytest.mark.parametrize("kind", [DataError, UnreadableError])
def test_errors_show_a_file_by_its_relative_path(kind: type[DataError], raw: Path) -> None:
    path = raw / "day=1" / "part-00000.parquet"
    with pytest.raises(kind, match=r"^day=1/part-00000\.parquet: a truncated"):
        with name_errors(path, "day=1/part-00000.parquet"):
            raise kind("part-00000.parquet: a truncated parquet file")


def test_an_unreadable_folder_is_not_an_empty_one(raw: Path) -> None:
    put(raw, "open/a.parquet", "closed/b.parquet")
    (raw / "closed").chmod(0)
    code = (
        "from pathlib import Path; from apex_ml.adapters.storage.raw_folder import data_files; "
        f"data_files(Path({str(raw)!r}), 'X')"
    )
    command = [*(NO_RIGHTS if os.geteuid() == 0 else []), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (raw / "closed").chmod(0o755)
    assert "DataError: closed: cannot be read (Permission denied)" in done.stderr
