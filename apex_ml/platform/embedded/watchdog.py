"""Supervisor's event listener: a program that is alive but fails its health check three times in a row is restarted.

Supervisor itself restarts ended programs; the watchdog restarts hanging ones. It speaks the listener protocol on
standard input and output and logs to standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from apex_ml.errors import ApexError
from apex_ml.platform.embedded import health
from apex_ml.platform.embedded.supervision import WATCHDOG
from apex_ml.platform.embedded.supervisor_client import State, Supervisor
from apex_ml.settings import Settings

FAILURES = 3
# imports and the first heartbeat of an Airflow process take most of this on a busy machine
GRACE_SECONDS = 90


@dataclass
class Counter:
    """Failed health checks in a row, by program."""

    limit: int = FAILURES
    failures: dict[str, int] = field(default_factory=dict)

    def observe(self, states: Mapping[str, health.Health]) -> list[str]:
        """Count one round and return the programs to restart, whose count restarts at 0.

        An unknown state (``ok`` is None) does not change a count.

        >>> counter = Counter(limit=2)
        >>> counter.observe({"mlflow": health.Health(False), "postgres": health.Health(True)})
        []
        >>> counter.observe({"mlflow": health.Health(False), "postgres": health.Health(True)})
        ['mlflow']
        """
        due: list[str] = []
        for name, result in states.items():
            if result.ok:
                self.failures.pop(name, None)
            elif result.ok is False:
                self.failures[name] = self.failures.get(name, 0) + 1
                if self.failures[name] >= self.limit:
                    due.append(name)
                    del self.failures[name]
        return due


def settled(states: Iterable[State], now: float, grace: float = GRACE_SECONDS) -> list[str]:
    """Names of the programs that run long enough for a check."""
    return [s.name for s in states if s.name != WATCHDOG and s.state == "RUNNING" and now - s.since >= grace]


def look(
    settings: Settings, supervisor: Supervisor, counter: Counter, log: TextIO, grace: float = GRACE_SECONDS
) -> None:
    """One round: check the running programs, restart the hanging ones."""
    states = health.check(settings, settled(supervisor.states().values(), time.time(), grace))
    due = counter.observe(states)
    for name, result in states.items():
        if result.ok is False:
            action = "restarting it" if name in due else f"failure {counter.failures[name]} of {counter.limit}"
            print(f"{time.strftime('%FT%TZ', time.gmtime())} {name}: {result.detail}: {action}", file=log, flush=True)
    for name in due:
        supervisor.restart(name)


def listen(events: TextIO, answers: TextIO, act: Callable[[], None]) -> None:
    """Supervisor's listener protocol: say READY, read a header and a body, act, acknowledge; until input ends."""
    while True:
        answers.write("READY\n")
        answers.flush()
        line = events.readline()
        if not line:
            return
        header = dict(pair.split(":", 1) for pair in line.split())
        events.read(int(header["len"]))
        act()
        answers.write("RESULT 2\nOK")
        answers.flush()


def main() -> None:
    """Run under supervisor."""
    settings = Settings.load()
    supervisor = Supervisor(settings)
    counter = Counter()

    def act() -> None:
        try:
            look(settings, supervisor, counter, sys.stderr)
        except ApexError as error:  # supervisor is shutting down, or a program was removed: the next tick checks again
            print(f"watchdog: {error}", file=sys.stderr, flush=True)

    listen(sys.stdin, sys.stdout, act)


if __name__ == "__main__":
    main()
