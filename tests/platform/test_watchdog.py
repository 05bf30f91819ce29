"""What hangs is restarted after three failures in a row."""

from __future__ import annotations

import io

from apex_ml.platform.embedded import watchdog
from apex_ml.platform.embedded.health import Health
from apex_ml.platform.embedded.supervisor_client import State

BAD, GOOD, UNKNOWN = Health(False, "no answer"), Health(True), Health(None)


def test_three_failures_in_a_row_are_needed() -> None:
    counter = watchdog.Counter()
    rounds = [BAD, BAD, GOOD, BAD, BAD, BAD, BAD]
    assert [counter.observe({"mlflow": one}) for one in rounds] == [[], [], [], [], [], ["mlflow"], []]


def test_an_unknown_state_neither_counts_nor_resets() -> None:
    counter = watchdog.Counter()
    rounds = [BAD, UNKNOWN, BAD, UNKNOWN, UNKNOWN, BAD]
    assert [bool(counter.observe({"airflow-scheduler": one})) for one in rounds] == [False] * 5 + [True]


def test_young_and_stopped_programs_are_not_checked() -> None:
    states = [
        State("old", "RUNNING", 1, 0, ""),
        State("young", "RUNNING", 2, 950, ""),
        State("stopped", "STOPPED", 0, 0, ""),
        State(watchdog.WATCHDOG, "RUNNING", 3, 0, ""),
    ]
    assert watchdog.settled(states, now=1000) == ["old"]


def test_listener_speaks_the_protocol() -> None:
    body = "when:60"
    event = f"ver:3.0 server:supervisor serial:1 pool:watchdog poolserial:1 eventname:TICK_60 len:{len(body)}\n{body}"
    answers, calls = io.StringIO(), []
    watchdog.listen(io.StringIO(event * 2), answers, lambda: calls.append(1))
    assert len(calls) == 2
    assert answers.getvalue() == "READY\nRESULT 2\nOK" * 2 + "READY\n"
