"""Iceberg tables that pyiceberg writes, as raw files."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.expressions import EqualTo
from pyiceberg.manifest import DataFileContent
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType

from apex_ml.adapters.storage import iceberg_raw
from apex_ml.adapters.storage.iceberg_raw import copy_iceberg
from apex_ml.adapters.storage.raw_folder import RawFiles, raw_files
from apex_ml.adapters.storage.storage import Storage
from apex_ml.adapters.storage.stores import open_storage
from apex_ml.adapters.storage.table_files import table_format
from apex_ml.contract.pipeline import Locations
from apex_ml.errors import DataError
from tests.support.iceberg_tables import add_deletes, new_catalog, new_table, place_of
from tests.support.object_servers import ObjectServer

ANY = 1 << 30
VALUES = ["plain", "two words", "á/b=%", None]
ROWS = pa.table({"id": pa.array(range(4), pa.int64()), "client": VALUES})


def opened(table: Table, server: ObjectServer | None = None) -> tuple[Storage, str]:
    url = place_of(table)
    if server is None:
        return open_storage(Locations(url, url, url), url, "raw"), url
    with server.logged_in():
        return open_storage(Locations(url, url, url, {url: server.store_options()}), url, "raw"), url


def uploaded(table: Table, server: ObjectServer) -> tuple[Storage, str]:
    """A copy of a table in a folder."""
    folder, url = Path(place_of(table)), f"s3://{server.bucket}/{uuid.uuid4().hex}/claims"
    with server.logged_in():
        storage = open_storage(Locations(url, url, url, {url: server.store_options()}), url, "raw")
    for path in folder.rglob("*"):
        if path.is_file():
            storage.put(path.relative_to(folder).as_posix(), path.read_bytes())
    return storage, url


def copied(table: Table, folder: Path) -> RawFiles:
    copy_iceberg(*opened(table), folder, ANY)
    return raw_files(folder, "locations.raw", ("id", "client"))


def rows_of(files: RawFiles) -> list[dict[str, Any]]:
    rows = [row for path in files.files for row in pq.ParquetFile(path).read().to_pylist()]
    return sorted(rows, key=lambda row: row["id"])


@pytest.mark.parametrize("place", ["folder", "moto", "rclone"])
def test_the_rows_of_the_current_snapshot_are_read_and_named(
    place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = None if place == "folder" else request.getfixturevalue(place)
    # pyiceberg cannot write to the server of rclone: what it wrote into a folder is copied there
    writes = server if place == "moto" else None
    table = new_table(new_catalog(tmp_path, writes), "claims", ROWS, {"client": IdentityTransform()})
    table.append(pa.table({"id": [7], "client": ["two words"]}))
    table.overwrite(ROWS.slice(0, 2), overwrite_filter="id < 4")
    table.append(pa.table({"id": [8], "client": [None]}, schema=ROWS.schema))
    if place == "rclone":
        assert server is not None
        storage, url = uploaded(table, server)
    else:
        storage, url = opened(table, server)
    assert table_format(storage) == "iceberg"
    copy_iceberg(storage, url, tmp_path / "copies", ANY)
    files = raw_files(tmp_path / "copies", "locations.raw", ("id", "client"))
    (version,) = files.tables.values()
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert (version.format, version.name, version.version) == ("iceberg", "claims", snapshot.snapshot_id)
    assert version.table_id == str(table.metadata.table_uuid)
    assert version.committed_at is not None
    assert round(version.committed_at.timestamp() * 1000) == snapshot.timestamp_ms
    expected = [*ROWS.slice(0, 2).to_pylist(), {"id": 7, "client": "two words"}, {"id": 8, "client": None}]
    assert rows_of(files) == expected


def test_renamed_and_added_columns_are_those_of_the_table_now(tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", ROWS)
    with table.update_schema() as update:
        update.rename_column("client", "who")
    with table.update_schema() as update:
        update.add_column("client", LongType())  # a new column with the former name of another one
    table.append(pa.table({"id": [9], "who": ["new"], "client": [5]}))
    old = [{"id": number, "who": value, "client": None} for number, value in enumerate(VALUES)]
    assert rows_of(copied(table, tmp_path / "copies")) == [*old, {"id": 9, "who": "new", "client": 5}]


def test_only_new_data_files_are_read_and_former_copies_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = new_table(new_catalog(tmp_path), "claims", ROWS)
    written: list[str] = []
    write = iceberg_raw.write_tasks

    def noted(table: Table, url: str, tasks: list[Any], path: Path) -> None:
        written.extend(task.file.file_path for task in tasks)
        write(table, url, tasks, path)

    monkeypatch.setattr(iceberg_raw, "write_tasks", noted)
    first = copied(table, tmp_path / "copies")
    table.append(ROWS)
    second = copied(table, tmp_path / "copies")
    assert len(written) == 2 and set(second.files) > set(first.files)
    table.delete(EqualTo("id", 1))
    third = copied(table, tmp_path / "copies")
    assert len(written) == 4 and not set(third.files) & set(second.files)
    assert [row["id"] for row in rows_of(third)] == [0, 0, 2, 2, 3, 3]


def test_a_table_that_was_copied_to_another_folder_is_read(tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", ROWS)
    there = tmp_path / "there"
    shutil.move(place_of(table), there)
    storage = open_storage(Locations("", "", ""), str(there), "raw")
    copy_iceberg(storage, str(there), tmp_path / "copies", ANY)
    files = raw_files(tmp_path / "copies", "raw")
    assert rows_of(files) == ROWS.to_pylist() and files.tables[""].name == "there"


def test_rows_that_a_delete_file_names_are_left_out(tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", ROWS)
    assert len(rows_of(copied(table, tmp_path / "copies"))) == 4
    (path,) = (task.file.file_path for task in table.scan().plan_files())
    deletes = pa.table({"file_path": [path], "pos": pa.array([2], pa.int64())})
    add_deletes(table, deletes, DataFileContent.POSITION_DELETES)
    assert [row["id"] for row in rows_of(copied(table, tmp_path / "copies"))] == [0, 1, 3]
    add_deletes(table, pa.table({"id": pa.array([1], pa.int64())}), DataFileContent.EQUALITY_DELETES)
    with pytest.raises(DataError, match=r"does not read \(it has equality deletes\)"):
        copied(table, tmp_path / "copies")


def damage_none(folder: Path) -> None:
    for path in (folder / "metadata").glob("*.metadata.json"):
        path.write_text("{}")


def two_newest(folder: Path) -> None:
    newest = max((folder / "metadata").glob("*.metadata.json"))
    shutil.copy(newest, newest.with_name(f"{newest.name[:5]}-other.metadata.json"))


def vacuum(folder: Path) -> None:
    next((folder / "data").rglob("*.parquet")).unlink()


def expire(folder: Path) -> None:
    next((folder / "metadata").glob("snap-*.avro")).unlink()


DAMAGES = {
    r"metadata\.json cannot be read": damage_none,
    r"00001-\S+ and 00001-\S+ may both be its newest metadata, and without its catalog": two_newest,
    r"a file of its current snapshot is gone \(.*run again": vacuum,
    r"a file of its current snapshot is gone \(.*expired while it was read": expire,
}


@pytest.mark.parametrize("why", DAMAGES)
def test_a_table_that_cannot_be_read_says_why(why: str, tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", ROWS)
    DAMAGES[why](Path(place_of(table)))
    with pytest.raises(DataError, match=why):
        copied(table, tmp_path / "copies")
    assert not list((tmp_path / "copies").glob("*.parquet"))


def test_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", ROWS)
    with pytest.raises(DataError, match=r"bytes are more than .* \(10: APEX_SPOOL_MB\)"):
        copy_iceberg(*opened(table), tmp_path / "copies", 10)


def test_the_hint_of_a_table_without_a_catalog_names_its_metadata(tmp_path: Path) -> None:
    table = new_table(new_catalog(tmp_path), "claims", ROWS)
    metadata = Path(place_of(table), "metadata")
    two_newest(metadata.parent)
    (metadata / "version-hint.text").write_text(table.metadata_location.rpartition("/")[2])
    assert rows_of(copied(table, tmp_path / "copies")) == ROWS.to_pylist()
