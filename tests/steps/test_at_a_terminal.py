"""A user who calls a step reads a summary, at a terminal or not; a task of Airflow reads the result line."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apex_ml.cli.result_text import MAX_ITEMS, result_text
from apex_ml.settings import CODE_ROOT
from tests.support.apex_home import COMMAND, Apex
from tests.support.forked_command import Done
from tests.support.ledger import ROWS

OF_A_USER = {"APEX_ORIGIN": ""}
"""Variables of a command that no DAG run started."""


def at_a_terminal(apex: Apex, *arguments: str) -> Done:
    """Run `apex ARGUMENTS` with a terminal as its standard output; the log goes to a pipe."""
    ours, its = pty.openpty()
    command, env = [*COMMAND, *arguments], apex.environment(**OF_A_USER)
    with subprocess.Popen(command, env=env, cwd=CODE_ROOT, stdout=its, stderr=subprocess.PIPE, text=True) as process:
        os.close(its)
        _, log = process.communicate(timeout=300)
    shown = b""
    try:
        while part := os.read(ours, 65_536):
            shown += part
    except OSError:  # the other end is closed and all is read
        pass
    os.close(ours)
    return Done(process.returncode, None, log, shown.decode())


FOLLOWS = "A manual command does not start orders_monitor. It runs next at 0 5 * * * (cron, UTC)."


def test_manual_scoring_reports_the_result_and_the_next_monitoring(
    scoring: Apex, put_drop: Callable[..., Path]
) -> None:
    put_drop("a.parquet")
    done = at_a_terminal(scoring, "score")
    assert done.code == 0 and "APEX_RESULT" not in done.out and "{" not in done.out, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[0] == "score: done (run manual)" and f"rows scored {ROWS}" in lines
    assert any(line.startswith("drops drop a.parquet, state scored, ") for line in lines)
    assert FOLLOWS in done.err and "now: apex -p orders monitor" in done.err
    # nothing is waiting: nothing follows
    second = at_a_terminal(scoring, "score")
    assert second.out.strip() == "score: nothing to do: no drops are waiting" and FOLLOWS not in second.err
    # a task of Airflow gets the line, and wakes the DAG itself
    put_drop("b.parquet", seed=2)
    task = scoring.call("score", "--run", "score-sweep-1", "--drops", '["b.parquet"]')
    assert task.result is not None and task.result["scored"] == 1 and FOLLOWS not in task.err


def test_a_user_reads_text_in_a_pipe_too(scoring: Apex, put_drop: Callable[..., Path]) -> None:
    put_drop("a.parquet")
    done = scoring.call("score", **OF_A_USER)
    assert done.code == 0 and done.result is None and "{" not in done.out, done.err
    assert done.out.startswith("score: done (run manual)\n")
    assert scoring.call("score", "--list", **OF_A_USER).out == "score: nothing to do: no drops are waiting\n"


def test_moves_of_the_champion_are_text_for_a_user_and_a_line_for_a_task(nights: Any) -> None:
    reason = ("--reason", "a test")
    for first, arguments in {
        "promote: done (run one)": ("promote", "--run", "one"),
        "force: done (run manual)": ("promote", "--force", *reason, "2"),
        "rollback: done (run manual)": ("rollback", *reason),
    }.items():
        done = nights.apex.call(*arguments, **OF_A_USER)
        assert done.code == 0 and done.result is None and done.out.splitlines()[0] == first, done.err
    task = nights.apex.call("promote", "--force", *reason, "2")
    assert task.result is not None and task.result["moved"] and len(task.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        ({"step": "elt", "run": "a", "examples": 90_000}, ["elt: done (run a)", "  examples  90,000"]),
        ({"step": "score", "skip": "why\u200b", "chunks": []}, [r"score: nothing to do: why\u200b"]),
        ({"step": "train", "log_loss": 0.51234567, "promotable": True}, ["log loss    0.5123", "promotable  yes"]),
        ({"step": "promote", "reasons": ["one", "two"]}, ["  reasons  one", "           two"]),
        ({"step": "promote", "evidence": {"n": 1, "deep": {"x": 1}}}, ["  evidence  n 1, … 1 more"]),
        ({"step": "score", "drops": [{"drop": "a"}] * (MAX_ITEMS + 5)}, ["  drops  drop a", "… 5 more"]),
    ],
)
def test_the_text_of_a_result(result: dict[str, object], lines: list[str]) -> None:
    text = result_text(result)
    assert all(line in text for line in lines), text
    assert len(text.splitlines()) <= MAX_ITEMS + 3
