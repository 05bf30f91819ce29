"""The folders of the drops."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from jinja2.utils import htmlsafe_json_dumps

from apex_ml.adapters.storage.drops import Inbox
from apex_ml.adapters.storage.waiting import Waiting, file_state
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.services.drop_chunks import chunks

SHA = "ab" * 32


@pytest.fixture
def inbox(home: Any) -> Inbox:
    settings = Inbox(load_pipeline(home()))
    settings.prepare()
    return settings


def put(inbox: Inbox, name: str, content: str = "x", age: int = 0) -> Path:
    path = inbox.inbox / name
    path.write_text(content)
    os.utime(path, (1_700_000_000 - age,) * 2)
    return path


def now(inbox: Inbox, name: str) -> Waiting:
    return file_state(inbox.inbox / name, name)


def test_drops_are_listed_oldest_first_without_hidden_files(inbox: Inbox) -> None:
    for nr, name in enumerate(["b.parquet", "a.parquet", ".c.parquet", "d.parquet.tmp", "_SUCCESS", "e.parquet"]):
        put(inbox, name, age=nr)
    (inbox.inbox / "folder").mkdir()
    assert [w.name for w in inbox.look()] == ["e.parquet", "a.parquet", "b.parquet"]


def test_a_growing_file_is_not_listed_yet(inbox: Inbox) -> None:
    put(inbox, "whole.parquet")
    growing = put(inbox, "growing.parquet")
    end = threading.Event()

    def grow() -> None:
        while not end.wait(0.02):
            with growing.open("a") as file:
                file.write("more")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        time.sleep(0.05)
        result = [w.name for w in inbox.settled(0.3)]
    finally:
        end.set()
        writer.join()
    assert result == ["whole.parquet"]
    assert len(inbox.settled(0.05)) == 2


def test_an_empty_inbox_is_not_waited_for(inbox: Inbox) -> None:
    started = time.monotonic()
    assert inbox.settled(5) == [] and time.monotonic() - started < 1


@pytest.mark.parametrize("name", ["../done/a.parquet", "/etc/passwd", "a/b", ".hidden", "_SUCCESS", "a.tmp", "..", ""])
def test_a_name_that_leaves_the_inbox_is_refused(inbox: Inbox, name: str) -> None:
    with pytest.raises(ConfigError, match="plain name of a file"):
        inbox.path(name)


def test_a_finished_drop_never_overwrites_another(inbox: Inbox) -> None:
    put(inbox, "a.parquet", "one")
    assert inbox.finish(now(inbox, "a.parquet"), "1" * 64).name == "a.parquet"
    put(inbox, "a.parquet", "two")
    assert inbox.finish(now(inbox, "a.parquet"), "2" * 64).name == "a.222222222222.parquet"
    assert sorted(p.read_text() for p in inbox.done.iterdir()) == ["one", "two"]
    assert inbox.look() == []


def test_a_rejected_drop_has_a_file_with_its_reason(inbox: Inbox) -> None:
    put(inbox, "bad.parquet", "junk")
    path = inbox.reject(now(inbox, "bad.parquet"), SHA, {"reason": "bad.parquet: not a parquet file"})
    reason = json.loads((inbox.quarantine / "bad.parquet.reason.json").read_text())
    assert path.read_text() == "junk" and not (inbox.inbox / "bad.parquet").exists()
    assert (reason["drop"], reason["sha256"], reason["reason"]) == (
        "bad.parquet",
        SHA,
        "bad.parquet: not a parquet file",
    )
    assert reason["rejected_at"]


WHOLE = b"PAR1" + b"x" * 100 + (50).to_bytes(4, "little") + b"PAR1"
UPLOADS = {
    "cut": (WHOLE[:60], True),
    "footer without its end": (WHOLE[:-1], True),
    "head alone": (b"PAR1", True),
    "half of the head": (b"PA", True),
    "nothing yet": (b"", True),
    "room reserved": (b"\0" * 500, True),
    "room reserved behind the head": (WHOLE[:60] + b"\0" * 500, True),
    "encrypted, cut": (b"PARE" + b"x" * 50, True),
    "whole": (WHOLE, False),
    "encrypted": (b"PARE" + b"x" * 50 + b"PARE", False),
    "no parquet": (b"cliente_id,fecha\n", False),
    "two bytes of text": (b"id", False),
}


@pytest.mark.parametrize(("content", "waits"), UPLOADS.values(), ids=UPLOADS)
def test_an_upload_that_stalls_gets_time(home: Any, content: bytes, waits: bool) -> None:
    inbox = Inbox(load_pipeline(home(upload_minutes=10)))
    inbox.prepare()
    path = inbox.inbox / "a.parquet"
    path.write_bytes(content)
    os.utime(path, (time.time() - 86_400,) * 2)  # as a client that keeps the modification time sets it
    (drop,) = inbox.look()
    for minutes, left_alone in ((0, waits), (9, waits), (10.1, False)):
        reason = inbox.unfinished(drop, time.time() + 60 * minutes)
        assert (reason is not None) is left_alone, minutes
    if waits:
        reason = inbox.unfinished(drop, time.time() + 60 * 9)
        assert reason and reason.startswith("a.parquet: waits for the rest of its upload") and "9 minutes" in reason
        assert f"{len(content):,} bytes" in reason and "scoring.upload_minutes" in reason


def test_an_unreadable_file_is_not_a_running_upload(inbox: Inbox) -> None:
    (inbox.inbox / "nothing.parquet").symlink_to("no such file")
    os.mkfifo(inbox.inbox / "pipe.parquet")
    assert [inbox.unfinished(drop) for drop in inbox.look()] == [None, None]
    assert inbox.unfinished(Waiting("gone.parquet", 1, 1)) is None


def test_a_reason_is_readable_utf8(inbox: Inbox) -> None:
    put(inbox, "pedidos_año.parquet", "junk")
    words = "columna región: «Ñuñoa» is not allowed; broken: \udcff"
    inbox.reject(now(inbox, "pedidos_año.parquet"), SHA, {"reason": words})
    text = (inbox.quarantine / "pedidos_año.parquet.reason.json").read_text(encoding="utf-8")
    assert "pedidos_año.parquet" in text and "columna región: «Ñuñoa»" in text
    assert json.loads(text)["reason"] == words


def test_a_drop_moved_by_another_worker_is_no_error(inbox: Inbox) -> None:
    inbox.finish(Waiting("gone.parquet", 1, 1), SHA)
    assert list(inbox.done.iterdir()) == []


def test_a_new_file_with_the_name_of_a_scored_drop_is_not_moved(inbox: Inbox) -> None:
    put(inbox, "a.parquet", "one")
    drop = now(inbox, "a.parquet")
    put(inbox, "a.parquet", "another")
    inbox.finish(drop, "1" * 64)
    assert list(inbox.done.iterdir()) == []
    assert [(p.name, p.read_text()) for p in inbox.inbox.iterdir()] == [("a.parquet", "another")]


def test_a_readable_file_is_not_quarantined(inbox: Inbox) -> None:
    """As when another file took the name of a pipe just then."""
    path = put(inbox, "a.parquet", "good")
    inbox.quarantine_unreadable("a.parquet", {"reason": "a.parquet: is a pipe"})
    assert path.read_text() == "good"
    path.unlink()
    os.mkfifo(path)
    assert [w.name for w in inbox.settled(0.01)] == ["a.parquet"]
    inbox.quarantine_unreadable("a.parquet", {"reason": "a.parquet: is a pipe"})
    assert inbox.look() == [] and (inbox.quarantine / "a.parquet").is_fifo()
    inbox.quarantine_unreadable("a.parquet", {"reason": "gone"})


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_a_non_file_with_the_name_of_a_drop_is_not_moved(inbox: Inbox, make: Any) -> None:
    path = put(inbox, "a.parquet")
    drop = now(inbox, "a.parquet")
    path.unlink()
    make(path)
    inbox.finish(drop, SHA)
    assert list(inbox.done.iterdir()) == [] and path.exists() and not path.is_file()


CHUNKS = [
    # sizes, most drops, most bytes, names by chunk
    ([], 10, 100, []),
    ([1, 1, 1], 2, 100, [["0", "1"], ["2"]]),
    ([60, 60, 60], 10, 100, [["0"], ["1"], ["2"]]),
    ([40, 40, 40], 10, 100, [["0", "1"], ["2"]]),
    ([500, 1], 10, 100, [["0"], ["1"]]),
    ([1, 500, 1], 10, 100, [["0"], ["1"], ["2"]]),
    ([50, 50], 10, 100, [["0", "1"]]),
]


@pytest.mark.parametrize(("sizes", "drops", "size", "expected"), CHUNKS)
def test_chunks_are_bounded_and_keep_the_order(
    inbox: Inbox, sizes: list[int], drops: int, size: int, expected: list[list[str]]
) -> None:
    for nr, length in enumerate(sizes):
        put(inbox, str(nr), "x" * length, age=-nr)
    result = chunks(inbox.look(), drops, size)
    assert [list(c.drops) for c in result] == expected
    assert [c.label for c in result] == [c[0] if len(c) == 1 else f"{c[0]} +{len(c) - 1}" for c in expected]


@pytest.mark.parametrize("name", ["plain-{:04d}" + "x" * 200, "<&'ñ>{:04d}" + "&" * 200])
def test_the_names_of_a_chunk_fit_into_an_argument(name: str) -> None:
    waiting = [Waiting(name.format(nr), 1, nr) for nr in range(1000)]
    result = chunks(waiting, 1000, 2**30)
    assert [n for c in result for n in c.drops] == [w.name for w in waiting]
    assert len(result) > 1
    for chunk in result:
        assert len(f"--drops={htmlsafe_json_dumps(chunk.drops)}".encode()) < 128 * 1024
