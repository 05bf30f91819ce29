"""Scoring drops of an object store: exactly once, in whatever state the objects are."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import date
from pathlib import Path

import boto3
import pytest

from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.list_drops import list_drops
from apex_ml.steps.removal import find_removable, remove
from apex_ml.steps.score import rescore, score
from tests.support.apex_home import Apex
from tests.support.ledger import counts, places, run, scored_rows
from tests.support.object_servers import ObjectServer, in_object_store, moto_server

Content = Callable[[int], bytes]


@pytest.fixture(scope="module")
def content(raw: Path, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Content:
    folder = tmp_path_factory.mktemp("drops")

    def drop_of(seed: int) -> bytes:
        path = folder / f"{seed}.parquet"
        if not path.exists():
            make_drop(str(raw), date(2024, 8, 24), 300, seed, path, contract)
        return path.read_bytes()

    return drop_of


@pytest.fixture(params=["moto", "rclone", "google"])
def moving(scoring: Apex, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Apex:
    return in_object_store(scoring, request.getfixturevalue(request.param), monkeypatch)


@pytest.fixture
def kept(scoring: Apex, moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Apex:
    return in_object_store(scoring, moto, monkeypatch, scoring__after="keep")


def waiting(apex: Apex) -> list[str]:
    return [name for chunk in list_drops(apex.context("list")).chunks for name in chunk.drops]


def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that are read from now on."""
    keys: list[str] = []
    read = ObjectStorage.read

    def noted(self: ObjectStorage, key: str) -> object:
        keys.append(key)
        return read(self, key)

    monkeypatch.setattr(ObjectStorage, "read", noted)
    return keys


def test_the_scores_are_those_of_the_same_file_in_a_folder(
    scoring: Apex,
    moto: ObjectServer,
    content: Content,
    databases: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scoring.deliver("a.parquet", content(1))
    run(scoring)
    there = in_object_store(scoring, moto, monkeypatch).but(home=tmp_path / "there", **databases.migrated())
    there.deliver("a.parquet", content(1))
    run(there)
    assert scored_rows(there) == scored_rows(scoring) != []
    assert places(there) == {"inbox": [], "done": ["a.parquet"], "quarantine": []}
    assert there.leftovers() == []


def test_a_drop_is_moved_and_a_redelivery_is_not_scored_again(moving: Apex, content: Content) -> None:
    moving.deliver("a.parquet", content(1))
    assert run(moving)["scored"] == 1
    moving.deliver("b.parquet", content(1))
    result = run(moving, "b.parquet")
    assert (result["scored"], result["already"]) == (0, 1)
    assert counts(moving) == (1, 1, 300)
    assert places(moving) == {"inbox": [], "done": ["a.parquet", "b.parquet"], "quarantine": []}


def test_another_content_of_the_same_name_overwrites_nothing(moving: Apex, content: Content) -> None:
    for seed in (1, 2):
        moving.deliver("a.parquet", content(seed))
        assert run(moving)["scored"] == 1
    names = places(moving)["done"]
    assert len(names) == 2 and names[-1] == "a.parquet" and counts(moving) == (2, 2, 600)
    superseded = moving.sql("SELECT superseded_by IS NOT NULL FROM orders.drops ORDER BY drop_id")
    assert superseded == [(True,), (False,)]


def test_a_bad_drop_is_in_quarantine_beside_its_reason(moving: Apex, content: Content) -> None:
    moving.deliver("bad.parquet", b"no parquet")
    moving.deliver("a.parquet", content(1))
    with pytest.raises(DataError, match=r"1 of 2 drops are bad and were moved to \w+://apex-test/\w+/quarantine"):
        score(moving.context("scoring"), ["bad.parquet", "a.parquet"])
    assert places(moving) == {
        "inbox": [],
        "done": ["a.parquet"],
        "quarantine": ["bad.parquet", "bad.parquet.reason.json"],
    }
    with moving.storage.open("quarantine/bad.parquet.reason.json") as file:
        reason = json.load(file)
    assert reason["drop"] == "bad.parquet" and "not a parquet file" in reason["reason"]


def test_a_scored_drop_can_be_scored_again_and_removed(moving: Apex, content: Content) -> None:
    moving.deliver("a.parquet", content(1))
    run(moving)
    assert rescore(moving.context("again"), "a.parquet").scored == 1
    assert counts(moving) == (1, 2, 600)
    context = moving.context("removal")
    remove(context, find_removable(context, ["a.parquet"], invented=False))
    assert counts(moving) == (0, 0, 0) and places(moving)["done"] == []


def test_kept_objects_at_any_depth_are_scored_once_and_stay(
    kept: Apex, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["dt=2026-01-01/a.parquet", "dt=2026-01-02/a.parquet"]
    for seed, name in enumerate(names):
        kept.storage.put(name, content(seed))
    kept.storage.put("dt=2026-01-02/_SUCCESS", b"")
    kept.storage.put("_temporary/0/part.parquet", b"half")
    before = {file.key for file in kept.storage.list_all("")}  # type: ignore[attr-defined]
    assert waiting(kept) == names
    assert run(kept, *names)["scored"] == 2
    read = downloads(monkeypatch)
    assert waiting(kept) == [] and run(kept, *names)["already"] == 2
    assert read == []  # known by their versions
    assert {file.key for file in kept.storage.list_all("")} == before  # type: ignore[attr-defined]
    assert [name for (name,) in kept.sql("SELECT name FROM orders.drops ORDER BY name")] == names


def test_a_kept_object_that_is_replaced_is_a_new_drop(kept: Apex, content: Content) -> None:
    kept.storage.put("a.parquet", content(1))
    run(kept)
    kept.storage.put("a.parquet", content(2))
    assert waiting(kept) == ["a.parquet"] and run(kept)["scored"] == 1
    assert counts(kept) == (2, 2, 600)


def test_a_removed_kept_object_is_not_scored_again_by_itself(kept: Apex, content: Content) -> None:
    kept.storage.put("a.parquet", content(1))
    run(kept)
    context = kept.context("removal")
    remove(context, find_removable(context, ["a.parquet"], invented=False))
    assert counts(kept) == (0, 0, 0) and waiting(kept) == []
    assert run(kept)["scored"] == 1  # when it is named


def test_a_bad_kept_object_is_reported_once_and_stays(kept: Apex) -> None:
    kept.storage.put("bad.parquet", b"no parquet")
    with pytest.raises(DataError, match="not a parquet file"):
        run(kept, "bad.parquet")
    assert waiting(kept) == []
    assert kept.sql("SELECT name, state FROM orders.drops") == [("bad.parquet", "failed")]
    assert kept.sql("SELECT subject FROM orders.open_alerts") == [("bad.parquet",)]
    assert [file.key for file in kept.storage.list_all("")] == ["bad.parquet"]  # type: ignore[attr-defined]


def test_with_ascending_keys_only_new_ones_are_listed(
    kept: Apex, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    ascending = kept.but(scoring__ascending_keys=True)
    listed: list[str | None] = []
    list_all = ObjectStorage.list_all

    def noted(self: ObjectStorage, prefix: str, after: str | None = None) -> object:
        listed.append(after)
        return list_all(self, prefix, after)

    monkeypatch.setattr(ObjectStorage, "list_all", noted)
    for seed, name in enumerate(["d1/a.parquet", "d2/a.parquet", "d3/a.parquet"]):
        ascending.storage.put(name, content(seed))
    assert waiting(ascending) == ["d1/a.parquet", "d2/a.parquet", "d3/a.parquet"]
    run(ascending, "d1/a.parquet", "d3/a.parquet")
    assert waiting(ascending) == ["d2/a.parquet"]  # the mark is before what still waits
    run(ascending, "d2/a.parquet")
    assert waiting(ascending) == []
    ascending.storage.put("d0/late.parquet", content(5))
    assert waiting(ascending) == []
    ascending.sql("UPDATE orders.object_listings SET full_at = full_at - interval '1 day'")
    assert waiting(ascending) == ["d0/late.parquet"]  # the full listing of every day
    assert listed == [None, None, "d1/a.parquet", "d3/a.parquet", None]


def test_a_drop_larger_than_the_spool_is_refused_with_the_limit(moving: Apex, content: Content) -> None:
    small = moving.but(spool_mb=1)
    small.deliver("a.parquet", content(1) + bytes(2 << 20))
    with pytest.raises(DataError, match=r"a\.parquet: 2,\d{3},\d{3} bytes are more than .*1,048,576: APEX_SPOOL_MB"):
        run(small)
    assert places(small)["inbox"] == [] and small.leftovers() == []


def test_a_kept_drop_larger_than_the_spool_is_refused_once_until_the_limit_or_the_object_changes(
    kept: Apex, content: Content
) -> None:
    small = kept.but(spool_mb=1)
    small.storage.put("a.parquet", large := content(1) + bytes(2 << 20))
    assert waiting(small) == ["a.parquet"]
    with pytest.raises(DataError, match="APEX_SPOOL_MB"):
        run(small)
    assert waiting(small) == [] and waiting(kept) == ["a.parquet"]
    small.storage.put("a.parquet", large + b"x")
    assert waiting(small) == ["a.parquet"]
    with pytest.raises(DataError, match="APEX_SPOOL_MB"):
        run(small)
    assert waiting(small) == []
    kept.storage.put("a.parquet", content(2))
    assert waiting(small) == ["a.parquet"] and run(small)["scored"] == 1


def test_a_look_lists_a_store_once(moving: Apex, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    moving.deliver("a.parquet", content(1))
    listings: list[str] = []
    for name in ("list", "list_with_delimiter"):
        of_library = getattr(obstore, name)

        def noted(*arguments: object, of: object = of_library, name: str = name, **named: object) -> object:
            listings.append(name)
            return of(*arguments, **named)  # type: ignore[operator]

        monkeypatch.setattr(obstore, name, noted)
    result = list_drops(moving.context("list"))
    assert (result.waiting, len(listings)) == (1, 1)


def test_an_object_that_is_replaced_while_it_is_scored_is_left_for_the_next_run(
    moving: Apex, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apex_ml.services import score_file as module

    moving.deliver("a.parquet", content(1))
    write = module._write_rows

    def replaced(*arguments: object, **named: object) -> object:
        moving.deliver("a.parquet", content(2))
        monkeypatch.setattr(module, "_write_rows", write)
        return write(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_write_rows", replaced)
    assert run(moving)["drops"][0]["state"] == "changed" and counts(moving) == (0, 0, 0)
    assert run(moving)["scored"] == 1 and places(moving)["done"] == ["a.parquet"]


def test_a_store_that_is_gone_stops_the_step_and_loses_nothing(
    scoring: Apex, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apex_ml.adapters.storage.stores.RETRIES", {"max_retries": 0})
    with moto_server(tmp_path) as server:
        apex = in_object_store(scoring, server, monkeypatch)
        apex.deliver("a.parquet", content(1))
    with pytest.raises(TransientError, match="cannot be reached for now"):
        run(apex)
    assert counts(apex) == (0, 0, 0)


def test_a_bucket_without_write_access_is_refused_with_the_remedy(
    scoring: Apex, rclone: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    apex = in_object_store(scoring, rclone, monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"wrong-{uuid.uuid4().hex}")
    with pytest.raises(ConfigError, match=r"access is refused .*scoring\.after: keep"):
        run(apex)


def test_a_key_that_is_no_path_raises_an_alert_until_it_is_gone(
    scoring: Apex, moto: ObjectServer, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    apex = in_object_store(scoring, moto, monkeypatch)
    apex.deliver("a.parquet", content(1))
    key = f"{apex.pipeline.locations.drops.removeprefix('s3://apex-test/')}/inbox//double.parquet"
    store = boto3.client("s3", endpoint_url=moto.endpoint)
    store.put_object(Bucket=moto.bucket, Key=key, Body=b"x")
    with pytest.raises(DataError, match=r'the key ".*/inbox/.*" is no path, .*; delete or rename the object'):
        waiting(apex)
    assert len(apex.sql("SELECT 1 FROM orders.open_alerts WHERE subject LIKE 's3://%%/inbox'")) == 1
    store.delete_object(Bucket=moto.bucket, Key=key)
    assert waiting(apex) == ["a.parquet"]
    assert apex.sql("SELECT 1 FROM orders.open_alerts") == []


def test_folders_are_named_and_their_markers_are_no_drops(
    scoring: Apex, moto: ObjectServer, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = in_object_store(scoring, moto, monkeypatch)
    store = boto3.client("s3", endpoint_url=moto.endpoint)
    prefix = moving.pipeline.locations.drops.removeprefix("s3://apex-test/")
    moving.deliver("a.parquet", content(1))
    moving.deliver("deep/b.parquet", content(2))
    assert list_drops(moving.context("list")).folders == ("deep",) and waiting(moving) == ["a.parquet"]
    kept = moving.but(drops_url=f"{moving.pipeline.locations.drops}/inbox", scoring__after="keep")
    for key in ("inbox/dt=2/", "inbox/dt=3_$folder$"):
        store.put_object(Bucket=moto.bucket, Key=f"{prefix}/{key}", Body=b"")
    assert waiting(kept) == ["a.parquet", "deep/b.parquet"]


def test_bad_kept_drops_are_said_to_stay(kept: Apex) -> None:
    kept.storage.put("dt=2/zero.parquet", b"")
    with pytest.raises(DataError, match=r"1 of 1 drops are bad and stay in s3://\S+, .*\ndt=2/zero\.parquet: (?!zero)"):
        run(kept, "dt=2/zero.parquet")
