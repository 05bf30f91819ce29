"""A night is late when its deadline is over and no run ended well since it was due."""

from __future__ import annotations

import io
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from apex_ml.adapters.storage.drops import Inbox
from apex_ml.contract.options import Schedule
from apex_ml.errors import TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.airflow_runs import DagRun
from apex_ml.platform.reports.deadlines import late_retraining
from apex_ml.platform.reports.status import _waiting
from apex_ml.settings import Settings

DUE = datetime(2026, 1, 10, 2, tzinfo=UTC)
DEADLINE = DUE + timedelta(hours=4)


def run(started: datetime, state: str = "success", minutes: float = 5) -> DagRun:
    ended = None if state == "running" else started + timedelta(minutes=minutes)
    return DagRun("orders_retrain", run_id=f"{started}", state=state, started=started, ended=ended)


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
def test_a_late_run_raises_an_alert(runs: list[DagRun], now: datetime, late: bool, tmp_path: Path) -> None:
    message = late_retraining("orders_retrain", Schedule(), runs, now)
    assert bool(message) is late
    assert message is None or "due at 2026-01-10 02:00 UTC" in message


def test_a_late_drop_raises_an_alert(tmp_path: Path) -> None:
    """It is late by its time in the inbox: a copy or a move keeps the modification time that the file had elsewhere."""
    inbox = Inbox(load_pipeline(Settings.load(home=tmp_path)))
    assert inbox.late(60) == {}
    inbox.prepare()
    now, day = time.time(), 86_400
    elsewhere = tmp_path / "moved.parquet"
    for path in (inbox.inbox / "copied.parquet", inbox.inbox / ".hidden.parquet.tmp", elsewhere):
        path.write_bytes(b"x")
        os.utime(path, (now - 3 * day,) * 2)
    os.utime(inbox.inbox / "copied.parquet", (now + 3 * day,) * 2)  # a wrong clock elsewhere
    elsewhere.rename(inbox.inbox / "moved.parquet")
    (inbox.inbox / "link.parquet").symlink_to(inbox.inbox / "moved.parquet")
    assert inbox.late(60) == {} and inbox.late(60, now + 59 * 60) == {}
    result = inbox.late(60, now + 61 * 60)
    assert list(result) == ["link.parquet", "moved.parquet", "copied.parquet"]
    assert "has waited in" in result["moved.parquet"] and "61 minutes" in result["moved.parquet"]


def _shown_inbox(home: Path) -> tuple[bool, list[str]]:
    console = Console(file=io.StringIO(), width=200, record=True)
    settings = Settings.load(home=home, pg_port=1)
    well = _waiting(settings, load_pipeline(settings), console)
    return well, console.export_text().splitlines()


def test_the_status_reports_a_missing_inbox_and_is_not_well(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "orders" / "drops" / "inbox"
    assert _shown_inbox(tmp_path) == (False, [f"inbox is missing: {folder}; `apex up` makes it"])
    folder.parent.mkdir(parents=True)
    folder.write_text("x")
    shown = f"inbox is no folder: {folder}; remove it, then `apex up` makes the folder"
    assert _shown_inbox(tmp_path) == (False, [shown])
    folder.unlink()
    Inbox(load_pipeline(Settings.load(home=tmp_path))).prepare()
    assert _shown_inbox(tmp_path) == (True, ["drops waiting: 0"])


def test_the_status_says_what_to_do_with_a_folder_in_the_inbox(tmp_path: Path) -> None:
    inbox = Inbox(load_pipeline(Settings.load(home=tmp_path)))
    inbox.prepare()
    (inbox.inbox / "dir.parquet").mkdir()
    (inbox.inbox / ".hidden").mkdir()
    lines = ["drops waiting: 0", "  dir.parquet is an empty folder; deliver files in it, or remove it"]
    assert _shown_inbox(tmp_path) == (True, lines)
    (inbox.inbox / "dir.parquet" / "part-0.parquet").write_bytes(b"x")
    _, (waiting, line) = _shown_inbox(tmp_path)
    assert waiting == "drops waiting: 0" and line.startswith("  dir.parquet is a folder without _SUCCESS, which says")


def test_a_late_drop_with_a_non_utf8_name_can_be_stored_and_shown(tmp_path: Path) -> None:
    inbox = Inbox(load_pipeline(Settings.load(home=tmp_path)))
    inbox.prepare()
    (inbox.inbox / os.fsdecode(b"order\xff.parquet")).write_bytes(b"x")
    ((name, message),) = inbox.late(60, time.time() + 61 * 60).items()
    assert name == "order\ufffd.parquet" and message.encode()
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), width=200)
    settings = Settings.load(home=tmp_path, pg_port=1)
    with pytest.raises(TransientError, match="Postgres"):  # who is asked last, whether there is a champion
        _waiting(settings, load_pipeline(settings), console)
