"""Score drops of an object store that fails all the time, until every drop is done."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from apex_ml.adapters.storage.storage import Storage
from apex_ml.errors import ApexError
from apex_ml.steps.list_drops import list_drops
from apex_ml.steps.score import score
from tests.support.apex_home import Apex
from tests.support.faulty_store import Faults
from tests.support.scored_tables import AFTER, BEFORE, LARGE_ONLY

POINTS = tuple(point for point in BEFORE + AFTER if point not in LARGE_ONLY)


@dataclass
class Tried:
    """How often the steps ran, how many of them failed, and how many processes were killed."""

    steps: int = 0
    failed: int = 0
    kills: int = 0

    def __add__(self, other: Tried) -> Tried:
        return Tried(self.steps + other.steps, self.failed + other.failed, self.kills + other.kills)


def score_under_faults(
    apex: Apex, direct: Storage, drops: Mapping[str, bytes], faults: Faults, chance: random.Random, kills: float = 0.0
) -> Tried:
    """Deliver the drops one after the other, and score with lost, doubled and late news of them, until all are done.

    `apex` reaches the store by way of the faults, `direct` without them. With the probability `kills` a step is a
    process that is killed at a fault point.
    """
    tried, waiting = Tried(), list(drops)
    while waiting or any(True for _ in direct.list("inbox/")):
        if waiting:
            name = waiting.pop(0)
            direct.put(f"inbox/{name}", drops[name])
        names = chance.choices([*drops, "never-delivered.parquet"], k=2)
        tried.steps += 1
        try:
            if chance.random() < 0.6:
                names += [name for chunk in list_drops(apex.context("list")).chunks for name in chunk.drops]
            if chance.random() < kills:
                ended = apex.call("score", "--drops", json.dumps(names), APEX_FAULT=chance.choice(POINTS))
                tried.kills += ended.code == -signal.SIGKILL
            else:
                score(apex.context("scoring"), names)
        except ApexError:
            tried.failed += 1
        assert tried.steps < 2000, (faults.counts, tried)
    return tried
