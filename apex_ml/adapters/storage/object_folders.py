"""The drops in an object store that are folders: all objects below a common beginning of their keys.

A store moves single objects. So the ledger notes every object of a scored folder before the first one is moved: what a
killed move leaves behind is known, is never scored, and is moved when it is listed again.
"""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from apex_ml.adapters.storage.files import UnreadableError, map_disk_errors
from apex_ml.adapters.storage.folder_drops import identity, parts_in, why_not
from apex_ml.adapters.storage.inboxes import DropStatus, FetchedDrop
from apex_ml.adapters.storage.local import LONGEST_NAME, with_digest
from apex_ml.adapters.storage.mirror import refuse_as_path
from apex_ml.adapters.storage.notes import Notes
from apex_ml.adapters.storage.object_downloads import refuse_too_large
from apex_ml.adapters.storage.object_store import CHUNK, ObjectStorage
from apex_ml.adapters.storage.storage import StoredFile
from apex_ml.adapters.storage.waiting import DONE, QUARANTINE, REASON, KnownObject, Waiting
from apex_ml.contract.scoring_options import FolderRule
from apex_ml.errors import ConfigError, DataError
from apex_ml.faults import reach
from apex_ml.file_names import hidden

logger = logging.getLogger(__name__)
REQUESTS = 8
"""Objects that are downloaded, copied or deleted at the same time: most of a small one is waiting."""


class ObjectFolders:
    """The folders below `inbox`, the beginning of keys such as ``inbox/``; empty where drops are kept."""

    def __init__(self, storage: ObjectStorage, notes: Notes, rule: FolderRule, inbox: str, spool_bytes: int) -> None:
        self._storage, self._notes, self._rule = storage, notes, rule
        self._inbox, self._spool_bytes = inbox, spool_bytes

    def grouped(self, files: Iterable[StoredFile]) -> tuple[list[StoredFile], list[tuple[Waiting, str | None]]]:
        """Of some objects those that are in no folder, and the folders, each with why it is no complete drop."""
        single, names = self._group(files)
        folders = []
        for name in names:
            with suppress(FileNotFoundError):
                folders.append(self.look(name))
        return single, folders

    def _group(self, files: Iterable[StoredFile]) -> tuple[list[StoredFile], list[str]]:
        """Of some objects those that are in no folder, and the names of the folders of the others.

        Where drops are moved, a folder is the first part of a key behind `inbox`. Where they are kept, it is the
        highest one with a marker or manifest, else the lowest one.
        """
        single: list[StoredFile] = []
        tops: dict[str, str] = {}
        marked: dict[str, bool] = {}
        for file in files:
            above = file.key.removeprefix(self._inbox).rpartition("/")[0]
            if not above:
                single.append(file)
            elif above not in tops:
                tops[above] = self._top(above, marked)
        return single, sorted(set(tops.values()))

    def _top(self, above: str, marked: dict[str, bool]) -> str:
        parts = above.split("/")
        if self._inbox or self._rule.complete == "quiet":
            return parts[0]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in marked:
                marked[folder] = self._storage.exists(f"{folder}/{self._rule.file}")
            if marked[folder]:
                return folder
        return above

    def look(self, name: str) -> tuple[Waiting, str | None]:
        """A folder as a drop, and why it is not complete.

        It consists of all objects. Where drops are moved, those whose content is known are what a killed move left, and
        do not count beside others. Raises FileNotFoundError when there is none.
        """
        files = self._files(name)
        new = self._new(name, files)
        if not any(map(_visible, new)):
            return Waiting.of_folder(name, files), None
        why = why_not(self._rule, name, files, lambda key: self._read(self._key(name, key)), time.time())
        return Waiting.of_folder(name, new if self._inbox else files), why

    def known_content(self, name: str) -> tuple[Waiting, str] | None:
        """A folder of which every object is of one scored drop, with the sha256 of that."""
        files = self._files(name)
        known = self._known(name, files)
        contents = {known[file.key].sha256 for file in files if file.key in known and known[file.key].state == "done"}
        if len(contents) != 1 or len(known) < sum(map(_visible, files)):
            return None
        return Waiting.of_folder(name, files), contents.pop()

    @contextmanager
    def fetch(self, name: str, scratch: Path) -> Iterator[FetchedDrop]:
        """Download the objects of a folder; the copies are removed at the end.

        Raises :class:`~apex_ml.errors.DataError` for what a killed move left of a refused folder.
        """
        drop, _ = self.look(name)
        if self._inbox and not any(_visible(file) for file in self._new(name, drop.files)):
            raise DataError(f"{name}: is the rest of a folder that was refused; deliver the whole folder again")
        with self._copies(drop, f"{self._inbox}{name}/", scratch) as folder:
            parts = parts_in(folder, name, self._rule)
            yield FetchedDrop(drop, folder, identity(parts), lambda: self._status(drop), parts)

    @contextmanager
    def scored(self, name: str, sha256: str, scratch: Path) -> Iterator[FetchedDrop | None]:
        """Download a scored folder from ``done/``, or from where it was kept; None when it is in neither."""
        prefix = self._moved(DONE, name, sha256) if self._inbox else f"{name}/"
        files = self._below(prefix)
        if not self._inbox:
            known = self._known(name, files)
            files = [file for file in files if file.key not in known or known[file.key].sha256 == sha256]
        drop = Waiting.of_folder(name, files)
        if not files:
            yield None
            return
        with self._copies(drop, prefix, scratch) as folder:
            parts = parts_in(folder, name, self._rule)
            same = identity(parts) == sha256
            yield FetchedDrop(drop, folder, sha256, lambda: "same", parts) if same else None

    def note(self, drop: Waiting, sha256: str) -> None:
        """Note the content of the objects of a drop."""
        places = [(self._place(drop.name, file.key), file) for file in drop.files if _visible(file)]
        self._notes.note(places, sha256)

    def move(self, drop: Waiting, to: str, sha256: str) -> str:
        """Copy the objects of a noted drop below ``done/`` or ``quarantine/``, then delete the originals.

        Each step can be repeated. Objects that have changed stay. Returns the URL of the copies.
        """
        source, target = f"{self._inbox}{drop.name}/", self._moved(to, drop.name, sha256)

        def copy(file: StoredFile) -> None:
            self._storage.copy(source + file.key, target + file.key)
            reach("part_copied")

        def delete(file: StoredFile) -> None:
            self._storage.delete_same(source + file.key, replace(file, key=source + file.key))
            reach("part_deleted")

        for step in (copy, delete):
            for file, error in self._each(drop.files, step):
                if not isinstance(error, FileNotFoundError):  # another worker moved it, or its owner removed it
                    raise error
                logger.info("part_gone name=%s part=%s", drop.name, file.key)
        return self._storage.place(target)

    def remove(self, name: str, sha256: str) -> None:
        """Delete the objects of a folder with this content, wherever it was moved, and what is left in the inbox."""
        for to in (DONE, QUARANTINE):
            for file in list(self._storage.list_all(self._moved(to, name, sha256))):
                self._storage.delete(file.key)
            self._storage.delete(self._moved(to, name, sha256).rstrip("/") + REASON)
        files = self._below(f"{self._inbox}{name}/")
        known = self._known(name, files)
        for file in files:
            if file.key in known and known[file.key].sha256 == sha256:
                self._storage.delete(self._key(name, file.key))

    def _moved(self, to: str, name: str, sha256: str) -> str:
        """The beginning of the keys of a moved folder. It names the content: a repeated move finds its own copies."""
        return f"{with_digest(Path(to), name, sha256, LONGEST_NAME - len(REASON)).as_posix()}/"

    def _key(self, name: str, part: str) -> str:
        return f"{self._inbox}{name}/{part}"

    def _place(self, name: str, part: str) -> str:
        return self._storage.place(self._key(name, part))

    def _files(self, name: str) -> list[StoredFile]:
        if not (files := self._below(f"{self._inbox}{name}/")):
            raise FileNotFoundError(self._storage.place(f"{self._inbox}{name}/"))
        return files

    def _below(self, prefix: str) -> list[StoredFile]:
        """The objects below a prefix, by the rest of their keys."""
        return [replace(file, key=file.key.removeprefix(prefix)) for file in self._storage.list_all(prefix)]

    def _new(self, name: str, files: Sequence[StoredFile]) -> list[StoredFile]:
        """The objects whose content is not known."""
        known = self._known(name, files)
        return [file for file in files if file.key not in known]

    def _known(self, name: str, files: Sequence[StoredFile]) -> dict[str, KnownObject]:
        places = {self._place(name, file.key): file for file in files if _visible(file)}
        known = self._notes.known(list(places.items()))
        return {file.key: known[place] for place, file in places.items() if place in known}

    def _read(self, key: str) -> bytes:
        with self._storage.open(key) as stream:
            return stream.read()

    def _status(self, drop: Waiting) -> DropStatus:
        try:
            return "same" if self.look(drop.name)[0] == drop else "changed"
        except FileNotFoundError:
            return "gone"

    @contextmanager
    def _copies(self, drop: Waiting, prefix: str, scratch: Path) -> Iterator[Path]:
        """A local folder with the objects of a drop, which is removed at the end."""
        refuse_as_path(self._storage, [prefix + file.key for file in drop.files])
        refuse_too_large(drop.name, drop.size, self._spool_bytes)
        root = scratch / uuid.uuid4().hex
        folder = root / drop.name.rpartition("/")[2]

        def download(file: StoredFile) -> None:
            path = folder / file.key
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._storage.read(prefix + file.key) as (_, stream), path.open("xb") as copy:
                shutil.copyfileobj(stream, copy, CHUNK)

        try:
            with map_disk_errors(root):
                for _, error in self._each(drop.files, download):
                    if isinstance(error, ConfigError):  # the others may be readable
                        raise UnreadableError(f"{drop.name}: {error}") from error
                    raise error
            yield folder
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _each(
        self, files: Sequence[StoredFile], step: Callable[[StoredFile], None]
    ) -> Iterator[tuple[StoredFile, Exception]]:
        """Do a step for each object, several at a time; yields the errors. The caller's end ends the rest."""
        with ThreadPoolExecutor(REQUESTS) as pool:
            futures = [(file, pool.submit(step, file)) for file in files]
            try:
                for file, future in futures:
                    error = future.exception()
                    if isinstance(error, Exception):
                        yield file, error
                    elif error is not None:
                        raise error
            finally:
                for _, future in futures:
                    future.cancel()


def _visible(file: StoredFile) -> bool:
    return not any(hidden(part) for part in file.key.split("/"))
