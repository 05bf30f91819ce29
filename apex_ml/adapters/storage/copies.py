"""Copies of immutable files on this machine, within a limit of bytes: the least recently used make room for others.

Files lie in folders ``<root>/<a>/<b>/<id>/``, and the id names one content. A process holds the folders that it reads
by a shared lock, which ends with the process. No other process removes a folder that is held.
"""

from __future__ import annotations

import os
import shutil
import uuid
import weakref
from collections.abc import Iterator
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path

from apex_ml.adapters.storage.files import map_disk_errors

REMOVED = ".removed-"
"""Beginning of the name of a folder that is being removed."""
DEPTH = "[!.]*/[!.]*/[!.]*"


class Copies:
    """The folders of copies below a root."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root, self.max_bytes = root, max_bytes
        self._held: dict[Path, int] = {}
        weakref.finalize(self, _close, self._held)

    def hold(self, folder: Path) -> None:
        """Create a folder of copies if it is absent, and keep it from being removed until :meth:`release`."""
        with map_disk_errors(folder):
            while folder not in self._held:
                folder.mkdir(parents=True, exist_ok=True)
                lock = os.open(folder, os.O_RDONLY)
                flock(lock, LOCK_SH)
                if _is_same(lock, folder):
                    self._held[folder] = lock
                else:  # it was removed between the two calls
                    os.close(lock)
            os.utime(folder)

    def release(self) -> None:
        """Hold nothing any more."""
        _close(self._held)

    def make_room(self, needed: int) -> bool:
        """Remove the least recently used folders that nobody holds, until `needed` bytes more are within the limit.

        Returns whether they are.
        """
        with map_disk_errors(self.root):
            for left in self.root.glob(f"{REMOVED}*"):
                shutil.rmtree(left, ignore_errors=True)
            folders = sorted((folder.stat().st_mtime_ns, folder) for folder in self._folders())
            sizes = {folder: folder_bytes(folder) for _, folder in folders}
            total = sum(sizes.values()) + needed
            for _, folder in folders:
                if total > self.max_bytes and self._remove(folder):
                    total -= sizes[folder]
        return total <= self.max_bytes

    def remove_below(self, folder: Path) -> None:
        """Remove a folder of the root with all copies in it, except those that are held."""
        with map_disk_errors(self.root):
            held = [c for c in self._folders() if c.is_relative_to(folder) and not self._remove(c)]
            if not held:
                shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> Iterator[Path]:
        return (path for path in self.root.glob(DEPTH) if path.is_dir())

    def _remove(self, folder: Path) -> bool:
        """Remove a folder unless somebody holds it; returns whether it was removed."""
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            flock(lock, LOCK_EX | LOCK_NB)
            removed = self.root / f"{REMOVED}{uuid.uuid4().hex[:12]}"
            with suppress(FileNotFoundError):  # another process was faster
                folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True


def folder_bytes(folder: Path) -> int:
    """The bytes of all files below a folder."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(at, name)).st_size
    return total


def _is_same(lock: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), folder.stat())
    except FileNotFoundError:
        return False


def _close(held: dict[Path, int]) -> None:
    while held:
        os.close(held.popitem()[1])
