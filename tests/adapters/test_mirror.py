"""A local copy of the objects below a prefix."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from apex_ml.adapters.storage import mirror as module
from apex_ml.adapters.storage.mirror import mirror
from apex_ml.adapters.storage.object_errors import StoreUnavailableError
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.contract.pipeline import Locations
from apex_ml.errors import DataError
from tests.support.object_servers import ObjectServer

ANY = 1 << 30


@pytest.fixture
def storage(moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    for name, value in moto.login.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{moto.bucket}/{uuid.uuid4().hex}"
    return open_objects(Locations(url, url, url, {url: moto.store_options()}), url)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_what_is_new_is_downloaded_and_what_is_gone_is_removed(storage: ObjectStorage, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    for key in ("a.parquet", "month=1/b.parquet", "_delta_log/0.json"):
        storage.put(key, key.encode())
    first = mirror(storage, folder, ANY)
    assert (first.objects, first.downloaded, first.removed) == (3, 3, 0)
    assert files(folder) == {key: key.encode() for key in ("a.parquet", "month=1/b.parquet", "_delta_log/0.json")}
    assert mirror(storage, folder, ANY).downloaded == 0
    storage.put("a.parquet", b"another")
    storage.put("c.parquet", b"c")
    storage.delete("month=1/b.parquet")
    second = mirror(storage, folder, ANY)
    assert (second.downloaded, second.downloaded_bytes, second.removed) == (2, 8, 2)
    assert files(folder) == {"a.parquet": b"another", "c.parquet": b"c", "_delta_log/0.json": b"_delta_log/0.json"}
    assert not (folder / "month=1").exists()


def test_a_file_that_somebody_changed_or_added_is_repaired(storage: ObjectStorage, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    storage.put("a.parquet", b"right")
    mirror(storage, folder, ANY)
    (folder / "a.parquet").write_bytes(b"short")
    (folder / "a.parquet").write_bytes(b"cut")
    (folder / "mine.parquet").write_bytes(b"mine")
    mirror(storage, folder, ANY)
    assert files(folder) == {"a.parquet": b"right"}


def test_an_interrupted_mirror_goes_on_where_it_ended(
    storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOWNLOADS", 1)
    for key in "abcd":
        storage.put(key, key.encode())
    read, broken = ObjectStorage.read, ["c"]

    def breaks(self: ObjectStorage, key: str) -> object:
        if key in broken:
            raise StoreUnavailableError(f"{key}: the connection ended")
        return read(self, key)

    monkeypatch.setattr(ObjectStorage, "read", breaks)
    with pytest.raises(StoreUnavailableError, match="c: the connection ended"):
        mirror(storage, tmp_path / "raw", ANY)
    assert {"a", "b"} <= files(tmp_path / "raw").keys()
    broken.clear()
    assert mirror(storage, tmp_path / "raw", ANY).downloaded == 2
    assert files(tmp_path / "raw") == {key: key.encode() for key in "abcd"}


def test_more_than_the_limit_is_refused_before_a_download(storage: ObjectStorage, tmp_path: Path) -> None:
    storage.put("a", bytes(1000))
    with pytest.raises(DataError, match=r"s3://\S+: 1,000 bytes are more than .*\(999: APEX_SPOOL_MB\)"):
        mirror(storage, tmp_path / "raw", 999)
    assert files(tmp_path / "raw") == {}


def test_a_key_below_an_object_cannot_be_a_file(storage: ObjectStorage, tmp_path: Path) -> None:
    storage.put("a", b"1")
    storage.put("a/b", b"2")
    with pytest.raises(DataError, match="a is an object and the beginning of another key"):
        mirror(storage, tmp_path / "raw", ANY)
