"""Unreadable files and non-files in the inbox: they are reported, and block no other file."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.storage.files import UnreadableError
from apex_ml.adapters.storage.local import LONGEST_NAME
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.platform.reports.status import _waiting
from apex_ml.services import score_file as scoring_of_a_file
from apex_ml.services.drop_chunks import MAX_BAD, MAX_LABEL
from apex_ml.steps.list_drops import list_drops
from apex_ml.steps.score import report, score
from tests.support.apex_home import Apex
from tests.support.ledger import ROWS, counts, places, run

Drop = Callable[..., Path]
NO_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Beginning of a command for which permission bits hold, also for root."""
NOT_UTF8 = os.fsdecode(b"order\xff.parquet")


def bind(path: Path) -> None:
    """A socket; its bound name can have at most a hundred characters."""
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as created:
        created.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def deny(path: Path) -> None:
    path.write_bytes(b"nobody may read it")
    path.chmod(0)


ODD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "denied.parquet": (deny, "cannot be read (Permission denied); let the user that runs Apex read it"),
    "pipe.parquet": (os.mkfifo, "is a pipe; deliver a plain file"),
    "socket.parquet": (bind, "is a socket; deliver a plain file"),
    "device.parquet": (lambda p: p.symlink_to("/dev/zero"), "is a device; deliver a plain file"),
    "folder.parquet": (lambda p: p.symlink_to("/proc"), ""),  # as any folder: not looked at
    "nothing.parquet": (lambda p: p.symlink_to("no such file"), "is a link to nothing; deliver the file itself"),
    "round.parquet": (lambda p: p.symlink_to(p.name), "cannot be read (Too many levels of symbolic links)"),
    "far.parquet": (lambda p: p.symlink_to("x" * 300), "cannot be read (File name too long)"),
    NOT_UTF8: (lambda p: p.write_bytes(b"any"), "its name is not UTF-8; rename it"),
    "x" * (LONGEST_NAME - 8) + ".parquet": (lambda p: p.write_bytes(b"any"), "not a parquet file"),
}


def alerts(apex: Apex) -> dict[str, str]:
    return dict(apex.sql("SELECT subject, message FROM orders.open_alerts WHERE kind = 'bad_drop'"))  # type: ignore[arg-type]


def test_an_unreadable_file_is_quarantined_with_its_reason_and_the_others_are_scored(
    scoring: Apex, put_drop: Drop
) -> None:
    put_drop("first.parquet", seed=1)
    for name, (make, _) in ODD.items():
        make(scoring.inbox / name)
    put_drop("last.parquet", seed=2)
    done = scoring.call_in_new_process("score", before=NO_RIGHTS if os.geteuid() == 0 else [])
    assert done.code == DataError.exit_code and "Traceback" not in done.err, done.err
    expected = {os.fsencode(name).decode("utf-8", "replace"): why for name, (_, why) in ODD.items() if why}
    # the drop whose name cannot be passed to a task was moved during the listing: it is among them
    assert f"{len(expected)} of {len(expected) + 2} drops are bad" in done.err
    assert scoring.sql("SELECT name FROM orders.drops WHERE state = 'done' ORDER BY 1") == [
        ("first.parquet",),
        ("last.parquet",),
    ]
    assert counts(scoring)[1:] == (2, 2 * ROWS)
    result = places(scoring)
    assert result["inbox"] == ["folder.parquet"] and result["done"] == ["first.parquet", "last.parquet"]
    raised = alerts(scoring)
    assert raised.keys() == expected.keys()
    quarantine = scoring.inbox.parent / "quarantine"
    reasons = [json.loads(path.read_text()) for path in quarantine.glob("*.reason.json")]
    assert {r["drop"]: r["reason"] for r in reasons} == raised
    assert all(why in raised[name] for name, why in expected.items()), raised
    assert len(result["quarantine"]) == 2 * len(expected)
    # repaired and delivered again, it is scored and the alert is resolved
    (quarantine / "denied.parquet").unlink()
    put_drop("denied.parquet", seed=3)
    assert run(scoring, "denied.parquet")["scored"] == 1
    assert "denied.parquet" not in alerts(scoring)


def test_a_file_on_a_failing_disk_stays_and_is_scored_later(scoring: Apex, put_drop: Drop) -> None:
    """The first memory page of a process cannot be read: the error is that of a failing disk."""
    failing = scoring.inbox / "failing.parquet"
    failing.symlink_to("/proc/self/mem")
    put_drop("good.parquet", seed=1)
    (scoring.inbox / "bad.parquet").write_bytes(b"junk")
    names = ["failing.parquet", "bad.parquet", "good.parquet"]
    done = scoring.call("score", "--drops", json.dumps(names))
    assert done.code == DataError.exit_code and "Traceback" not in done.err, done.err
    assert "1 of 3 drops are bad" in done.err and "1 of 3 drops cannot be read for now and stay in" in done.err
    for _ in range(2):
        with pytest.raises(UnreadableError, match=r"failing\.parquet: cannot be read for now: Input/output error"):
            run(scoring, *names)
    assert places(scoring)["inbox"] == ["failing.parquet"] and places(scoring)["done"] == ["good.parquet"]
    assert scoring.sql("SELECT count(*) FROM orders.alerts WHERE subject = 'failing.parquet'") == [(1,)]
    failing.unlink()
    put_drop("failing.parquet", seed=2)
    assert run(scoring, *names)["scored"] == 1
    assert alerts(scoring).keys() == {"bad.parquet"} and counts(scoring)[1:] == (2, 2 * ROWS)


def test_bad_drops_are_reported_without_failing_the_task(scoring: Apex, put_drop: Drop) -> None:
    """As orders_score does it: list, score by chunk, report. A repaired drop is not in the report any more."""
    put_drop("good.parquet", seed=1)
    (scoring.inbox / "bad.parquet").write_bytes(b"junk")
    (scoring.inbox / "failing.parquet").symlink_to("/proc/self/mem")
    (scoring.inbox / NOT_UTF8).write_bytes(b"any")
    context = scoring.context("score-sweep-1")
    listed = list_drops(context).to_json()
    assert listed["bad"][0]["drop"] == "order\ufffd.parquet" and "skip" not in listed
    done = scoring.call(
        "score", "--run", context.run, "--bad-later", "--drops", json.dumps(listed["chunks"][0]["drops"])
    )
    assert done.code == 0 and done.result is not None, done.err
    assert (done.result["scored"], done.result["failed"]) == (1, 2)
    message = scoring.call("score", "--run", context.run, "--report").result
    assert message is not None and message["scored"] == 1
    assert (
        {row["label"]: row["reason"] for row in message["bad"]}
        == {row["drop"]: row["reason"] for row in message["bad"]}
        == alerts(scoring)
    )
    assert {row["drop"] for row in message["bad"]} == {"order\ufffd.parquet", "bad.parquet", "failing.parquet"}
    assert report(scoring.context("another")).to_json().keys() >= {"skip"}
    (scoring.inbox / "failing.parquet").unlink()
    put_drop("failing.parquet", seed=2)
    assert run(scoring, "failing.parquet")["scored"] == 1
    assert [row["drop"] for row in report(context).to_json()["bad"]] == ["order\ufffd.parquet", "bad.parquet"]


def test_a_folder_in_the_inbox_is_reported_and_does_not_wait(
    scoring: Apex, put_drop: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    (scoring.inbox / "spark.parquet").mkdir()
    put_drop("part-0.parquet", seed=3).rename(scoring.inbox / "spark.parquet" / "part-0.parquet")
    listed = list_drops(scoring.context("sweep")).to_json()
    why = (
        "is a folder without _SUCCESS, which says that it is complete (scoring.folder_complete); write that file last,"
        " or deliver the files in the folder one by one and remove it"
    )
    assert (listed["waiting"], listed["folders"], listed["skip"]) == (0, ["spark.parquet"], f"spark.parquet {why}")
    assert f"folder_in_inbox name=spark.parquet reason={why}" in caplog.text
    put_drop("good.parquet", seed=2)
    listed = list_drops(scoring.context("sweep")).to_json()
    assert listed["waiting"] == 1 and len(listed["chunks"]) == 1
    assert run(scoring, "good.parquet")["scored"] == 1 and (scoring.inbox / "spark.parquet").is_dir()


def test_a_stalled_upload_is_scored_when_it_is_complete(scoring: Apex, put_drop: Drop) -> None:
    patient = scoring.but(upload_minutes=10)
    content = put_drop("slow.parquet", seed=1).read_bytes()
    path = scoring.inbox / "slow.parquet"
    path.write_bytes(content[: len(content) // 2])
    listed = list_drops(patient.context("sweep")).to_json()
    assert listed["chunks"] == [] and listed["skip"].startswith("slow.parquet: waits for the rest of its upload")
    expected = patient.call("score")
    assert expected.code == 0 and expected.result is not None and expected.result["skip"] == listed["skip"]
    put_drop("good.parquet", seed=2)
    result = run(patient, "slow.parquet", "good.parquet")
    assert [row["state"] for row in result["drops"]] == ["unfinished", "scored"] and alerts(scoring) == {}
    assert places(scoring)["inbox"] == ["slow.parquet"]
    console = Console(width=200, record=True, file=io.StringIO())
    _waiting(patient.settings, patient.pipeline, console)
    shown = console.export_text()
    assert "drops waiting: 1 (slow.parquet)" in shown and "waits for the rest of its upload" in shown
    path.write_bytes(content)
    assert run(patient, "slow.parquet")["scored"] == 1
    # a file that is never completed becomes bad
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="slow.parquet: a truncated parquet file"):
        run(scoring, "slow.parquet")
    assert alerts(scoring).keys() == {"slow.parquet"}


def test_an_inbox_with_only_bad_drops_scores_nothing(scoring: Apex) -> None:
    (scoring.inbox / NOT_UTF8).write_bytes(b"any")
    context = scoring.context("score-sweep-2")
    listed = list_drops(context).to_json()
    assert (listed["waiting"], listed["chunks"], "skip" in listed) == (0, [], False)
    assert report(context).to_json()["scored"] == 0 and len(report(context).to_json()["bad"]) == 1
    assert "skip" in list_drops(context).to_json()
    scoring.sql(
        "INSERT INTO orders.alerts (kind, subject, message, seen_in)"
        " SELECT 'bad_drop', 'drop-' || n, 'why', %s FROM generate_series(1, 500) AS n",
        (context.run,),
    )
    many = report(context).to_json()["bad"]  # Airflow maps over a bounded number
    assert (
        len(many) == MAX_BAD + 1 and many[-1]["reason"] == "301 more drops are bad; all of them: apex -p orders alerts"
    )
    (scoring.inbox / NOT_UTF8).write_bytes(b"any")
    done = scoring.call("score")
    assert done.code == DataError.exit_code and "1 of 1 drops are bad" in done.err and "not UTF-8" in done.err


def test_an_internal_error_on_a_drop_stops_no_other_drop(
    scoring: Apex, put_drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["fault.parquet", "good.parquet"]
    for seed, name in enumerate(names):
        put_drop(name, seed=seed)
    checked = scoring_of_a_file.check_file

    def check_file(con: Any, path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "fault.parquet":
            raise RuntimeError("unforeseen")
        return checked(con, path, *arguments, **options)

    monkeypatch.setattr(scoring_of_a_file, "check_file", check_file)
    with pytest.raises(RuntimeError, match="unforeseen"):
        run(scoring, *names)
    assert places(scoring)["inbox"] == ["fault.parquet"] and places(scoring)["done"] == ["good.parquet"]
    result = score(scoring.context("again"), names, bad_is_error=False).to_json()
    assert [row["state"] for row in result["drops"]] == ["fault", "gone"]
    assert alerts(scoring) == {"fault.parquet": "Apex itself fails at this drop, RuntimeError: unforeseen"}
    monkeypatch.undo()
    assert run(scoring, *names)["scored"] == 1 and alerts(scoring) == {}


def test_a_drop_that_needs_too_much_memory_blocks_no_other_drop(
    scoring: Apex, put_drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["large.parquet", "good.parquet"]
    for seed, name in enumerate(names):
        put_drop(name, seed=seed)
    checked = scoring_of_a_file.check_file

    def check_file(con: Any, path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "large.parquet":
            with engine.errors_name(path.name):
                con.execute("SET memory_limit = '1MB'")
                con.execute("SELECT list(random()) FROM range(10000000)").fetchall()
        con.execute("SET memory_limit = '1GB'")
        return checked(con, path, *arguments, **options)

    monkeypatch.setattr(scoring_of_a_file, "check_file", check_file)
    with pytest.raises(TransientError, match="large.parquet: out of memory or disk; raise APEX_MEMORY_LIMIT_MB"):
        run(scoring, *names)
    assert places(scoring)["inbox"] == ["large.parquet"] and places(scoring)["done"] == ["good.parquet"]
    assert alerts(scoring).keys() == {"large.parquet"}


def test_the_alert_about_a_bad_drop_can_be_closed_manually(scoring: Apex) -> None:
    def deliver() -> None:
        (scoring.inbox / "bad.parquet").write_bytes(b"junk")
        with pytest.raises(DataError):
            run(scoring, "bad.parquet")

    deliver()
    ((number,),) = scoring.sql("SELECT alert_id FROM orders.open_alerts")
    listed = scoring.call("-p", "orders", "alerts")
    assert f"{number}  bad_drop  bad.parquet" in listed.out and "not a parquet file" in listed.out
    assert "not sent" not in listed.out
    assert "not sent by mail yet" in scoring.call("-p", "orders", "alerts", APEX_ALERT_MAIL_TO="ops@example.org").out
    unsaid = scoring.call("alerts", "close", str(number), "--reason", " ")
    assert unsaid.code == ConfigError.exit_code and len(alerts(scoring)) == 1
    closed = scoring.call("alerts", "close", str(number), "--reason", "a test file", "--who", "ann")
    assert closed.code == 0 and "bad.parquet" in closed.out
    assert alerts(scoring) == {} and "No alert is open" in scoring.call("-p", "orders", "alerts").out
    assert list_drops(scoring.context("sweep")).to_json()["waiting"] == 0 and alerts(scoring) == {}  # it stays closed
    kept = (
        "SELECT subject, closed_by, closed_reason, resolved_at IS NOT NULL FROM orders.alert_history ORDER BY alert_id"
    )
    assert scoring.sql(kept) == [("bad.parquet", "ann", "a test file", True)]
    second = scoring.call("alerts", "close", str(number), "--reason", "again")
    assert second.code == ConfigError.exit_code and "is over since" in second.err
    assert "there is none with this number" in scoring.call("alerts", "close", "999", "--reason", "x").err
    deliver()  # unless it fails again
    assert alerts(scoring).keys() == {"bad.parquet"}
    assert scoring.sql(kept)[1:] == [("bad.parquet", None, None, False)]


def test_names_of_any_length_are_moved(scoring: Apex, put_drop: Drop) -> None:
    name = "é" * ((LONGEST_NAME - 8) // 2) + ".parquet"
    put_drop(seed=1).rename(scoring.inbox / name)
    (chunk,) = list_drops(scoring.context("list")).to_json()["chunks"]
    assert chunk["drops"] == [name] and len(chunk["label"]) <= MAX_LABEL + 1
    assert run(scoring, name)["scored"] == 1
    put_drop(seed=2).rename(scoring.inbox / name)  # another content under the same name
    assert run(scoring, name)["scored"] == 1
    for content in (b"junk", b"more junk"):
        (scoring.inbox / name).write_bytes(content)
        with pytest.raises(DataError, match="1 of 1 drops are bad"):
            run(scoring, name)
    result = places(scoring)
    assert result["inbox"] == [] and len(result["done"]) == 2 and name in result["done"]
    assert len(result["quarantine"]) == 4
