"""A server of S3 that fails: it passes requests on to another one, and spoils some of them by a seed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.object_servers import ObjectServer
from tests.support.passing_server import Answer, PassingHandler, passing

KINDS = ("503", "503 afterwards", "409", "412", "no answer", "no answer afterwards", "half an answer", "slow")
"""What goes wrong with a request. `afterwards`: it took effect, and nobody learns of it."""
SLOW_SECONDS = 0.3


class Faults:
    """Which requests fail. `rate` may be changed at any time; `counts` are the faults so far."""

    def __init__(self, seed: int, rate: float) -> None:
        self.rate = rate
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self, method: str) -> str | None:
        """The fault of a request, if any."""
        with self._lock:
            if self._chance.random() >= self.rate:
                return None
            kinds = [k for k in KINDS if k not in ("409", "412") or method in ("PUT", "POST")]
            fault = self._chance.choice([k for k in kinds if k != "half an answer" or method == "GET"])
            self.counts[fault] += 1
            return fault


class _Faulty(PassingHandler):
    faults: Faults

    def respond(self, body: bytes) -> None:
        fault = self.faults.draw(self.command)
        if fault in ("503", "409", "412"):
            return self.answer(Answer(int(fault), [], b""))
        if fault == "no answer":
            return self.hang_up()
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        answer = self.ask(self.command, self.path, body, dict(self.headers.items()))
        if fault == "503 afterwards":
            return self.answer(Answer(503, [], b""))
        if fault == "no answer afterwards":
            return self.hang_up()
        return self.answer(answer, half=fault == "half an answer")


@contextmanager
def faulty(server: ObjectServer, faults: Faults) -> Iterator[ObjectServer]:
    """The same bucket by way of a server that fails."""
    with passing(type("Handler", (_Faulty,), {"faults": faults}), server) as broken:
        yield broken
