"""Score drops of an object store as its events arrive: some are lost, doubled, reordered, late or nonsense."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from apex_airflow.triggers.objects import ObjectTrigger
from apex_ml.adapters.storage.storage import Storage
from apex_ml.steps.list_drops import list_drops
from apex_ml.steps.score import score
from tests.support.apex_home import Apex
from tests.support.object_servers import Queue

NONSENSE = ("", " ", "{", "null", "[]", '{"Records": [{"s3": {}}]}', "\x85é😀", "ObjectRemoved:Delete", "x" * 100_000)
KINDS = ("once", "lost", "doubled", "late", "before the object", "nonsense")
QUIET_SECONDS = 3.0


@dataclass
class Heard:
    """How many events of each kind were sent, how often the DAG ran for one, and how long it took to be announced."""

    sent: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    seconds: list[float] = field(default_factory=list)


def event_of(key: str) -> str:
    """A message as S3 sends it."""
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": key}}}]})


def score_on_events(
    apex: Apex, storage: Storage, queue: Queue, drops: Mapping[str, bytes], chance: random.Random
) -> Heard:
    """Deliver the drops in any sequence, with unreliable events, and run the steps of the DAG at each announcement.

    The trigger polls once an hour. At the end the sweep runs once, for drops of which every event was lost.
    """
    heard = Heard()
    trigger = ObjectTrigger(
        "orders", f"{apex.pipeline.locations.drops}/inbox", 3600, False, False, {"complete": "never"}, queue.url
    )
    asyncio.run(_listen_and_deliver(apex, trigger, storage, queue, drops, chance, heard))
    _run_dag(apex)
    return heard


async def _listen_and_deliver(
    apex: Apex,
    trigger: ObjectTrigger,
    storage: Storage,
    queue: Queue,
    drops: Mapping[str, bytes],
    chance: random.Random,
    heard: Heard,
) -> None:
    put: dict[str, float] = {}
    one_run, runs = asyncio.Lock(), []

    async def run() -> None:
        async with one_run:
            await asyncio.to_thread(_run_dag, apex)

    async def listen() -> None:
        async for event in trigger.run():
            heard.runs += 1
            heard.seconds += [time.monotonic() - put.pop(name) for name in event.payload["files"] if name in put]
            runs.append(asyncio.create_task(run()))

    listener = asyncio.create_task(listen())
    await asyncio.sleep(QUIET_SECONDS)
    late: list[str] = []
    names = list(drops)
    chance.shuffle(names)
    for number, name in enumerate(names):
        kind = KINDS[number % len(KINDS)]
        heard.sent[kind] = heard.sent.get(kind, 0) + 1
        event = event_of(f"inbox/{name}")
        if kind == "before the object":
            await asyncio.to_thread(queue.send, event)
        await asyncio.to_thread(storage.put, f"inbox/{name}", drops[name])
        put[name] = time.monotonic()
        bodies = {"once": [event], "doubled": [event, event], "nonsense": [chance.choice(NONSENSE[1:])]}.get(kind, [])
        for body in bodies:
            await asyncio.to_thread(queue.send, body)
        late += [event] if kind == "late" else []
        await asyncio.sleep(chance.random() / 2)
    chance.shuffle(late)
    for event in late:
        await asyncio.to_thread(queue.send, event)
    await asyncio.sleep(QUIET_SECONDS)
    assert not listener.done(), listener.exception()
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)
    await asyncio.gather(*runs)


def _run_dag(apex: Apex) -> None:
    """List and score, as the DAG does at an event and at its sweep."""
    for chunk in list_drops(apex.context("list")).chunks:
        score(apex.context("scoring"), list(chunk.drops))
