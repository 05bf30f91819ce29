"""A night is late when its deadline is over and no run ended well since it was due."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from apex_ml.adapters.inbox import Inbox
from apex_ml.platform.airflow_api import DagRun
from apex_ml.platform.deadlines import late_retraining
from apex_ml.settings import Settings

DUE = datetime(2026, 1, 10, 2, tzinfo=UTC)
DEADLINE = DUE + timedelta(hours=4)


def run(started: datetime, state: str = "success", minutes: float = 5) -> DagRun:
    ended = None if state == "running" else started + timedelta(minutes=minutes)
    return DagRun("apex_retrain", run_id=f"{started}", state=state, started=started, ended=ended)


BEFORE = run(DUE - timedelta(days=1))


@pytest.mark.parametrize(
    ("runs", "now", "late"),
    [
        ([run(DUE), BEFORE], DEADLINE + timedelta(minutes=1), False),
        ([BEFORE], DEADLINE + timedelta(minutes=1), True),
        ([run(DUE, "failed"), BEFORE], DEADLINE + timedelta(minutes=1), True),
        ([run(DUE, "running"), BEFORE], DEADLINE + timedelta(minutes=1), True),
        ([run(DUE, "running"), BEFORE], DEADLINE - timedelta(minutes=1), False),
        ([run(DUE + timedelta(hours=9)), run(DUE, "failed"), BEFORE], DEADLINE + timedelta(hours=10), False),
        ([], DEADLINE + timedelta(minutes=1), False),
        (
            [run(DUE + timedelta(hours=3), "failed")],
            DEADLINE + timedelta(minutes=1),
            False,
        ),
    ],
)
def test_a_night_is_late(runs: list[DagRun], now: datetime, late: bool, tmp_path: Path) -> None:
    message = late_retraining(Settings.load(home=tmp_path), runs, now)
    assert bool(message) is late
    assert message is None or "due at 2026-01-10 02:00 UTC" in message


def test_a_drop_that_waits_too_long(tmp_path: Path) -> None:
    inbox = Inbox(Settings.load(home=tmp_path))
    assert inbox.late(60) == {}
    inbox.prepare()
    for name, minutes in (("old.parquet", 61), ("new.parquet", 59), (".old.parquet.tmp", 999)):
        (inbox.inbox / name).write_bytes(b"x")
        os.utime(inbox.inbox / name, (time.time() - 60 * minutes,) * 2)
    found = inbox.late(60)
    assert list(found) == ["old.parquet"] and "61 minutes" in found["old.parquet"]
