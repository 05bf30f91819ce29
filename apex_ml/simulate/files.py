"""Write part files the way Spark does, and publish a folder only when it is whole."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.errors import ConfigError, TransientError


def local_folder(url: str, what: str) -> Path:
    """The folder of a path or file:// URL; ConfigError for any other scheme."""
    path = url.removeprefix("file://")
    if "://" in path or not path:
        raise ConfigError(f"{what} {url!r}: must be a folder of this machine")
    return Path(path)


def part_files(folder: Path) -> list[Path]:
    """The parquet files of a folder by name; markers and unfinished files (leading _ or .) are left out."""
    return sorted(path for path in folder.glob("*.parquet") if path.name[0] not in "._" and path.is_file())


def write_part(table: pa.Table, path: Path, *, plain: frozenset[str] = frozenset(), arrow_schema: bool = False) -> None:
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
    """Give an empty folder to fill; it becomes `out` on leaving, or vanishes when the block raises.

    Raises ConfigError when `out` is a file, holds files and `overwrite` is false, or holds anything but parquet files
    and markers, which are never removed. TransientError when the disk is full.
    """
    strangers, found = _look_at(out)
    if found and not overwrite:
        raise ConfigError(f"{out} is not empty ({len(found)} files, {found[0]} first): choose another folder or pass --overwrite")
    if strangers:
        raise ConfigError(f"{out} holds {strangers[0]}, which is no part file: --overwrite replaces folders of part files only")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"cannot write beside {out}: {error.strerror}") from error
    try:
        stage.chmod(0o755)
        yield stage
        for kept in (path for path in out.glob(".*") if path.is_file()) if out.is_dir() else ():
            shutil.copy2(kept, stage / kept.name)
        _replace(out, stage)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise TransientError(f"no space left for {out}: free some and run again; nothing was changed") from error
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _look_at(out: Path) -> tuple[list[str], list[str]]:
    """Names in a folder that are no part files or markers, and all names but the hidden ones."""
    if not out.exists():
        return [], []
    if not out.is_dir():
        raise ConfigError(f"{out} is a file: give a folder")
    names = sorted(path.name for path in out.iterdir())
    strangers = [
        name for name in names if (out / name).is_dir() or not (name[0] in "._" or name.endswith(".parquet"))
    ]
    return strangers, [name for name in names if name[0] != "."]


def _replace(out: Path, stage: Path) -> None:
    """Put the stage in the place of `out`, which is at no moment half one and half the other."""
    if not out.exists():
        os.rename(stage, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    os.rename(out, old)
    try:
        os.rename(stage, out)
    except OSError:
        os.rename(old, out)
        raise
    shutil.rmtree(old)
