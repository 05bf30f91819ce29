"""What every storage must do, run against each implementation."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from obstore.store import AzureStore, MemoryStore

from apex_ml.adapters.storage import stores
from apex_ml.adapters.storage.local import LocalStorage
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.storage import Storage
from apex_ml.adapters.storage.stores import LOGINS, open_objects
from apex_ml.contract.locations import StoreOptions
from apex_ml.contract.pipeline import Locations
from apex_ml.errors import ConfigError, DataError, TransientError
from tests.support.object_servers import ObjectServer, moto_server

IMPLEMENTATIONS = ("folder", "moto", "rclone", "google", "memory")
"""A folder; a server of S3 that honours conditional puts; one that ignores them; Google's interface in front of the
first; the store in memory of obstore."""
BYTES = b"PAR1" + bytes(range(256)) * 5000


@pytest.fixture(params=IMPLEMENTATIONS)
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "folder":
        return LocalStorage(tmp_path / "root")
    if request.param == "memory":
        return ObjectStorage(MemoryStore(), "memory://")
    server: ObjectServer = request.getfixturevalue(request.param)
    return objects_of(server, monkeypatch)


def objects_of(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    """A prefix of its own in the server's bucket."""
    for name, value in server.login.items():
        monkeypatch.setenv(name, value)
    url = server.url
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


@pytest.mark.parametrize("kind", ["moto", "google", "memory"])
def test_a_large_file_is_uploaded_in_parts(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"0123456789abcdef" * (1 << 20)
    (tmp_path / "large").write_bytes(content)
    storage = ObjectStorage(MemoryStore(), "memory://")
    if kind != "memory":
        storage = objects_of(request.getfixturevalue(kind), monkeypatch)
    for _ in range(2):  # the second replaces the first
        storage.put_file("a/large", tmp_path / "large")
    assert storage.stat("a/large").size == len(content) and read(storage, "a/large") == content


@pytest.mark.parametrize("kind", ["moto", "google"])
def test_the_state_of_an_object_is_the_same_in_every_answer(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers about one object hold its version, and listings do not, as of a bucket that keeps versions."""
    server: ObjectServer = request.getfixturevalue(kind)
    if kind == "moto":
        bucket = f"versions-{uuid.uuid4().hex[:8]}"
        with server.logged_in():
            store = boto3.client("s3")
            store.create_bucket(Bucket=bucket)
            store.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        server = replace(server, bucket=bucket)
    storage = objects_of(server, monkeypatch)
    storage.put("inbox/a", b"one")
    storage.put("inbox/a", b"two")
    (listed,) = storage.list("inbox/")
    (deep,) = storage.list_all("inbox/")
    with storage.read("inbox/a") as (opened, _):
        assert listed == deep == opened == storage.stat("inbox/a")
    assert storage.move("inbox/a", "done/a", expected=listed) and read(storage, "done/a") == b"two"


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


@pytest.mark.parametrize(
    ("url", "prefix", "account"),
    [
        ("az://lake/claims/drops", "claims/drops", "of-env"),
        ("azure://lake/claims", "claims", "of-env"),
        ("abfs://lake/claims", "claims", "of-env"),
        ("abfss://lake@mine.dfs.core.windows.net/claims/drops", "claims/drops", "mine"),
        ("abfs://lake@mine.dfs.core.windows.net/claims", "claims", "mine"),
    ],
)
@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:10000/of-env"])
def test_a_location_of_azure_is_opened_by_its_container_and_account(
    url: str, prefix: str, account: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LOGINS["az"]:
        monkeypatch.delenv(name, raising=False)
    login = {"AZURE_STORAGE_ACCOUNT_NAME": "of-env", "AZURE_STORAGE_ACCOUNT_KEY": "eA=="}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in login.items()))
    options = {url: StoreOptions(endpoint=endpoint)}
    store = open_objects(Locations(url, url, url, options, tmp_path / ".env"), url).store
    assert isinstance(store, AzureStore) and store.prefix == prefix
    assert (store.config.get("container_name"), store.config.get("account_name")) == ("lake", account)
    assert store.config.get("account_key") == "eA==" and store.config.get("endpoint", "") == endpoint


@pytest.mark.parametrize(
    ("login", "key"),
    [
        ({"AZURE_STORAGE_SAS_TOKEN": "sv=2024&sig=x"}, "sas_key"),
        (
            {"AZURE_CLIENT_ID": "a", "AZURE_CLIENT_SECRET": "b", "AZURE_TENANT_ID": "c"},
            "client_secret",
        ),
    ],
)
def test_every_login_of_azure_is_passed_on(
    login: dict[str, str], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LOGINS["az"]:
        monkeypatch.delenv(name, raising=False)
    lines = {"AZURE_STORAGE_ACCOUNT_NAME": "mine"} | login
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    url = "az://lake/claims"
    store = open_objects(Locations(url, url, url, {}, tmp_path / ".env"), url).store
    assert isinstance(store, AzureStore) and key in store.config


def test_logins_of_several_clouds_in_one_file_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{name}=eA==" for names in LOGINS.values() for name in names if "CREDENTIALS" not in name]
    lines = [line for line in lines if "SERVICE_ACCOUNT" not in line] + ["AWS_PROFILE=x", "AWS_ALLOW_HTTP=true"]
    for name in (name for names in LOGINS.values() for name in names):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("\n".join(lines))
    for url in ("s3://bucket/a", "gs://bucket/a", "az://container/a", "abfss://c@account.dfs.core.windows.net/a"):
        open_objects(Locations(url, url, url, {}, tmp_path / ".env"), url)
