"""The drops in an object store.

With `after: move` they arrive below ``inbox/``, and a finished one is copied to ``done/`` or ``quarantine/`` and
deleted.
With `after: keep` the location itself is the inbox: every object at any depth is a drop, and nothing is ever written.
In both the ledger knows what was scored, so that a copy or a deletion that did not happen loses and doubles nothing.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from apex_ml.adapters.storage.inboxes import DropInbox, FetchedDrop, late_drops
from apex_ml.adapters.storage.local import LONGEST_NAME, with_digest
from apex_ml.adapters.storage.notes import Notes
from apex_ml.adapters.storage.object_downloads import download
from apex_ml.adapters.storage.object_folders import ObjectFolders
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.storage import StoredFile
from apex_ml.adapters.storage.table_files import refuse_table
from apex_ml.adapters.storage.waiting import DONE, INBOX, PLACE, QUARANTINE, REASON, Waiting
from apex_ml.contract.scoring_options import Scoring
from apex_ml.errors import ConfigError, DataError
from apex_ml.file_names import hidden
from apex_ml.folder_rule import FOLDER_IS_NO_DROP
from apex_ml.json_text import json_file

logger = logging.getLogger(__name__)
TOO_LARGE = "0" * 64
"""In the place of a sha256: the object was refused unread, as it is larger than APEX_SPOOL_MB."""
FULL_LISTING = timedelta(days=1)
"""Interval of the full listings of a location with ascending keys."""


class ObjectLedger(Notes, Protocol):
    """Which objects have a known content, and how far a listing has come."""

    def mark(self, place: str) -> tuple[str, datetime] | None:
        """The key up to which every object of a location is known, and when all were listed last; None at first."""
        ...

    def set_mark(self, place: str, mark: str, full_at: datetime) -> None:
        """Note the key up to which every object of a location is known."""


class ObjectInbox(DropInbox):
    """The drops below a prefix of an object store."""

    def __init__(self, storage: ObjectStorage, ledger: ObjectLedger, options: Scoring, spool_bytes: int) -> None:
        self.storage, self._ledger, self._spool_bytes = storage, ledger, spool_bytes
        self._moves, self._ascending = options.after == "move", options.ascending_keys
        rule = options.folder_rule(kept=not self._moves)
        self._folders = (
            None
            if rule.complete == "never"
            else ObjectFolders(storage, ledger, rule, f"{INBOX}/" if self._moves else "", spool_bytes)
        )

    @property
    def inbox(self) -> str:
        """URL of the prefix where drops arrive."""
        return self.storage.place(INBOX) if self._moves else self.storage.url

    @property
    def fate_of_bad_drops(self) -> str:
        """That they were moved, or with `after: keep` that they stay."""
        return f"were moved to {self.storage.place(QUARANTINE)}" if self._moves else f"stay in {self.storage.url}"

    def prepare(self) -> None:
        """Try whether drops can be moved, and say so when the server ignores conditional puts.

        With `after: keep` a table is refused.
        """
        if not self._moves:
            refuse_table(self.storage, self.storage.url, PLACE)
            return
        try:
            honours = self.storage.honours_conditions
        except ConfigError as error:
            raise ConfigError(
                f"{error}; to score drops of a bucket that may only be read: scoring.after: keep"
            ) from error
        if not honours:
            logger.warning(
                "conditions_ignored store=%s: the server accepts a second put of a key that must be absent: of two"
                " drops of one name that end at the same moment, done/ may keep one; the scored rows of both stay",
                self.storage.url,
            )

    def look(self) -> list[Waiting]:
        """The objects that are drops, oldest first; with `after: keep` without those whose content is known."""
        return self.listed()[0]

    def folders(self) -> dict[str, str]:
        """The visible folders that are no complete drops, by name, and why."""
        return self.listed()[1]

    def listed(self) -> tuple[list[Waiting], dict[str, str]]:
        """The objects and folders that are drops, oldest first, and the folders that are none, with the reason."""
        folders: list[tuple[Waiting, str | None]] = []
        none: Sequence[str] = ()
        if not self._moves:
            files = self._unknown()
        elif self._folders is None:
            objects, none = self.storage.level(f"{INBOX}/")
            files = self._drops(objects)
        else:
            files = self._drops(self.storage.list_all(f"{INBOX}/"))
        if self._folders is not None:
            files, folders = self._folders.grouped(files)
        drops = [*map(self._waiting, files), *(drop for drop, why in folders if why is None)]
        incomplete = {name: FOLDER_IS_NO_DROP for name in none if not hidden(name)}
        incomplete |= {drop.name: why for drop, why in folders if why is not None}
        return sorted(drops, key=lambda drop: (drop.mtime_ns, drop.name)), incomplete

    def settled(self) -> list[Waiting]:
        """As :meth:`look`: an object appears when its upload has ended."""
        return self.look()

    def late(self, minutes: float, now: float | None = None) -> dict[str, str]:
        """The drops that arrived more than a number of minutes ago, each with a message."""
        return late_drops(self.look(), self.inbox, minutes, now)

    def unfinished(self, drop: Waiting, now: float | None = None) -> str | None:
        """None for an object, which appears when its upload has ended; why a folder is no complete drop."""
        if not drop.folder or self._folders is None:
            return None
        with suppress(FileNotFoundError):
            why = self._folders.look(drop.name)[1]
            return None if why is None else f"{drop.name} {why}"
        return None

    def known_content(self, name: str) -> tuple[Waiting, str] | None:
        """A drop whose version was scored before."""
        file = self._object(name)
        if file is None:
            return self._folder_drops.known_content(name)
        place = self.storage.place(file.key)
        known = self._ledger.known([(place, file)]).get(place)
        return (self._waiting(file), known.sha256) if known is not None and known.state == "done" else None

    @contextmanager
    def fetch(self, name: str, scratch: Path) -> Iterator[FetchedDrop]:
        """Download a drop into the scratch folder while its sha256 is computed; the copy is removed at the end."""
        if self._object(name) is None:
            with self._folder_drops.fetch(name, scratch) as folder:
                yield folder
            return
        with self._download(self._key(name), name, scratch) as fetched:
            yield fetched

    @contextmanager
    def scored(self, name: str, sha256: str, scratch: Path) -> Iterator[FetchedDrop | None]:
        """Download a scored drop from ``done/``, or from where it was kept."""
        for key in self._places_of(name, sha256):
            if not self.storage.exists(key):
                continue
            with self._download(key, name, scratch) as fetched:
                if fetched.sha256 == sha256:
                    yield None if self._moves and key == self._key(name) else fetched
                    return
        if self._folders is not None:
            with self._folders.scored(name, sha256, scratch) as folder:
                if folder is not None:
                    yield folder
                    return
        raise DataError(f"{name}: the object with sha256 {sha256[:12]}… is gone from {self.storage.url}")

    def finish(self, drop: Waiting, sha256: str) -> str:
        """Note the content; with `after: move` copy the object to ``done/`` and delete it."""
        self._note(drop, sha256)
        return self._move(drop, DONE, sha256) if self._moves else self._place(drop)

    def reject(self, drop: Waiting, sha256: str, reason: dict[str, Any]) -> str:
        """Note the content; with `after: move` put the reason and the object into ``quarantine/``."""
        self._note(drop, sha256)
        if not self._moves:
            return self._place(drop)
        self._write_reason(drop, sha256, reason)
        return self._move(drop, QUARANTINE, sha256)

    def quarantine_unreadable(self, name: str, reason: dict[str, Any]) -> str:
        """With `after: move` put a drop that is refused unread into ``quarantine/``, else note it."""
        file, digest = self._object(name), uuid.uuid4().hex
        drop = self._folder_drops.look(name)[0] if file is None else self._waiting(file)
        if not self._moves:
            if file is not None and file.size > self._spool_bytes:
                self._note(drop, TOO_LARGE)
            return self._place(drop)
        self._write_reason(drop, digest, reason | {"sha256": None})
        return self._move(drop, QUARANTINE, digest)

    def remove(self, names: set[str], shas: set[str]) -> None:
        """Delete the objects of these names and contents; with `after: keep` they stay, and are not scored again."""
        if not self._moves:
            return
        for name in sorted(names):
            for sha256 in sorted(shas):
                if self._folders is not None:
                    self._folders.remove(name, sha256)
                for key in (*self._places_of(name, sha256), *_keys_in(QUARANTINE, name, sha256)):
                    if self.storage.exists(key) and self._sha256(key) == sha256:
                        self.storage.delete(key)
                        self.storage.delete(key + REASON)

    def _object(self, name: str) -> StoredFile | None:
        """The object that is a drop; None where folders may be drops and no object has this key."""
        try:
            return self.storage.stat(self._key(name))
        except FileNotFoundError:
            if self._folders is None:
                raise
            return None

    @property
    def _folder_drops(self) -> ObjectFolders:
        assert self._folders is not None  # only where folders are drops no object has the key of a drop
        return self._folders

    def _drops(self, files: Iterable[StoredFile]) -> list[StoredFile]:
        return [file for file in files if not any(hidden(part) for part in self._name(file).split("/"))]

    def _unknown(self) -> list[StoredFile]:
        """The objects whose content is not known, of those that are listed.

        With ascending keys the listing begins after the last key before which everything is known, and a full one is
        made once a day.
        """
        now = datetime.now(UTC)
        mark, full_at = (self._ascending and self._ledger.mark(self.storage.url)) or ("", now - 2 * FULL_LISTING)
        if now - full_at >= FULL_LISTING:
            mark, full_at = "", now
        places = [(self.storage.place(file.key), file) for file in self._drops(self.storage.list_all("", mark or None))]
        known = self._ledger.known(places)
        # one that was too large is tried again when the limit allows it
        sizes = {place: file.size for place, file in places}
        known = {p: k for p, k in known.items() if k.sha256 != TOO_LARGE or sizes[p] > self._spool_bytes}
        if self._ascending:
            done = takewhile(lambda place: place[0] in known, places)
            self._ledger.set_mark(self.storage.url, max((file.key for _, file in done), default=mark), full_at)
        return [file for place, file in places if place not in known]

    def _name(self, file: StoredFile) -> str:
        return file.key.removeprefix(f"{INBOX}/") if self._moves else file.key

    def _key(self, name: str) -> str:
        """The key of a drop. Raises ConfigError for a name that could leave the inbox."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or any(hidden(part) for part in parts) or (self._moves and len(parts) > 1):
            raise ConfigError(f"--drops {name!r}: is no drop in {self.inbox}")
        return f"{INBOX}/{name}" if self._moves else name

    def _place(self, drop: Waiting) -> str:
        return self.storage.place(self._key(drop.name))

    def _waiting(self, file: StoredFile) -> Waiting:
        return Waiting.of(file, self._name(file))

    def _note(self, drop: Waiting, sha256: str) -> None:
        if drop.folder:
            self._folder_drops.note(drop, sha256)
            return
        key = self._key(drop.name)
        self._ledger.note([(self.storage.place(key), drop.file_at(key))], sha256)

    def _places_of(self, name: str, sha256: str) -> tuple[str, ...]:
        """The keys under which a scored drop can be."""
        return (*_keys_in(DONE, name, sha256), self._key(name)) if self._moves else (self._key(name),)

    def _download(self, key: str, name: str, scratch: Path) -> AbstractContextManager[FetchedDrop]:
        return download(self.storage, key, name, scratch, self._spool_bytes)

    def _sha256(self, key: str) -> str:
        with self.storage.open(key) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]

    def _move(self, drop: Waiting, folder: str, sha256: str) -> str:
        """Copy to a free key and delete the original, if it is still the same. A killed move can be repeated.

        Returns the URL of the copy.
        """
        if drop.folder:
            return self._folder_drops.move(drop, folder, sha256)
        source = self._key(drop.name)
        expected = drop.file_at(source)
        target, unique = _keys_in(folder, drop.name, sha256)
        try:
            if self.storage.stat(source) != expected:
                return self._place(drop)
            if _too_long(target) or not (self.storage.copy(source, target) or self._is_copy(target, expected)):
                target = unique
                self.storage.copy(source, target)  # a taken key with a part of the digest has this content
            self.storage.delete_same(source, expected)
        except FileNotFoundError:  # another worker moved it, or its owner removed it
            logger.info("drop_gone name=%s", drop.name)
        return self.storage.place(target)

    def _is_copy(self, key: str, file: StoredFile) -> bool:
        try:
            there = self.storage.stat(key)
        except FileNotFoundError:
            return False
        return (there.size, there.version) == (file.size, file.version)

    def _write_reason(self, drop: Waiting, sha256: str, reason: dict[str, Any]) -> None:
        plain, unique = _keys_in(QUARANTINE, drop.name, sha256)
        taken = drop.folder or _too_long(plain + REASON) or self.storage.exists(plain)
        key = unique if taken else plain
        content = {"drop": drop.name, "sha256": sha256, **reason}
        content |= {"rejected_at": datetime.now(UTC).isoformat(timespec="seconds")}
        self.storage.put(key + REASON, json_file(content))


def _keys_in(folder: str, name: str, sha256: str) -> tuple[str, str]:
    """The keys of a drop in a folder: its own name, and the name with a part of its sha256."""
    unique = with_digest(Path(folder), name, sha256, LONGEST_NAME - len(REASON))
    return f"{folder}/{name}", unique.as_posix()


def _too_long(text: str) -> bool:
    return len(text.encode()) > LONGEST_NAME
