"""Delta tables that deltalake writes, as raw files."""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from apex_ml.adapters.storage import delta_log, table_mirror
from apex_ml.adapters.storage.delta_log import DeltaVersion
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.path_keys import path_keys
from apex_ml.adapters.storage.raw_folder import RawFiles, raw_files
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.adapters.storage.table_files import table_format
from apex_ml.adapters.storage.table_mirror import mirror_delta
from apex_ml.contract.pipeline import Locations
from apex_ml.errors import ConfigError, DataError
from tests.support.object_servers import ObjectServer

VALUES = ["plain", "two words", "á/b=%", None]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of five versions, partitioned by a column of odd texts."""
    folder = tmp_path / "orders"
    rows = pa.table({"id": range(4), "client": VALUES})
    write_deltalake(folder, rows, partition_by=["client"])
    for _ in range(3):
        write_deltalake(folder, rows, mode="append")
    DeltaTable(folder).optimize.compact()
    return folder


def read(folder: Path, columns: Sequence[str] = ("id", "client")) -> RawFiles:
    return raw_files(folder, "locations.raw", columns)


def drop_commits(table: Path, until: int) -> None:
    """Remove commits, as the writer does when a checkpoint has them and their time is over."""
    for version in range(until):
        (table / "_delta_log" / f"{version:020d}.json").unlink()


def test_the_newest_version_is_read_and_named(table: Path) -> None:
    files = read(table)
    (version,) = files.tables.values()
    known = DeltaTable(table)
    assert (version.format, version.table_id, version.version) == ("delta", str(known.metadata().id), 4)
    assert version.committed_at is not None
    assert round(version.committed_at.timestamp() * 1000) == known.history(1)[0]["timestamp"]
    assert len(files.files) == 4 and len(files.left_out) == 16
    keys = [path_keys(files.name(path))["client"] for path in files.files]
    assert sorted(keys, key=str) == sorted(VALUES, key=str)


def test_a_log_that_begins_in_a_checkpoint_names_the_same_files(table: Path) -> None:
    before = read(table)
    DeltaTable(table).create_checkpoint()
    drop_commits(table, 4)
    assert read(table) == before
    write_deltalake(table, pa.table({"id": [9], "client": ["two words"]}), mode="append")
    files = read(table)
    assert files.tables[""].version == 5 and set(files.files) > set(before.files)


@pytest.mark.parametrize("kind", [pa.int32(), pa.date32(), pa.float64(), pa.bool_(), pa.timestamp("us", "UTC")])
def test_values_of_partitions_from_a_checkpoint_are_those_of_the_folders(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["true", "false"] if kind == pa.bool_() else ["2026-01-02", "2026-12-31"]
    texts = ["1", "-7"] if kind in (pa.int32(), pa.float64()) else texts
    values = pa.array(texts).cast(pa.timestamp("us") if pa.types.is_timestamp(kind) else kind).cast(kind)
    write_deltalake(tmp_path / "t", pa.table({"day": values, "id": [1, 2]}), partition_by=["day"])
    before = read(tmp_path / "t", ["day"])
    write_deltalake(tmp_path / "t", pa.table({"day": values, "id": [3, 4]}), mode="append")
    DeltaTable(tmp_path / "t").create_checkpoint()
    drop_commits(tmp_path / "t", 1)
    assert len(read(tmp_path / "t", ["day"]).files) == 2 * len(before.files) == 4


def test_deleted_rows_are_refused_from_a_checkpoint_too(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DeltaTable(table).create_checkpoint()
    drop_commits(table, 4)

    class WithVectors(DeltaTable):
        def protocol(self) -> Any:
            return super().protocol()._replace(reader_features=["deletionVectors"])

        def deletion_vectors(self) -> Any:
            return pa.table({"path": ["x"]}).to_reader()

    monkeypatch.setattr("deltalake.DeltaTable", WithVectors)
    with pytest.raises(DataError, match="it has deletion vectors"):
        read(table)


def test_without_the_package_only_a_log_without_checkpoints_is_read(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def refuse(name: str, *arguments: Any, **more: Any) -> Any:
        if name.partition(".")[0] in ("deltalake", "pyiceberg"):
            raise ImportError(name)
        return imported(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert read(table).tables[""].version == 4
    monkeypatch.undo()
    DeltaTable(table).create_checkpoint()
    drop_commits(table, 4)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"orders: a Delta table whose log .* pip install 'apex-ml\[tables\]'"):
        read(table)


def test_a_vacuumed_file_of_the_version_is_missing(table: Path) -> None:
    files = read(table)
    files.files[0].unlink()
    with pytest.raises(DataError, match="1 file that its log lists cannot be found"):
        read(table)


@pytest.fixture(params=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> ObjectServer:
    return request.getfixturevalue(request.param)


def written_to(server: ObjectServer) -> tuple[str, dict[str, str]]:
    options = {**server.environment, "AWS_ALLOW_HTTP": "true", "AWS_S3_ALLOW_UNSAFE_RENAME": "true"}
    return f"s3://{server.bucket}/{uuid.uuid4().hex}", options


def opened(server: ObjectServer, url: str) -> ObjectStorage:
    with server.logged_in():
        return open_objects(Locations(url, url, url, {url: server.store_options()}), url)


def test_of_a_table_in_a_store_only_the_files_of_its_version_are_copied(server: ObjectServer, tmp_path: Path) -> None:
    url, options = written_to(server)
    rows = pa.table({"id": range(4), "client": VALUES})
    write_deltalake(url, rows, partition_by=["client"], storage_options=options)
    write_deltalake(url, rows, mode="append", storage_options=options)
    write_deltalake(url, rows, mode="overwrite", storage_options=options)
    storage = opened(server, url)
    assert table_format(storage) == "delta"
    mirror_delta(storage, tmp_path / "t", 1 << 30)
    files = read(tmp_path / "t")
    assert files.tables[""].version == 2 and not files.left_out
    ids = {path_keys(files.name(path))["client"]: pq.ParquetFile(path).read()["id"].to_pylist() for path in files.files}
    assert ids == {value: [number] for number, value in enumerate(VALUES)}
    write_deltalake(url, rows, mode="append", storage_options=options)
    DeltaTable(url, storage_options=options).create_checkpoint()
    for old in range(4):
        storage.delete(f"_delta_log/{old:020d}.json")
    assert mirror_delta(storage, tmp_path / "t", 1 << 30).downloaded == 4
    assert read(tmp_path / "t").tables[""].version == 3 and len(read(tmp_path / "t").files) == 8


def test_a_version_is_fixed_while_a_writer_goes_on(
    moto: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, options = written_to(moto)
    write_deltalake(url, pa.table({"id": [1]}), storage_options=options)
    storage, read_log = opened(moto, url), delta_log.read_version

    def then_overwritten(folder: Path, shown: str) -> DeltaVersion | None:
        version = read_log(folder, shown)
        write_deltalake(url, pa.table({"id": [2]}), mode="overwrite", storage_options=options)
        return version

    monkeypatch.setattr(table_mirror, "read_version", then_overwritten)
    mirror_delta(storage, tmp_path / "t", 1 << 30)
    files = read(tmp_path / "t")
    assert files.tables[""].version == 0 and pq.read_table(files.files[0])["id"].to_pylist() == [1]

    def then_vacuumed(folder: Path, shown: str) -> DeltaVersion | None:
        version = read_log(folder, shown)
        assert version is not None
        for path in version.files:
            storage.delete(path)
        return version

    monkeypatch.setattr(table_mirror, "read_version", then_vacuumed)
    with pytest.raises(DataError, match=r"1 of 1 files of version 1 are gone, such as part-.* run again"):
        mirror_delta(storage, tmp_path / "t", 1 << 30)
