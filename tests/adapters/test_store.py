"""Files and folders are written atomically, and errors of an input name it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.file_schema import read_schema
from apex_ml.adapters.storage.atomic_writes import new_folder, write_atomically
from apex_ml.adapters.storage.files import digest
from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.parquet_files import check_parquet
from apex_ml.adapters.storage.raw_folder import data_files
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.file_names import hidden
from apex_ml.settings import CODE_ROOT, Settings


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_appears_when_its_block_ends_well(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "out").exists()
        assert hidden(partial.name)
    assert names(tmp_path) == ["out"] and (tmp_path / "out" / "a").read_text() == "1"


def test_a_folder_of_a_failed_block_vanishes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), new_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
        raise RuntimeError("half way")
    assert names(tmp_path) == []


def test_an_existing_folder_is_kept_under_another_name(tmp_path: Path) -> None:
    for content in "abc":
        with new_folder(tmp_path / "out") as partial:
            (partial / "a").write_text(content)
    assert names(tmp_path) == ["out", "out.replaced-1", "out.replaced-2"]
    assert [(tmp_path / n / "a").read_text() for n in names(tmp_path)] == ["c", "a", "b"]


KILLED = """
import os, signal, sys
from pathlib import Path
from apex_ml.adapters.storage.atomic_writes import new_folder, write_atomically
place = Path(sys.argv[1])
with new_folder(place / "out") as partial:
    (partial / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_only_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=CODE_ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (dead,) = tmp_path.iterdir()
    assert hidden(dead.name) and not (tmp_path / "out").exists()
    living = tmp_path / f".out.{os.getppid()}-abcdef.partial"
    living.mkdir()
    foreign = tmp_path / ".other.1-abcdef.partial"
    foreign.mkdir()
    with new_folder(tmp_path / "out"):
        assert not dead.exists()
    assert names(tmp_path) == sorted([living.name, foreign.name, "out"])


def test_a_file_is_written_atomically(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two" and names(path.parent) == ["file.json"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk can not be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_names_the_folder_and_leaves_nothing(full_disk: Path) -> None:
    path = full_disk / "file.bin"
    write_atomically(path, b"small")
    with pytest.raises(TransientError, match=rf"{full_disk}: the disk is full; free space"):
        write_atomically(path, bytes(200_000))
    assert names(full_disk) == ["file.bin"] and path.read_bytes() == b"small"
    with pytest.raises(TransientError, match="the disk is full"), new_folder(full_disk / "out") as partial:
        (partial / "a").write_bytes(bytes(200_000))
    assert names(full_disk) == ["file.bin"]


def test_a_full_disk_under_duckdb_is_reported(full_disk: Path, home: object) -> None:
    settings: Settings = home()  # type: ignore[operator]
    query = f"COPY (SELECT random() AS a FROM range(200000)) TO '{full_disk}/a.parquet' (FORMAT parquet)"
    with engine.connect(settings) as con, pytest.raises(TransientError, match="a.parquet: the disk is full"):
        with engine.errors_name("a.parquet"):
            con.execute(query)


RAW_ERRORS = [
    duckdb.InvalidInputException(
        'Invalid Input Error: Invalid string found in Parquet file "/a/b/c.parquet": value "x\\xF1"'
    ),
    duckdb.ConversionException("Conversion Error: Could not convert Timestamp(MS) to Timestamp(US)\n\nLINE 1: SELECT"),
    duckdb.OutOfRangeException("Out of Range Error: Overflow in 12"),
    duckdb.IOException("IO Error: Unsupported compression in /a/b/c.parquet"),
    duckdb.BinderException('Binder Error: no column "day"\n\nLINE 1: SELECT day'),
    duckdb.InternalException("INTERNAL Error: Attempted to access index 3\n\nStack Trace:\n0  duckdb::Exception"),
    duckdb.Error(""),
]


@pytest.mark.parametrize("raised", RAW_ERRORS, ids=[type(e).__name__ for e in RAW_ERRORS])
def test_an_error_of_duckdb_becomes_a_message_with_a_remedy(raised: Exception) -> None:
    with pytest.raises(DataError) as error, engine.errors_name("c.parquet"):
        raise raised
    text = str(error.value)
    assert text.startswith("c.parquet: ") and re.search("; (write|correct) ", text)
    assert not re.search("Error:|LINE 1|Stack|/a/b|\n", text)
    message = re.search("value .x|Timestamp|Overflow in 12|compression|no column .day|index 3", str(raised))
    assert message is None or message[0] in text


HIDDEN = {
    "_SUCCESS": True, "_started_1": True, ".part.crc": True, "a.parquet.tmp": True, "a.parquet.crc": True,
    "a.parquet.filepart": True, "a.parquet.PART": True, "a.parquet.crdownload": True, "~$a.parquet": True,
    ".a.parquet": True, "a.parquet": False, "part-0.snappy.parquet": False, "a.csv": False, "a_b.parquet": False,
}  # fmt: skip


@pytest.mark.parametrize(("name", "is_hidden"), HIDDEN.items())
def test_which_files_are_never_data(name: str, is_hidden: bool) -> None:
    assert hidden(name) is is_hidden


def test_data_files_are_found_in_folders_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in [*HIDDEN, "day=1/b.parquet", "_delta_log/0.json", ".cache/c.parquet"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    result = [str(p.relative_to(tmp_path)) for p in data_files(tmp_path, "APEX_RAW_URL")]
    assert result == sorted([*(n for n, h in HIDDEN.items() if not h), "day=1/b.parquet"])


@pytest.mark.parametrize(("make", "words"), [(False, "no such folder"), (True, "no data files; put parquet files")])
def test_no_data_names_folder_setting_and_remedy(tmp_path: Path, make: bool, words: str) -> None:
    folder = tmp_path / "raw"
    if make:
        folder.mkdir()
        (folder / "_SUCCESS").touch()
    with pytest.raises(DataError, match=rf"APEX_RAW_URL={folder}: {words}"):
        data_files(folder, "APEX_RAW_URL")


@pytest.mark.parametrize(
    ("url", "folder"), [("/a/b", "/a/b"), ("file:///a/b", "/a/b"), ("file:///a%20b", "/a b"), ("/a b/c", "/a b/c")]
)
def test_locations(url: str, folder: str) -> None:
    assert local_folder(url, "X") == Path(folder)


@pytest.mark.parametrize("url", ["s3://bucket/raw", "http://host/a", "hdfs://a"])
def test_an_unsupported_scheme_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=rf"APEX_RAW_URL={url}: the scheme"):
        local_folder(url, "APEX_RAW_URL")


def damaged(kind: str, whole: bytes) -> bytes:
    middle = len(whole) // 2
    return {
        "empty": b"",
        "text": b"a,b\n1,2\n",
        "cut": whole[:middle],
        "head only": b"PAR1",
        "twice the mark": b"PAR1PAR1",
        "broken footer": whole[:-200] + bytes(192) + whole[-8:],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", r"not a parquet file \(0 bytes\): it is empty, as after a broken upload; deliver it again"),
        ("text", r"not a parquet file \(8 bytes\)"),
        ("cut", "a truncated parquet file .*no footer.*deliver it again"),
        ("head only", "a truncated parquet file"),
        ("twice the mark", "a truncated parquet file"),
        ("broken footer", "a damaged parquet file; deliver it again"),
    ],
)
def test_a_bad_file_names_itself_and_the_remedy(tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "orders.parquet"
    pq.write_table(pa.table({"a": list(range(1_000))}), path)
    path.write_bytes(damaged(kind, path.read_bytes()))
    with pytest.raises(DataError, match=f"orders.parquet: {words}"):
        read_schema(path)


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone.parquet: the file was removed"):
        check_parquet(tmp_path / "gone.parquet")


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "proc").symlink_to("/proc")
    with pytest.raises((ConfigError, FileNotFoundError)):
        write_atomically(tmp_path / "proc" / "x", b"")


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
