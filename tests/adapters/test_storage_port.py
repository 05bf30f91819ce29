"""What every storage must do, run against each implementation. An object store is one more line in IMPLEMENTATIONS."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from apex_ml.adapters.storage.local import LocalStorage
from apex_ml.adapters.storage.storage import Storage
from apex_ml.errors import DataError

IMPLEMENTATIONS: dict[str, Callable[[Path], Storage]] = {"folder": lambda folder: LocalStorage(folder / "root")}
BYTES = b"PAR1" + bytes(range(256)) * 5000


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    created: Storage = request.param(tmp_path)
    return created


def read(storage: Storage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()


def names(storage: Storage, prefix: str) -> set[str]:
    return {file.name for file in storage.list(prefix)}


def test_a_stored_file_can_be_read_listed_and_described(storage: Storage) -> None:
    storage.put("inbox/a.parquet", BYTES)
    storage.put("inbox/ñ b.parquet", b"")
    storage.put("done/c.parquet", b"c")
    assert read(storage, "inbox/a.parquet") == BYTES and read(storage, "inbox/ñ b.parquet") == b""
    files = {file.key: file for file in storage.list("inbox/")}
    assert set(files) == {"inbox/a.parquet", "inbox/ñ b.parquet"}
    assert files["inbox/a.parquet"] == storage.stat("inbox/a.parquet")
    assert files["inbox/a.parquet"].size == len(BYTES) and files["inbox/a.parquet"].name == "a.parquet"
    assert storage.exists("done/c.parquet") and not storage.exists("inbox/c.parquet")


def test_reading_is_a_stream(storage: Storage) -> None:
    storage.put("a", BYTES)
    with storage.open("a") as file:
        assert file.read(4) == b"PAR1" and file.read(3) == bytes(range(3))


@pytest.mark.parametrize("act", ["stat", "open", "copy"])
def test_a_missing_key_is_an_error(storage: Storage, act: str) -> None:
    storage.put("inbox/other", b"x")
    with pytest.raises(FileNotFoundError):
        if act == "open":
            read(storage, "inbox/none")
        elif act == "copy":
            storage.copy("inbox/none", "inbox/copy")
        else:
            storage.stat("inbox/none")
    assert names(storage, "inbox/") == {"other"}


def test_another_content_is_another_version(storage: Storage) -> None:
    storage.put("a", b"one")
    before = storage.stat("a")
    storage.put("a", b"another")
    assert storage.stat("a") != before and read(storage, "a") == b"another"


def test_put_if_absent_never_overwrites_a_file(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(BYTES)
    (tmp_path / "two").write_bytes(b"two")
    assert storage.put_if_absent("folder/a", tmp_path / "one")
    assert not storage.put_if_absent("folder/a", tmp_path / "two")
    assert read(storage, "folder/a") == BYTES and names(storage, "folder/") == {"a"}


def test_of_many_writers_of_one_key_exactly_one_succeeds(storage: Storage, tmp_path: Path) -> None:
    results: list[bool] = []
    for n in range(8):
        (tmp_path / f"source{n}").write_bytes(str(n).encode() * 1000)
    start = threading.Barrier(8)

    def write(n: int) -> None:
        start.wait()
        results.append(storage.put_if_absent("a", tmp_path / f"source{n}"))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]
    assert len(set(read(storage, "a"))) == 1 and storage.stat("a").size == 1000


def test_a_copy_keeps_the_original_and_overwrites_nothing(storage: Storage) -> None:
    storage.put("a", BYTES)
    storage.put("c", b"c")
    assert storage.copy("a", "deep/b") and not storage.copy("a", "c")
    assert read(storage, "a") == read(storage, "deep/b") == BYTES and read(storage, "c") == b"c"


def test_delete_is_repeatable(storage: Storage) -> None:
    storage.put("a", b"x")
    storage.delete("a")
    storage.delete("a")
    assert not storage.exists("a")


def test_a_move_leaves_the_file_in_one_place(storage: Storage) -> None:
    storage.put("inbox/a", BYTES)
    assert storage.move("inbox/a", "done/a")
    assert not storage.exists("inbox/a") and read(storage, "done/a") == BYTES
    assert not storage.move("inbox/a", "done/b") and not storage.exists("done/b")


def test_a_move_only_moves_the_expected_file(storage: Storage) -> None:
    storage.put("inbox/a", b"scored")
    scored = storage.stat("inbox/a")
    storage.put("inbox/a", b"delivered since then")
    assert not storage.move("inbox/a", "done/a", expected=scored)
    assert read(storage, "inbox/a") == b"delivered since then" and not storage.exists("done/a")
    assert storage.move("inbox/a", "done/a", expected=storage.stat("inbox/a"))


def test_only_one_of_many_moves_succeeds(storage: Storage) -> None:
    storage.put("inbox/a", BYTES)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(storage.move("inbox/a", f"done/{n}"))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(True) == 1 and len(names(storage, "done/")) == 1


# folders alone: links, and names that leave the root


def test_a_key_stays_below_the_root(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for key in ("../a", "/etc/passwd", "a/../../b"):
        with pytest.raises(ValueError, match="no key below"):
            storage.put(key, b"x")


def test_folders_are_not_listed_and_a_broken_link_is(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    (tmp_path / "inbox" / "folder").mkdir(parents=True)
    (tmp_path / "inbox" / "link").symlink_to(tmp_path / "nothing")
    (tmp_path / "inbox" / "to-folder").symlink_to(tmp_path / "inbox" / "folder")
    assert names(storage, "inbox/") == {"link"} and storage.exists("inbox/link")
    with pytest.raises(DataError, match="link to nothing"):
        read(storage, "inbox/link")


def test_a_moved_file_never_overwrites_a_replacement(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("inbox/a", b"first")
    expected = replace(storage.stat("inbox/a"), size=1)
    assert not storage.move("inbox/a", "done/a", expected=expected)
    assert names(storage, "inbox/") == {"a"}


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(FileNotFoundError):
        storage.put_if_absent("inbox/a", tmp_path / "nothing")
    assert os.listdir(tmp_path / "inbox") == []
