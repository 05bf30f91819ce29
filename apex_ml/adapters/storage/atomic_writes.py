"""Write files and folders atomically: each is complete or absent. No other module writes them.

Everything is written in the target folder under a hidden name, synced, and renamed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apex_ml.adapters.storage.files import map_disk_errors


@contextmanager
def new_file(path: Path, *, mode: int | None = None, owner: tuple[int, int] | None = None) -> Iterator[Path]:
    """Yield a hidden path for the block to write, which becomes `path` on success and is removed otherwise.

    With `mode` the file has this mode when it appears, and until then only its writer can read it, from the first byte
    on: for secrets. `owner` is a user id and a group id.
    """
    with map_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            if mode is not None:
                os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            yield temporary
            if mode is not None:
                temporary.chmod(mode)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if owner is not None:
                os.chown(temporary, *owner)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomically(
    path: Path, content: bytes, *, mode: int | None = None, owner: tuple[int, int] | None = None
) -> None:
    """Write a file that is either complete or absent; see :func:`new_file`."""
    with new_file(path, mode=mode, owner=owner) as temporary:
        temporary.write_bytes(content)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder that becomes `path` when the block succeeds, and is removed otherwise.

    A folder that already exists at `path` is kept beside it as ``<name>.replaced-<n>``.
    """
    with scratch_folder(path.parent, path.name) as temporary:
        yield temporary
        if path.exists():
            n = 1
            while (aside := path.with_name(f"{path.name}.replaced-{n}")).exists():
                n += 1
            path.rename(aside)
        temporary.rename(path)


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a hidden folder that is removed at the end. Leftovers of a killed process are removed first."""
    with map_disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f".{name}.*.partial"):
            if not _alive(left):
                shutil.rmtree(left, ignore_errors=True)
        temporary = parent / f".{name}.{os.getpid()}-{uuid.uuid4().hex[:6]}.partial"
        temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _alive(partial: Path) -> bool:
    try:
        pid = int(partial.name.removesuffix(".partial").rsplit(".", 1)[1].split("-")[0])
        os.kill(pid, 0)
    except (ValueError, IndexError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
