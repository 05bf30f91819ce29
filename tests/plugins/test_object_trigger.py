"""The trigger that watches an object store, on a real server."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apex_airflow.triggers import objects
from apex_airflow.triggers.objects import ObjectTrigger
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.contract.pipeline import Locations
from tests.support import watching
from tests.support.object_servers import ObjectServer, moto_server

POLL = 0.05


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "LONGEST_PAUSE", 4 * POLL)
    monkeypatch.setattr("apex_ml.adapters.storage.stores.RETRIES", {"max_retries": 0})


def prefix(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{server.bucket}/{uuid.uuid4().hex}"
    return open_objects(Locations(url, url, url), url)


def watch(
    url: str, *acts: Callable[[], Any], deep: bool = False, ascending: bool = False, folders: Any = None
) -> list[list[str]]:
    """The keys announced after each act, and some looks."""
    return watching.watch(
        ObjectTrigger("orders", url, POLL, deep, ascending, folders or {"complete": "never"}), POLL * 20, *acts
    )


def test_each_version_of_an_object_emits_one_event(moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = prefix(moto, monkeypatch)
    received = watch(
        storage.url,
        lambda: storage.put("a.parquet", b"1"),
        lambda: None,
        lambda: storage.put("a.parquet", b"2"),
        lambda: storage.put("b.parquet.tmp", b"1"),
        lambda: storage.put("below/c.parquet", b"1"),
        lambda: storage.delete("a.parquet"),
        lambda: storage.put("a.parquet", b"2"),
    )
    assert received == [["a.parquet"], [], ["a.parquet"], [], [], [], ["a.parquet"]]


def test_objects_at_any_depth_are_noticed_and_with_ascending_keys_only_later_ones(
    moto: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = ("dt=2/a.parquet", "dt=3/a.parquet", "dt=1/late.parquet", "dt=3/_SUCCESS")
    for ascending, expected in ((False, [[acts[0]], [acts[1]], [acts[2]], []]), (True, [[acts[0]], [acts[1]], [], []])):
        storage = prefix(moto, monkeypatch)
        puts = [lambda key=key, storage=storage: storage.put(key, b"1") for key in acts]  # type: ignore[misc]
        assert watch(storage.url, *puts, deep=True, ascending=ascending) == expected


def test_a_store_that_does_not_answer_is_logged_once_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with moto_server(tmp_path) as server:
        storage = prefix(server, monkeypatch)
        storage.put("a.parquet", b"1")
        assert watch(storage.url, lambda: None) == [["a.parquet"]]
    assert watch(storage.url, lambda: None, lambda: None) == [[], []]
    assert "".join(capfd.readouterr()).count("cannot be listed, trying again") == 1


def test_the_trigger_can_be_created_from_its_serialization() -> None:
    path, kwargs = ObjectTrigger("orders", "s3://b/drops/inbox", 1.5, True, False, {"complete": "marker"}).serialize()
    assert path == "apex_airflow.triggers.objects.ObjectTrigger"
    assert ObjectTrigger(**kwargs).serialize() == (path, kwargs)
