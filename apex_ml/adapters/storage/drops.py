"""The drops: inbox/, done/ and quarantine/ below one folder. A drop is one parquet file."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apex_ml.adapters.storage.files import (
    UnreadableError,
    leads_to_folder,
    map_disk_errors,
    map_os_errors,
    open_file,
    sha256_of,
)
from apex_ml.adapters.storage.inboxes import DropStatus, FetchedDrop, late_drops
from apex_ml.adapters.storage.local import LONGEST_NAME, LocalStorage, put_back, with_digest
from apex_ml.adapters.storage.locations import local_folder, refuse_file
from apex_ml.adapters.storage.parquet_files import lacks_footer
from apex_ml.adapters.storage.storage import Storage
from apex_ml.adapters.storage.waiting import (
    BESIDE_A_NAME,
    DONE,
    INBOX,
    PLACE,
    QUARANTINE,
    REASON,
    Waiting,
    file_state,
    printable,
)
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.errors import ApexError, ConfigError, DataError
from apex_ml.file_names import hidden
from apex_ml.json_text import json_file
from apex_ml.text import visible


class Inbox:
    """The drops in a folder: finished ones are moved by renaming."""

    def __init__(self, pipeline: PipelineSettings) -> None:
        self.root = refuse_file(local_folder(pipeline.locations.drops, PLACE), PLACE)
        self.storage: Storage = LocalStorage(self.root)
        self.upload_minutes = pipeline.options.scoring.upload_minutes
        self.inbox = self.root / INBOX
        self.done = self.root / DONE
        self.quarantine = self.root / QUARANTINE

    @property
    def fate_of_bad_drops(self) -> str:
        """That they were moved."""
        return f"were moved to {self.quarantine}"

    def prepare(self) -> None:
        """Create the folders. Raises ConfigError when drops could not be moved to one of them."""
        with map_disk_errors(self.root):
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
            # Linux refuses a move to another mount before it checks whether the file exists
            (self.inbox / nothing).rename(folder / nothing)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise ConfigError(
                f"{folder}: is on another file system than {self.inbox}, so that drops cannot be moved there in one"
                " step; mount the folder above both instead (locations.drops)"
            ) from error

    def look(self) -> list[Waiting]:
        """Every visible name in the inbox except folders, oldest first, without files that are removed meanwhile.

        Unreadable files are included. Their errors are reported when they are scored.
        """
        drops = [Waiting.of(file) for file in self.storage.list(f"{INBOX}/") if not hidden(file.name)]
        return sorted(drops, key=lambda drop: (drop.mtime_ns, drop.name))

    def folders(self) -> list[str]:
        """The visible folders in the inbox, such as the output of Spark. They are no drops."""
        with os.scandir(self.inbox) as entries:
            return sorted(entry.name for entry in entries if not hidden(entry.name) and leads_to_folder(entry))

    def late(self, minutes: float, now: float | None = None) -> dict[str, str]:
        """The drops that arrived more than a number of minutes ago, each with a message."""
        return late_drops(self.look() if self.inbox.is_dir() else (), self.inbox, minutes, now)

    def unfinished(self, drop: Waiting, now: float | None = None) -> str | None:
        """Why a drop is not scored yet: it is a parquet file whose footer has not arrived.

        None when it is complete, does not begin like parquet, or has not changed for scoring.upload_minutes. Also None
        for an unreadable file, which is reported when it is scored.
        """
        minutes = max(0.0, drop.minutes(time.time() if now is None else now))
        if minutes >= self.upload_minutes:
            return None
        try:
            if not lacks_footer(self.inbox / drop.name):
                return None
        except (ApexError, FileNotFoundError):
            return None
        return (
            f"{visible(printable(drop.name))}: waits for the rest of its upload: {drop.size:,} bytes without a parquet"
            f" footer, unchanged for {minutes:.0f} minutes; after {self.upload_minutes:g} (scoring.upload_minutes) it"
            " is moved to quarantine"
        )

    def settled(self, pause_seconds: float = 1.0) -> list[Waiting]:
        """The files that did not change during a pause. A file that still grows is left for later."""
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

    def known_content(self, name: str) -> tuple[Waiting, str] | None:
        """None: a file is read to know its content."""
        return None

    @contextmanager
    def fetch(self, name: str, scratch: Path) -> Iterator[FetchedDrop]:
        """The file itself, where it is."""
        path = self.path(name)
        yield _fetched(path, file_state(path, name), sha256_of(path))

    @contextmanager
    def scored(self, name: str, sha256: str, scratch: Path) -> Iterator[FetchedDrop | None]:
        """The file in done/, where it is."""
        path = self._scored(name, sha256)
        yield None if path is None else _fetched(path, file_state(path, name), sha256)

    def _scored(self, name: str, sha256: str) -> Path | None:
        for path in (self.done / name, with_digest(self.done, name, sha256), self.inbox / name):
            if path.exists() and sha256_of(path) == sha256:
                return path if path.parent == self.done else None
        raise DataError(f"{name}: the file with sha256 {sha256[:12]}… is gone from {self.done}")

    def finish(self, drop: Waiting, sha256: str) -> Path:
        """Move a scored drop to done/, never over another file."""
        return self._move(drop, _free(self.done, drop.name, sha256))

    def reject(self, drop: Waiting, sha256: str, reason: dict[str, Any]) -> Path:
        """Move a bad drop to quarantine/ with a ``.reason.json`` beside it."""
        target = _free(self.quarantine, drop.name, sha256, LONGEST_NAME - BESIDE_A_NAME)
        self._write_reason(target, {"drop": drop.name, "sha256": sha256, **reason})
        return self._move(drop, target)

    def quarantine_unreadable(self, name: str, reason: dict[str, Any]) -> Path:
        """Move an unreadable drop to quarantine/, file or not, with a ``.reason.json`` beside it.

        One that can be read after all, because it was repaired or replaced, stays in the inbox. Raises
        :class:`~apex_ml.adapters.storage.files.UnreadableError` when it cannot be moved either.
        """
        path, shown = self.inbox / name, printable(name)
        target = _free(self.quarantine, shown, uuid.uuid4().hex, LONGEST_NAME - BESIDE_A_NAME)
        self._write_reason(target, {"drop": shown, "sha256": None, **reason})
        with suppress(FileNotFoundError), map_os_errors(path), map_disk_errors(self.quarantine):
            path.rename(target)
            if shown == name and not target.is_symlink() and _can_be_read(target):
                put_back(target, path)
        return target

    def remove(self, names: set[str], shas: set[str]) -> None:
        """Remove the files with these contents, whatever their names."""
        for folder in (self.inbox, self.done, self.quarantine):
            for path in sorted(folder.glob("*")) if folder.is_dir() else ():
                with suppress(OSError):
                    if path.is_file() and not path.name.endswith(REASON) and sha256_of(path) in shas:
                        path.unlink()
                        path.with_name(path.name + REASON).unlink(missing_ok=True)

    def _write_reason(self, target: Path, content: dict[str, Any]) -> None:
        content |= {"rejected_at": datetime.now(UTC).isoformat(timespec="seconds")}
        self.storage.put(f"{QUARANTINE}/{target.name}{REASON}", json_file(content))

    def _move(self, drop: Waiting, target: Path) -> Path:
        # its rows are in the ledger, whether this or another worker moves it
        key = f"{INBOX}/{drop.name}"
        self.storage.move(key, target.relative_to(self.root).as_posix(), expected=drop.file_at(key))
        return target


def _fetched(path: Path, drop: Waiting, sha256: str) -> FetchedDrop:
    return FetchedDrop(drop, path, sha256, lambda: file_status(path, drop))


def file_status(path: Path, drop: Waiting) -> DropStatus:
    """Whether the file of a drop is still the `same`, or has `changed`, or is `gone`."""
    try:
        return "same" if file_state(path, drop.name) == drop else "changed"
    except FileNotFoundError:
        return "gone"
    except UnreadableError:
        return "same"
    except DataError:
        return "changed"


def _can_be_read(path: Path) -> bool:
    try:
        with open_file(path) as file:
            file.read(1)
    except ApexError:
        return False
    return True


def _free(folder: Path, name: str, sha256: str, longest: int = LONGEST_NAME) -> Path:
    """A free name in the folder: the drop's own, else with a part of its sha256."""
    target = folder / name
    if len(os.fsencode(name)) <= longest and not os.path.lexists(target):
        return target
    return with_digest(folder, name, sha256, longest)
