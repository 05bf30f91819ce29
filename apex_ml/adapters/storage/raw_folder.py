"""Find the data files below the raw folder, with the reason for each file that is left out."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from apex_ml.adapters.storage.delta_log import DELTA_LOG
from apex_ml.adapters.storage.files import leads_to_folder, map_os_errors
from apex_ml.adapters.storage.locations import file_at, folder_remedy
from apex_ml.adapters.storage.table_formats import SINK_LOG, Listed, listed_files, table_above
from apex_ml.core.table_version import TableVersion
from apex_ml.errors import DataError
from apex_ml.file_names import hidden
from apex_ml.wording import counted


@dataclass(frozen=True)
class RawFiles:
    """The data files below a folder, sorted, and the files that are not read.

    `left_out` has the reason by name, `links` the target of each link that was followed. A name is the path from the
    folder.
    """

    root: Path
    files: tuple[Path, ...]
    left_out: dict[str, str]
    links: dict[str, str]
    tables: dict[str, TableVersion] = field(default_factory=dict)
    """The versions of the Delta and Iceberg tables that the files are of, by the path of the table from the folder."""

    def name(self, path: Path) -> str:
        """The name of a file in messages and reports: many folders may hold a part-00000.parquet."""
        return path.relative_to(self.root).as_posix()

    def why_left_out(self) -> str:
        """The first reasons why files are not read, as the end of a message; empty without one."""
        return "".join(f"; {name}: {reason}" for name, reason in list(self.left_out.items())[:10])


def data_files(folder: Path, setting: str) -> list[Path]:
    """List the data files below a folder, sorted. See :func:`raw_files`."""
    return list(raw_files(folder, setting).files)


def raw_files(folder: Path, setting: str, columns: Collection[str] = ()) -> RawFiles:
    """Find the data files below a folder. Marker, temporary and dot files are not data.

    Links to folders are followed, but not to a folder that is already read or that holds this one. Files that a commit
    marker of Databricks, or the log of a Delta table or of a stream, does not list are left out. `columns` must be in
    the files or their folders. Raises :class:`~apex_ml.errors.DataError` when there is no folder or no data file in
    it, or a table of a format that is not supported.
    """
    if (file := file_at(folder)) is not None:
        what = "this" if file == folder else file
        raise DataError(f"{setting}={folder}: {what} is a file, no folder; {folder_remedy(setting, file)}")
    if not folder.is_dir():
        raise DataError(
            f"{setting}={folder}: no such folder; create it or set {setting} to the folder of parquet files"
        )
    if (above := table_above(folder.resolve())) is not None:
        table, kind = above
        raise DataError(
            f"{setting}={folder}: is inside {kind}, {table}, whose log lists the data files; name that folder"
        )
    files = walk_files(folder, columns)
    if not files.files:
        raise DataError(
            f"{setting}={folder}: no data files; put parquet files there, or generate some: apex simulate"
            f"{files.why_left_out()}"
        )
    return files


def walk_files(folder: Path, columns: Collection[str] = ()) -> RawFiles:
    """Find the data files below an existing folder, perhaps none. Raises as :func:`raw_files` does about tables."""
    walk = _Walk(folder, columns)
    walk.walk()
    return RawFiles(folder, tuple(sorted(walk.files)), dict(sorted(walk.left_out.items())), walk.links, walk.tables)


class _Walk:
    """One walk through a folder: real folders first, then links, so that a link never replaces a folder."""

    def __init__(self, root: Path, columns: Collection[str]) -> None:
        self.files: list[Path] = []
        self.left_out: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self.tables: dict[str, TableVersion] = {}
        self._root, self._columns = root, columns
        self._real = root.resolve()
        self._read: dict[tuple[int, int], str] = {}
        self._waiting: list[tuple[Path, str, str, Listed | None]] = []
        self._logs: dict[str, Listed] = {}

    def walk(self) -> None:
        self._folder(self._root, "", "", None)
        while self._waiting:
            self._waiting.sort(key=lambda link: link[1])
            self._link(*self._waiting.pop(0))
        for name, listed in self._logs.items():
            self._missing(listed, name)

    def _link(self, path: Path, name: str, base: str, listed: Listed | None) -> None:
        target = path.resolve()
        status = target.stat()
        if (known := self._read.get((status.st_dev, status.st_ino))) is not None:
            self.left_out[name] = f"a link to {known or 'the folder itself'}, which is read already"
        elif self._real.is_relative_to(target):
            self.left_out[name] = f"a link to {target}, which holds this folder"
        else:
            self.links[name] = str(target)
            self._folder(path, name, base, listed)

    def _folder(self, path: Path, name: str, base: str, listed: Listed | None) -> None:
        """Read a folder. `listed` are the files that a log in the folder `base` lists for it, by paths from there."""
        try:
            with map_os_errors(path):
                status = path.stat()
                entries = sorted(os.scandir(path), key=lambda entry: entry.name)
                folders = {entry.name for entry in entries if leads_to_folder(entry)}
                names = {entry.name for entry in entries} - folders
                own = listed_files(path, name or str(self._root), names, folders, self._columns)
        except FileNotFoundError as error:
            raise DataError(f"{name or path}: was removed while it was read; run again") from error
        self._read[status.st_dev, status.st_ino] = name
        if own is not None and (listed is None or not listed.complete):  # a table's log covers everything below it
            base, listed = name, own
            self._logs[name] = own
            if own.table is not None:
                self.tables[name] = own.table
        for entry in entries:
            entry_name = f"{name}/{entry.name}" if name else entry.name
            if hidden(entry.name):
                self._hidden(entry, entry_name)
            elif entry.name in folders:
                if entry.is_symlink():
                    self._waiting.append((Path(entry.path), entry_name, base, listed))
                else:
                    self._folder(Path(entry.path), entry_name, base, listed)
            elif listed is not None and (why := listed.why(entry_name[len(base) :].removeprefix("/"))) is not None:
                self.left_out[entry_name] = why
            else:
                self._file(entry, entry_name)

    def _missing(self, listed: Listed, name: str) -> None:
        folder = self._root / name
        absent = listed.missing({f.relative_to(folder).as_posix() for f in self.files if f.is_relative_to(folder)})
        if absent and listed.complete:
            raise DataError(
                f"{name or self._root}: {counted(len(absent), 'file')} that its log lists cannot be found, such as"
                f" {absent[0]}; deliver the whole folder"
            )
        self.left_out |= {f"{name}/{f}" if name else f: "a commit marker lists it, and it is not there" for f in absent}

    def _hidden(self, entry: os.DirEntry[str], name: str) -> None:
        if leads_to_folder(entry) and entry.name not in (DELTA_LOG, SINK_LOG):
            self.left_out[name] = "a folder whose name begins with _ or . is never data"
        elif ".parquet" in entry.name.lower() and not entry.name.lower().endswith(".crc"):
            self.left_out[name] = "its name is that of a marker or of an unfinished upload"

    def _file(self, entry: os.DirEntry[str], name: str) -> None:
        path = Path(entry.path)
        if entry.is_symlink() and path.exists() and not (target := path.resolve()).is_relative_to(self._real):
            self.links[name] = str(target)
        self.files.append(path)
