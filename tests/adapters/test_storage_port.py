"""What every storage must do, run against each implementation."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from apex_ml.adapters.storage import stores
from apex_ml.adapters.storage.local import LocalStorage
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.storage import Storage
from apex_ml.adapters.storage.stores import LOGINS, open_objects
from apex_ml.contract.pipeline import Locations
from apex_ml.errors import ConfigError, DataError, TransientError
from tests.support.object_servers import ObjectServer, moto_server

IMPLEMENTATIONS = ("folder", "moto", "rclone")
"""A folder; a server of S3 that honours conditional puts; one that ignores them."""
BYTES = b"PAR1" + bytes(range(256)) * 5000


@pytest.fixture(params=IMPLEMENTATIONS)
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "folder":
        return LocalStorage(tmp_path / "root")
    server: ObjectServer = request.getfixturevalue(request.param)
    return objects_of(server, monkeypatch)


def objects_of(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    """A prefix of its own in the server's bucket."""
    for name, value in server.login.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{server.bucket}/{uuid.uuid4().hex}"
    return open_objects(Locations(url, url, url, {url: server.store_options()}), url)


def is_atomic(storage: Storage) -> bool:
    """Whether of several writers of a free key exactly one can succeed."""
    return not isinstance(storage, ObjectStorage) or storage.honours_conditions


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
    if is_atomic(storage):
        assert sorted(results) == [False] * 7 + [True]
    assert any(results) and len(set(read(storage, "a"))) == 1 and storage.stat("a").size == 1000


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


def test_many_moves_of_one_file_lose_nothing(storage: Storage) -> None:
    storage.put("inbox/a", BYTES)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(storage.move("inbox/a", f"done/{n}"))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(results) and not storage.exists("inbox/a")
    if isinstance(storage, LocalStorage):  # a rename; elsewhere each move copies, and the last one deletes
        assert results.count(True) == 1 and len(names(storage, "done/")) == 1
    assert {read(storage, f"done/{name}") for name in names(storage, "done/")} == {BYTES}


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


# object stores alone


def test_a_server_that_ignores_conditional_puts_is_noticed(
    moto: ObjectServer, rclone: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert objects_of(moto, monkeypatch).honours_conditions
    ignorant = objects_of(rclone, monkeypatch)
    assert not ignorant.honours_conditions
    assert names(ignorant, "") == set()  # the trial leaves nothing


def test_the_state_of_a_read_is_that_of_the_bytes(moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = objects_of(moto, monkeypatch)
    storage.put("a", BYTES)
    before = storage.stat("a")
    with storage.read("a") as (file, stream):
        storage.put("a", b"another")
        assert file == before and stream.read() == BYTES
    assert storage.stat("a") != before


def test_all_objects_of_a_prefix_are_listed_from_a_key_on(moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = objects_of(moto, monkeypatch)
    for key in ("in/dt=2026-01-01/a", "in/dt=2026-01-02/a", "in/dt=2026-01-03/a", "other/b"):
        storage.put(key, key.encode())
    assert [file.key for file in storage.list_all("in/", after="in/dt=2026-01-01/a")] == [
        "in/dt=2026-01-02/a",
        "in/dt=2026-01-03/a",
    ]
    assert names(storage, "in/") == set()


def test_a_broken_connection_is_an_error_that_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apex_ml.adapters.storage.stores.RETRIES", {"max_retries": 0})
    with moto_server(tmp_path) as server:
        storage = objects_of(server, monkeypatch)
        storage.put("a", b"x")
    with pytest.raises(TransientError, match=r"s3://apex-test/\w+/a: cannot be reached for now"):
        storage.stat("a")


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apex_ml.adapters.storage.stores.RETRIES", {"max_retries": 0})
    monkeypatch.setitem(stores.HTTP_OPTIONS, "read_timeout", "1s")
    with socket.create_server(("127.0.0.1", 0)) as listener:  # it takes connections and says nothing
        server = ObjectServer("silent", f"http://127.0.0.1:{listener.getsockname()[1]}", "apex-test")
        with pytest.raises(TransientError, match="cannot be reached for now"):
            objects_of(server, monkeypatch).stat("a")


def test_errors_name_the_remedy_and_no_secret(rclone: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = objects_of(rclone, monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-of-mine")
    refused = objects_of_same(storage, rclone)
    with pytest.raises(ConfigError, match=r"access is refused .*AWS_ACCESS_KEY_ID.*in \.env") as raised:
        refused.stat("a")
    assert "another-secret-of-mine" not in str(raised.value)


def test_a_bucket_that_does_not_exist_is_named(moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    objects_of(moto, monkeypatch)
    url = "s3://no-such-bucket/drops"
    storage = open_objects(Locations(url, url, url, {url: moto.store_options()}), url)
    with pytest.raises(ConfigError, match="no such bucket"):
        list(storage.list("inbox/"))


def test_a_login_in_the_env_file_is_used_and_the_environment_wins(
    rclone: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{rclone.bucket}/{uuid.uuid4().hex}"
    for name in rclone.login:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in rclone.login.items()))
    places = Locations(url, url, url, {url: rclone.store_options()}, tmp_path / ".env")
    open_objects(places, url).put("a", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ConfigError, match="access is refused"):
        open_objects(places, url).stat("a")


def objects_of_same(storage: ObjectStorage, server: ObjectServer) -> ObjectStorage:
    url = storage.url
    return open_objects(Locations(url, url, url, {url: server.store_options()}), url)


def test_logins_of_several_clouds_in_one_file_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{name}=eA==" for names in LOGINS.values() for name in names if "CREDENTIALS" not in name]
    lines = [line for line in lines if "SERVICE_ACCOUNT" not in line] + ["AWS_PROFILE=x", "AWS_ALLOW_HTTP=true"]
    for name in (name for names in LOGINS.values() for name in names):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("\n".join(lines))
    for url in ("s3://bucket/a", "gs://bucket/a", "az://container/a", "abfss://c@account.dfs.core.windows.net/a"):
        open_objects(Locations(url, url, url, {}, tmp_path / ".env"), url)
