"""Write part files the way Spark does, and publish a folder only when it is whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.storage.atomic_writes import new_folder
from apex_ml.errors import ConfigError
from apex_ml.file_names import hidden
from apex_ml.wording import counted

SIMULATED = "_SIMULATED"
"""Marker with one line for each generated file, which distinguishes them from real files."""


def mark_simulated(folder: Path) -> None:
    """Record which files of a folder are generated."""
    (folder / SIMULATED).write_text("".join(f"{path.name}\n" for path in part_files(folder)), encoding="utf-8")


def is_simulated(folder: Path, files: Sequence[Path]) -> bool:
    """Whether all these data files of a folder are generated; False without files."""
    try:
        names = set((folder / SIMULATED).read_text(encoding="utf-8").splitlines())
    except OSError:
        return False
    return bool(files) and all(file.parent == folder and file.name in names for file in files)


def part_files(folder: Path) -> list[Path]:
    """The parquet files of a folder by name; markers and unfinished files (leading _ or .) are left out."""
    return sorted(path for path in folder.glob("*.parquet") if not hidden(path.name) and path.is_file())


def write_part(
    table: pa.Table, path: Path | BytesIO, *, plain: frozenset[str] = frozenset(), arrow_schema: bool = False
) -> None:
    """Write one snappy file as Spark does: INT96 times, and strings without a trace of Arrow's dictionaries.

    `plain` names columns too varied for a dictionary page. With `arrow_schema` a reader gets Arrow's own types back
    (dictionaries, time zones), and times are written in microseconds instead of INT96, which has no zone.
    """
    columns = [
        column.cast(pa.string()) if name in plain and pa.types.is_dictionary(column.type) else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    pq.write_table(
        pa.table(columns, names=table.column_names),
        path,
        compression="snappy",
        use_dictionary=[name for name in table.column_names if name not in plain],
        store_schema=arrow_schema,
        use_deprecated_int96_timestamps=not arrow_schema,
        coerce_timestamps="us" if arrow_schema else None,
    )


def write_parts(table: pa.Table, folder: Path, files: int, *, label: str, entity: str, threads: int = 2) -> list[Path]:
    """Cut a table into `files` part files of nearly equal length and write them, then the marker _SUCCESS.

    Names are ``part-0000N-<token>.snappy.parquet``; the token is a hash of `label`, so that equal arguments give equal
    names on any machine.
    """
    token = hashlib.sha256(label.encode()).hexdigest()[:12]
    bounds = [table.num_rows * number // files for number in range(files + 1)]
    paths = [folder / f"part-{number:05d}-{token}.snappy.parquet" for number in range(files)]

    def write(number: int) -> None:
        rows = table.slice(bounds[number], bounds[number + 1] - bounds[number])
        write_part(rows, paths[number], plain=frozenset({entity}))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(files)))
    (folder / "_SUCCESS").touch()
    return paths


@contextmanager
def staged_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder to fill. It becomes `out` at the end, or is removed when the block raises.

    Raises ConfigError when `out` is a file, holds files and `overwrite` is false, or holds anything but parquet files
    and markers: foreign files are never removed. A full disk is TransientError.
    """
    foreign, names = _look_at(out)
    if names and not overwrite:
        raise ConfigError(
            f"{out} is not empty ({counted(len(names), 'file')}, {names[0]} first): choose another folder or pass"
            " --overwrite"
        )
    if foreign:
        raise ConfigError(
            f"{out} contains {foreign[0]}, which is not a part file: --overwrite replaces folders of part files only"
        )
    old: Path | None = None
    with new_folder(out) as stage:
        yield stage
        for kept in (path for path in out.glob(".*") if path.is_file()) if out.is_dir() else ():
            shutil.copy2(kept, stage / kept.name)
        if out.exists():  # new_folder would keep it; here the user allowed its removal
            old = _set_aside(out)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _look_at(out: Path) -> tuple[list[str], list[str]]:
    """Names in a folder that are not part files or markers, and all names except hidden ones."""
    if not out.exists():
        return [], []
    if not out.is_dir():
        raise ConfigError(f"{out} is a file: give a folder")
    names = sorted(path.name for path in out.iterdir())
    foreign = [name for name in names if (out / name).is_dir() or not (name[0] in "._" or name.endswith(".parquet"))]
    return foreign, [name for name in names if name[0] != "."]


def _set_aside(out: Path) -> Path:
    """Rename the folder to a hidden name, which the next run removes."""
    old = out.with_name(f".{out.name}.{os.getpid()}-old.partial")
    try:
        return out.rename(old)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be replaced ({error.strerror}), is it a mount point? Give a folder in it"
        ) from error
