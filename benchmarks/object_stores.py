"""Drops of an object store on this machine, beside the same drops in a folder; listings of many known objects."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from statistics import median
from unittest import mock

from apex_ml.adapters.storage import stores
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.contract.pipeline import Locations
from apex_ml.pipelines import load_pipeline
from apex_ml.services.inboxes import open_inbox
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Home, Scene
from benchmarks.scored_drops import admin, put, scored_once
from tests.support.apex_home import Apex
from tests.support.concurrent_reader import Reader
from tests.support.faulty_store import Faults, faulty
from tests.support.object_events import score_on_events
from tests.support.object_faults import Tried, score_under_faults
from tests.support.object_servers import ObjectServer, moto_server, objects_folder, rclone_server

ROUNDS = 5
ROWS = 1_250_000
FAULTS, FAULT_RATE, KILL_RATE = 1000, 0.2, 0.4
DROPS_AT_ONCE, FAULT_ROWS = 10, 200
EVENT_DROPS = 60
OBJECTS = 100_000
"""Known objects of the listings."""
DROPS = "APEX_ORDERS__LOCATIONS__DROPS"


def _in_store(home: Home, server: ObjectServer, prefix: str, **options: str) -> Home:
    """The home with its drops in the server."""
    return replace(home, env=home.env | server.environment | options | {DROPS: f"s3://{server.bucket}/{prefix}"})


def _objects(server: ObjectServer, prefix: str) -> ObjectStorage:
    url = f"s3://{server.bucket}/{prefix}"
    return open_objects(Locations(url, url, url, {url: server.store_options()}), url)


@measurement
def object_store(scene: Scene) -> Iterator[Row]:
    """A drop of 1,250,000 rows by the whole command, in turn from a folder and from a server of S3 on this machine."""
    folder: list[float] = []
    store: list[float] = []
    with rclone_server(scene.folder) as server, server.logged_in():
        there = _in_store(scene.home, server, "drops")
        storage = _objects(server, "drops")
        for seed in range(1, ROUNDS + 1):
            put(scene, f"here-{seed}.parquet", ROWS, 100 + seed)
            folder.append(scored_once(scene, f"here-{seed}.parquet", ROWS)[0].seconds)
            path = put(scene, f"there-{seed}.parquet", ROWS, 200 + seed)
            storage.put(f"inbox/{path.name}", path.read_bytes())
            path.unlink()
            ended = there.apex("score", "--run", "bench", "--drops", json.dumps([path.name]))
            assert ended.result["rows_scored"] == ROWS, ended.result
            store.append(ended.seconds)
        yield Row(
            "score 1,250,000 rows from S3 / from a folder",
            median(there / here for there, here in zip(store, folder, strict=True)),
            "×",
            1.15,
            Beside("from a folder, whole command, s", median(folder)),
            f"median of {ROUNDS} pairs",
        )


@measurement
def object_listing(scene: Scene) -> Iterator[Row]:
    """How long a look at a location takes of which all objects are known but the last."""
    for number in range(OBJECTS + 1):
        path = objects_folder(scene.folder) / "kept" / f"dt={number // 1000:04d}" / f"{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    with rclone_server(scene.folder) as server, server.logged_in():
        _know_all_but_last(scene, server)
        yield from _looks(scene, server)


def _looks(scene: Scene, server: ObjectServer) -> Iterator[Row]:
    for name, ascending in (("all keys", "false"), ("ascending keys", "true")):
        options = {
            "locations__drops": f"s3://{server.bucket}/kept",
            "scoring__after": "keep",
            "scoring__ascending_keys": ascending == "true",
        }
        settings = scene.home.settings.with_pipeline_values(**options)
        inbox = open_inbox(settings, load_pipeline(settings))
        looks = []
        for _ in range(3):
            began = time.perf_counter()
            assert len(inbox.look()) == 1
            looks.append(time.perf_counter() - began)
        note = f"the last of 3 looks at {OBJECTS:,} known objects"
        yield Row(f"list {OBJECTS:,} known objects, {name}", looks[-1], "s", None, Beside("first look", looks[0]), note)


def _know_all_but_last(scene: Scene, server: ObjectServer) -> None:
    """Enter the objects into the ledger, as contents of one drop."""
    storage = _objects(server, "kept")
    files = list(storage.list_all(""))
    rows = [(storage.place(f.key), f.version, f.modified_ns // 1_000_000_000, f.size) for f in files[:-1]]
    with closing(admin(scene.home.settings)) as connection, connection.cursor() as cursor:
        sha256 = "ab" * 32
        cursor.execute(
            "INSERT INTO orders.drops (sha256, name, bytes, rows, state) VALUES (%s, 'known', 1, 1, 'done')", (sha256,)
        )
        for at in range(0, len(rows), 10_000):
            values = b",".join(
                cursor.mogrify("(%s,%s,to_timestamp(%s),%s,%s)", (*row, sha256)) for row in rows[at : at + 10_000]
            )
            columns = b"(place, version, modified, bytes, sha256)"
            cursor.execute(b"INSERT INTO orders.drop_objects " + columns + b" VALUES " + values)
        connection.commit()


@measurement
def object_faults(scene: Scene) -> Iterator[Row]:
    """Score drops from a server whose requests fail, and kill the scorers, until a thousand faults have happened."""
    apex = Apex(scene.home.settings)
    faults, chance = Faults(1, FAULT_RATE), random.Random(1)
    tried = Tried()
    contents: dict[str, bytes] = {}
    with rclone_server(scene.folder) as server, server.logged_in(), faulty(server, faults) as broken:
        direct = _objects(server, "faults")
        there = apex.but(locations__drops=direct.url)
        reader = Reader(there)
        reader.start()
        with mock.patch.dict(os.environ, broken.environment), mock.patch.object(stores, "RETRIES", {"max_retries": 1}):
            while faults.counts.total() + tried.kills < FAULTS:
                drops = {}
                for number in range(len(contents), len(contents) + DROPS_AT_ONCE):
                    path = put(scene, f"fault-{number}.parquet", FAULT_ROWS, 1000 + number)
                    drops[path.name] = path.read_bytes()
                    path.unlink()
                tried += score_under_faults(there, direct, drops, faults, chance, KILL_RATE)
                contents |= drops
        reader.end()
        finished = [_content(direct, file.key) for file in direct.list("done/")]
    rows = there.sql(
        "SELECT d.name, count(*) FROM orders.scored JOIN orders.scoring_runs USING (run_id)"
        " JOIN orders.drops AS d USING (drop_id) WHERE d.name LIKE 'fault-%%' GROUP BY 1"
    )
    scored = {str(name): int(number) for name, number in rows}
    wrong = sum(abs(scored.get(name, 0) - FAULT_ROWS) for name in contents)
    kinds = ", ".join(f"{number} × {kind}" for kind, number in sorted(faults.counts.items()))
    note = f"{len(contents)} drops, {tried.steps} steps, {tried.failed} failed, {tried.kills} killed; {kinds}"
    yield Row("faults of an object store", faults.counts.total() + tried.kills, "", None, None, note)
    yield Row("rows lost or doubled under them", wrong, "", 0.0)
    yield Row("looks that met half a drop", len(reader.wrong), "", 0.0, Beside("looks", reader.polls))
    yield Row("objects lost under them", len(set(contents.values()) - set(finished)), "", 0.0)


@measurement
def object_events(scene: Scene) -> Iterator[Row]:
    """Score drops at the events of a queue, of which many are lost, doubled, late or nonsense."""
    drops = {}
    for number in range(EVENT_DROPS):
        path = put(scene, f"event-{number}.parquet", FAULT_ROWS, 5000 + number)
        drops[path.name] = path.read_bytes()
        path.unlink()
    with moto_server(scene.folder) as server, server.logged_in():
        storage = _objects(server, "events")
        there = Apex(scene.home.settings).but(locations__drops=storage.url)
        variables = {DROPS: storage.url, "APEX_HOME": str(there.settings.home)}
        with mock.patch.dict(os.environ, variables):
            heard = score_on_events(there, storage, server.queue("events"), drops, random.Random(1))
        waiting = sum(True for _ in storage.list("inbox/"))
    rows = there.sql(
        "SELECT d.name, count(*) FROM orders.scored JOIN orders.scoring_runs USING (run_id)"
        " JOIN orders.drops AS d USING (drop_id) WHERE d.name LIKE 'event-%%' GROUP BY 1"
    )
    scored = {str(name): int(number) for name, number in rows}
    wrong = sum(abs(scored.get(name, 0) - FAULT_ROWS) for name in drops)
    kinds = ", ".join(f"{number} × {kind}" for kind, number in sorted(heard.sent.items()))
    yield Row("rows lost or doubled by events", wrong + waiting, "", 0.0, None, f"{heard.runs} runs; {kinds}")
    yield Row("from an object to its event", median(heard.seconds), "s", None, Beside("most", max(heard.seconds)))


def _content(storage: ObjectStorage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()
