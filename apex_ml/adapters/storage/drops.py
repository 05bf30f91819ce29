"""The drops: inbox/, done/ and quarantine/ below one folder. A drop is a file, or a folder of files."""

from __future__ import annotations

import errno
import os
import shutil
import stat
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
from apex_ml.adapters.storage.folder_drops import folder_state, identity, local_files, parts_in, why_not
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
from apex_ml.folder_rule import FOLDER_IS_NO_DROP
from apex_ml.json_text import json_file
from apex_ml.text import visible


class Inbox:
    """The drops in a folder: finished ones are moved by renaming."""

    def __init__(self, pipeline: PipelineSettings) -> None:
        self.root = refuse_file(local_folder(pipeline.locations.drops, PLACE), PLACE)
        self.storage: Storage = LocalStorage(self.root)
        self.upload_minutes = pipeline.options.scoring.upload_minutes
        self.folder_rule = pipeline.options.scoring.folder_rule(kept=False)
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
        """Every visible file in the inbox and every folder that is a complete drop, oldest first.

        Unreadable files are included. Their errors are reported when they are scored. What is removed meanwhile is not.
        """
        drops = [Waiting.of(file) for file in self.storage.list(f"{INBOX}/") if not hidden(file.name)]
        drops += [state for state, why in self._folders() if why is None]
        return sorted(drops, key=lambda drop: (drop.mtime_ns, drop.name))

    def folders(self) -> dict[str, str]:
        """The visible folders in the inbox that are no complete drops, by name, and why."""
        return {state.name: why for state, why in self._folders() if why is not None}

    def listed(self) -> tuple[list[Waiting], dict[str, str]]:
        """As :meth:`settled` and :meth:`folders`."""
        return self.settled(), self.folders()

    def _folders(self) -> Iterator[tuple[Waiting, str | None]]:
        """The visible folders in the inbox, each with why it is no complete drop."""
        with os.scandir(self.inbox) as entries:
            folders = sorted(entry.name for entry in entries if not hidden(entry.name) and leads_to_folder(entry))
        for name in folders:
            with suppress(FileNotFoundError):
                yield self._folder(name)

    def _folder(self, name: str) -> tuple[Waiting, str | None]:
        """A folder in the inbox, and why it is no complete drop. Raises FileNotFoundError when it is gone."""
        path, nothing = self.inbox / name, Waiting.of_folder(name, ())
        if path.is_symlink():
            return nothing, "is a link to a folder; deliver the folder itself"
        if self.folder_rule.complete == "never":
            return nothing, FOLDER_IS_NO_DROP
        try:
            files = local_files(path)
        except ApexError as error:
            return nothing, f"is a folder that cannot be read: {error}"
        why = why_not(self.folder_rule, name, files, lambda key: (path / key).read_bytes(), time.time())
        return Waiting.of_folder(name, files), why

    def late(self, minutes: float, now: float | None = None) -> dict[str, str]:
        """The drops that arrived more than a number of minutes ago, each with a message."""
        return late_drops(self.look() if self.inbox.is_dir() else (), self.inbox, minutes, now)

    def unfinished(self, drop: Waiting, now: float | None = None) -> str | None:
        """Why a drop is not scored yet: it is a parquet file whose footer has not arrived.

        None when it is complete, does not begin like parquet, or has not changed for scoring.upload_minutes. Also None
        for an unreadable file, which is reported when it is scored.
        """
        if drop.folder:
            with suppress(FileNotFoundError):
                why = self._folder(drop.name)[1]
                return None if why is None else f"{visible(printable(drop.name))} {why}"
            return None
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
        """The file or folder itself, where it is."""
        path = self.path(name)
        yield self._fetched(path, name)

    @contextmanager
    def scored(self, name: str, sha256: str, scratch: Path) -> Iterator[FetchedDrop | None]:
        """The file in done/, where it is."""
        path = self._scored(name, sha256)
        yield None if path is None else self._fetched(path, name, sha256)

    def _scored(self, name: str, sha256: str) -> Path | None:
        for path in (self.done / name, with_digest(self.done, name, sha256), self.inbox / name):
            if path.exists() and self._sha256(path, name) == sha256:
                return path if path.parent == self.done else None
        raise DataError(f"{name}: the file with sha256 {sha256[:12]}… is gone from {self.done}")

    def _fetched(self, path: Path, name: str, sha256: str = "") -> FetchedDrop:
        """A file or folder with its content, which is read unless its sha256 is known. Raises as `file_state` does."""
        if not _is_folder(path):
            state = file_state(path, name)
            return FetchedDrop(state, path, sha256 or sha256_of(path), lambda: drop_status(path, state))
        state = folder_state(path, name)
        parts = parts_in(path, name, self.folder_rule)
        return FetchedDrop(state, path, sha256 or identity(parts), lambda: drop_status(path, state), parts)

    def _sha256(self, path: Path, name: str) -> str:
        return identity(parts_in(path, name, self.folder_rule)) if _is_folder(path) else sha256_of(path)

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
                with suppress(OSError, DataError):
                    # the names of the parts may begin with the drop's own
                    of_names = sorted(names) if _is_folder(path) else [path.name]
                    if path.name.endswith(REASON) or all(self._sha256(path, name) not in shas for name in of_names):
                        continue
                    if _is_folder(path):
                        shutil.rmtree(path)
                    else:
                        path.unlink()
                    path.with_name(path.name + REASON).unlink(missing_ok=True)

    def _write_reason(self, target: Path, content: dict[str, Any]) -> None:
        content |= {"rejected_at": datetime.now(UTC).isoformat(timespec="seconds")}
        self.storage.put(f"{QUARANTINE}/{target.name}{REASON}", json_file(content))

    def _move(self, drop: Waiting, target: Path) -> Path:
        # its rows are in the ledger, whether this or another worker moves it
        if drop.folder:
            return self._move_folder(drop, target)
        key = f"{INBOX}/{drop.name}"
        self.storage.move(key, target.relative_to(self.root).as_posix(), expected=drop.file_at(key))
        return target

    def _move_folder(self, drop: Waiting, target: Path) -> Path:
        """Rename the folder, and back when it has changed."""
        source = self.inbox / drop.name
        if os.path.lexists(target):
            target = with_digest(target.parent, drop.name, uuid.uuid4().hex)
        with map_disk_errors(target.parent), suppress(FileNotFoundError):
            source.rename(target)
            if folder_state(target, drop.name) != drop:
                back = with_digest(self.inbox, drop.name, uuid.uuid4().hex) if os.path.lexists(source) else source
                target.rename(back)
        return target


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder itself, and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def drop_status(path: Path, drop: Waiting) -> DropStatus:
    """Whether the file or folder of a drop is still the `same`, or has `changed`, or is `gone`."""
    try:
        now = folder_state(path, drop.name) if drop.folder else file_state(path, drop.name)
        return "same" if now == drop else "changed"
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
