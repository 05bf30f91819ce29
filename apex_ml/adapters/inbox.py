"""The drops: inbox/, done/ and quarantine/ below one folder. A drop is one parquet file."""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apex_ml.adapters.store import full_disk_is_told, hidden, local_folder, sha256_of, write_atomically
from apex_ml.errors import ConfigError, DataError
from apex_ml.settings import Settings


@dataclass(frozen=True)
class Waiting:
    """A file in the inbox as it was seen: name, size in bytes, modification time in ns."""

    name: str
    size: int
    mtime_ns: int


def seen(path: Path, name: str) -> Waiting:
    """A file as it is now, under the name of its drop. Raises FileNotFoundError when it is gone."""
    stat = path.stat()
    return Waiting(name, stat.st_size, stat.st_mtime_ns)


def seen_if_there(path: Path, name: str) -> Waiting | None:
    """As :func:`seen`, but None when it is gone: another process may move it between any two looks."""
    try:
        return seen(path, name)
    except FileNotFoundError:
        return None


class Inbox:
    """Lists what waits and moves what is finished."""

    def __init__(self, settings: Settings) -> None:
        self.root = local_folder(settings.drops, "APEX_DROPS_URL")
        self.inbox = self.root / "inbox"
        self.done = self.root / "done"
        self.quarantine = self.root / "quarantine"

    def prepare(self) -> None:
        """Make the folders. Raises ConfigError when drops could not be moved to one."""
        with full_disk_is_told(self.root):
            for folder in (self.inbox, self.done, self.quarantine):
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise ConfigError(
                        f"{folder}: cannot be written, so that drops cannot be moved when they are done; make it"
                        " writable and run again"
                    )

            for folder in (self.done, self.quarantine):
                self._refuse_another_mount(folder)

    def _refuse_another_mount(self, folder: Path) -> None:
        nothing = ".no-such-drop"
        try:
            # Linux refuses to move to another mount before it looks whether the file exists
            (self.inbox / nothing).rename(folder / nothing)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise ConfigError(
                f"{folder}: is on another file system than {self.inbox}, so that drops cannot be moved there in one"
                " step; mount the folder above both instead (APEX_DROPS_URL)"
            ) from error

    def look(self) -> list[Waiting]:
        """Every visible file in the inbox, oldest first; a file that vanishes meanwhile is left out."""
        found = []
        with full_disk_is_told(self.inbox), os.scandir(self.inbox) as entries:
            for entry in entries:
                if hidden(entry.name):
                    continue
                try:
                    if entry.is_file():
                        stat = entry.stat()
                        found.append(Waiting(entry.name, stat.st_size, stat.st_mtime_ns))
                except FileNotFoundError:
                    continue
        return sorted(found, key=lambda w: (w.mtime_ns, w.name))

    def settled(self, pause_seconds: float = 1.0) -> list[Waiting]:
        """The files that did not change between two looks: one that still grows is left for later."""
        first = self.look()
        if not first:
            return []
        time.sleep(pause_seconds)
        second = set(self.look())
        return [w for w in first if w in second]

    def path(self, name: str) -> Path:
        """Path of a waiting drop. Raises ConfigError for a name that could leave the inbox."""
        if not name or name != Path(name).name or hidden(name):
            raise ConfigError(f"--drops {name!r}: a drop is the plain name of a file in {self.inbox}")
        return self.inbox / name

    def scored(self, name: str, sha256: str) -> Path | None:
        """Path of a scored drop in done/; None while it still lies in the inbox.

        Raises :class:`~apex_ml.errors.DataError` when no file of this content is there any more.
        """
        for path in (self.done / name, _with_sha(self.done, name, sha256), self.inbox / name):
            if path.exists() and sha256_of(path) == sha256:
                return path if path.parent == self.done else None
        raise DataError(f"{name}: the file with sha256 {sha256[:12]}… is gone from {self.done}")

    def finish(self, drop: Waiting, sha256: str) -> Path:
        """Move a scored drop to done/, never over another file."""
        return self._move(drop, self.done, sha256)

    def reject(self, drop: Waiting, sha256: str, reason: dict[str, Any]) -> Path:
        """Move a bad drop to quarantine/ with a ``.reason.json`` beside it."""
        name = drop.name
        target = _free(self.quarantine, name, sha256)
        content = {
            "drop": name,
            "sha256": sha256,
            "rejected_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **reason,
        }
        write_atomically(target.with_name(target.name + ".reason.json"), json.dumps(content, indent=1).encode())
        return self._move(drop, self.quarantine, sha256)

    def _move(self, drop: Waiting, folder: Path, sha256: str) -> Path:
        target = _free(folder, drop.name, sha256)
        with full_disk_is_told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # another worker may have moved it, or its owner taken it away: its rows are in the ledger either way
            with suppress(FileNotFoundError):
                (self.inbox / drop.name).rename(target)
                if seen(target, drop.name) != drop:
                    self._put_back(target, drop.name)
        return target

    def _put_back(self, moved: Path, name: str) -> None:
        """Return a file that took the name of a drop after it was read: it is another content and not scored yet."""
        path = self.inbox / name
        try:
            os.link(moved, path)
        except FileExistsError:  # a third one has come
            os.link(moved, _with_sha(self.inbox, name, sha256_of(moved)))
        moved.unlink()


def _free(folder: Path, name: str, sha256: str) -> Path:
    """A name in the folder that no other content has: the drop's own, else with a part of its sha256."""
    target = folder / name
    return target if not target.exists() else _with_sha(folder, name, sha256)


def _with_sha(folder: Path, name: str, sha256: str) -> Path:
    return folder / f"{Path(name).stem}.{sha256[:12]}{Path(name).suffix}"
