"""The drop trigger on a real folder."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apex_airflow.assets import champion, inbox, scored
from apex_airflow.inbox import list_files
from apex_airflow.triggers.drops import DropTrigger
from apex_ml.adapters.storage.drops import Inbox
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from tests.support import watching

FOLDERS = {"complete": "marker", "file": "_SUCCESS", "quiet_seconds": 60}
POLL = 0.05


def watch(folder: Path, *acts: Callable[[], Any]) -> list[list[str]]:
    """The names announced after each act, and eight looks."""
    return watching.watch(DropTrigger(str(folder), POLL, FOLDERS), POLL * 8, *acts)


def test_each_settled_file_emits_one_event(tmp_path: Path) -> None:
    waiting = tmp_path / "waiting.parquet"
    waiting.write_bytes(b"1")
    new = tmp_path / "new.parquet"
    received = watch(
        tmp_path,
        lambda: None,
        lambda: new.write_bytes(b"22"),
        lambda: None,
        lambda: new.write_bytes(b"333"),
        waiting.unlink,
        lambda: waiting.write_bytes(b"1"),
    )
    assert received == [["waiting.parquet"], ["new.parquet"], [], ["new.parquet"], [], ["waiting.parquet"]]


def test_other_names_emit_no_event(tmp_path: Path) -> None:
    def arrive() -> None:
        for name in (".hidden", "_SUCCESS", "a.parquet.tmp"):
            (tmp_path / name).write_bytes(b"1")
        (tmp_path / "folder.parquet").mkdir()

    assert watch(tmp_path, arrive) == [[]]


def test_the_trigger_and_the_inbox_see_the_same_names(tmp_path: Path) -> None:
    inbox_of_scoring = Inbox(load_pipeline(Settings.load(home=tmp_path, drops_url=str(tmp_path))))
    inbox_of_scoring.prepare()
    names = ["a.parquet", "A.PARQUET", "part-0.parquet", "no suffix", "a.parquet.crc", "a.PARQUET.CRC", "a.temp"]
    ends = (".filepart", ".part", ".crdownload", ".TMP", ".partial", "._COPYING_", "~")
    names += [f"up.parquet{end}" for end in ends]
    names += ["~$orders.parquet", ".hidden", "_SUCCESS", "~orders.parquet", "apart"]
    for name in names:
        (inbox_of_scoring.inbox / name).write_bytes(b"1")
    result = list(list_files(str(inbox_of_scoring.inbox), inbox_of_scoring.folder_rule))
    assert result == sorted(drop.name for drop in inbox_of_scoring.look())
    assert result == ["A.PARQUET", "a.parquet", "apart", "no suffix", "part-0.parquet", "~orders.parquet"]


def test_an_unreadable_file_emits_an_event_and_hides_no_other(tmp_path: Path) -> None:
    def arrive() -> None:
        (tmp_path / "round.parquet").symlink_to("round.parquet")
        (tmp_path / "nothing.parquet").symlink_to("no such file")
        os.mkfifo(tmp_path / "pipe.parquet")
        (tmp_path / os.fsdecode(b"not utf8 \xff.parquet")).write_bytes(b"1")
        (tmp_path / "good.parquet").write_bytes(b"1")

    names = ["good.parquet", "not utf8 \ufffd.parquet", "nothing.parquet", "pipe.parquet", "round.parquet"]
    assert watch(tmp_path, arrive, lambda: None) == [names, []]


def test_a_growing_file_waits_until_it_has_settled(tmp_path: Path) -> None:
    async def scene() -> tuple[bool, bool]:
        trigger = DropTrigger(str(tmp_path), POLL, FOLDERS)
        received: list[Any] = []

        async def listen() -> None:
            async for event in trigger.run():
                received.append(event.payload)

        listener = asyncio.create_task(listen())
        with (tmp_path / "growing.parquet").open("wb", buffering=0) as file:
            for _ in range(60):
                file.write(b"x")
                await asyncio.sleep(POLL / 4)
        early = bool(received)
        await asyncio.sleep(POLL * 8)
        listener.cancel()
        return early, received == [{"count": 1, "files": ["growing.parquet"]}]

    assert asyncio.run(scene()) == (False, True)


def test_many_files_make_one_bounded_event(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03}.parquet").write_bytes(b"1")

    async def first() -> Any:
        return (await anext(DropTrigger(str(tmp_path), POLL, FOLDERS).run())).payload

    payload = asyncio.run(asyncio.wait_for(first(), 10))
    assert payload["count"] == 300 and payload["files"][0] == "000.parquet" and len(payload["files"]) == 20


def test_the_trigger_logs_a_missing_inbox_once_and_waits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "inbox"

    def arrive() -> None:
        folder.mkdir()
        (folder / "a.parquet").write_bytes(b"1")

    received = watch(folder, lambda: None, arrive, lambda: shutil.rmtree(folder), arrive)
    assert received == [[], ["a.parquet"], [], ["a.parquet"]]
    log = "".join(capfd.readouterr())
    assert log.count("cannot be read") == 2 and log.count("can be read again") == 2


def test_the_trigger_can_be_created_from_its_serialization(tmp_path: Path) -> None:
    path, kwargs = DropTrigger(str(tmp_path), 1.5, FOLDERS).serialize()
    assert path == "apex_airflow.triggers.drops.DropTrigger"
    assert DropTrigger(**kwargs).serialize() == (path, kwargs)


def test_the_assets(tmp_path: Path) -> None:
    pipeline = load_pipeline(Settings.load(home=tmp_path, scoring__poll_seconds=3))
    asset = inbox(pipeline)
    trigger = asset.watchers[0].trigger
    assert asset.name == "orders_inbox" and asset.watchers[0].name == "orders_inbox_watcher"
    assert [(a.name, a.watchers) for a in (champion(pipeline), scored(pipeline))] == [
        ("orders_champion", []),
        ("orders_scored", []),
    ]
    folder = str(tmp_path / "data" / "orders" / "drops" / "inbox")
    assert trigger.serialize()[1] == {"inbox": folder, "poll_seconds": 3, "folders": FOLDERS}
    remote = inbox(load_pipeline(Settings.load(home=tmp_path, locations__drops="s3://bucket/drops")))
    assert remote.watchers[0].trigger.serialize()[1]["inbox"] == "s3://bucket/drops/inbox"
    assert not inbox(load_pipeline(Settings.load(home=tmp_path, locations__drops="ftp://bucket/drops"))).watchers
    url = load_pipeline(Settings.load(home=tmp_path, locations__drops="file:///my%20drops"))
    as_url = inbox(url).watchers[0].trigger
    assert as_url.serialize()[1]["inbox"] == "/my drops/inbox"
