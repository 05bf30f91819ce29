"""Read an Iceberg table by its metadata in its folder, through the package pyiceberg and without a catalog.

Files are read below the folder of the table, wherever the metadata says that it was: the login and the errors are those
of the storage, and a table that was copied stays readable.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.exceptions import ResolveError, ValidationError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile
from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
from pyiceberg.table import FileScanTask, StaticTable
from pyiceberg.table.metadata import TableMetadataUtil

from apex_ml.adapters.storage.delta_log import not_read
from apex_ml.adapters.storage.local import LocalStorage
from apex_ml.adapters.storage.object_store import CHUNK
from apex_ml.adapters.storage.storage import Storage
from apex_ml.adapters.storage.table_files import METADATA, METADATA_FILE, metadata_names
from apex_ml.core.table_version import TableVersion, from_ms
from apex_ml.errors import DataError

if TYPE_CHECKING:
    from pyiceberg.table.snapshots import Snapshot

IN_MEMORY = 16 << 20
"""Bytes of a file of an object store that are kept in memory; a larger one is copied to the temporary folder."""
_SCHEME = re.compile(r"^[a-z0-9+.-]+:/+", re.IGNORECASE)


def refusal(url: str, why: str) -> DataError:
    """The error about a table that cannot be read."""
    return DataError(not_read(url, "an Iceberg table", why))


def open_iceberg(storage: Storage, url: str) -> StaticTable | None:
    """The table below a location, by its newest metadata; None when there is none.

    Raises :class:`~apex_ml.errors.DataError` when it is unclear which metadata is the newest, or it cannot be read.
    """
    key = _newest_metadata(storage, url)
    if key is None:
        return None
    with storage.open(key) as file:
        content = file.read()
    try:
        text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        metadata = TableMetadataUtil.parse_raw(text.decode("utf-8"))
    except (ValidationError, ValueError, OSError, EOFError) as error:
        raise refusal(url, f"{key} cannot be read: {str(error).splitlines()[0][:300]}") from error
    io = _StorageIO(storage, url, metadata.location)
    return StaticTable(("table", url), metadata, f"{url}/{key}", io, NoopCatalog("none"))


def _newest_metadata(storage: Storage, url: str) -> str | None:
    names = metadata_names(storage)
    if not names:
        return None
    numbers = {name: int(match[1]) for name in names if (match := METADATA_FILE.fullmatch(name))}
    if storage.exists(hint := f"{METADATA}/version-hint.text"):
        with storage.open(hint) as file:
            named = file.read().decode("utf-8", "replace").strip()
        if named in names:
            return f"{METADATA}/{named}"
    newest = [name for name, number in numbers.items() if number == max(numbers.values())]
    if len(newest) != 1:
        raise refusal(
            url,
            f"{' and '.join(sorted(newest)[:3] or sorted(names)[:3])} may both be its newest metadata, and without its"
            " catalog nobody knows; the next commit to the table settles it",
        )
    return f"{METADATA}/{newest[0]}"


def version_of(table: StaticTable, snapshot: Snapshot, url: str) -> TableVersion:
    """A snapshot of a table."""
    name = url.rstrip("/").rpartition("/")[2]
    at = from_ms(snapshot.timestamp_ms)
    return TableVersion("iceberg", name, str(table.metadata.table_uuid), snapshot.snapshot_id, at)


def write_tasks(table: StaticTable, url: str, tasks: list[FileScanTask], path: Path) -> None:
    """Write the rows of data files to one parquet file: by the columns of the table as it is now, without deleted rows.

    Raises FileNotFoundError when a file is gone, and :class:`~apex_ml.errors.DataError` for one that cannot be read.
    """
    columns = table.schema()
    schema = schema_to_pyarrow(columns, include_field_ids=False)
    with pq.ParquetWriter(path, schema) as writer:
        for task in tasks:
            scan = ArrowScan(table.metadata, table.io, columns, AlwaysTrue())
            try:
                for batch in scan.to_record_batches([task]):
                    writer.write_batch(batch.cast(schema))
            except FileNotFoundError:
                raise
            except (ResolveError, pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
                text = f"{url}: {task.file.file_path}: cannot be read as rows of the table: {error}"
                raise DataError(text) from error


class _StorageIO(FileIO):
    """The files of a table, read from the storage of its folder. Nothing can be written."""

    def __init__(self, storage: Storage, url: str, location: str) -> None:
        super().__init__()
        self._storage, self._url, self._root = storage, url, f"{_plain(location).rstrip('/')}/"

    def new_input(self, location: str) -> InputFile:
        place = _plain(location)
        if not place.startswith(self._root) or ".." in place.split("/"):
            raise refusal(self._url, f"its file {location} is outside its folder")
        return _StoredInput(location, self._storage, place.removeprefix(self._root))

    def new_output(self, location: str) -> OutputFile:
        raise NotImplementedError("tables are only read")

    def delete(self, location: str | InputFile | OutputFile) -> None:
        raise NotImplementedError("tables are only read")


class _StoredInput(InputFile):
    """A file of the storage that can be read from any place in it."""

    def __init__(self, location: str, storage: Storage, key: str) -> None:
        super().__init__(location)
        self._storage, self._key = storage, key

    def __len__(self) -> int:
        return self._storage.stat(self._key).size

    def exists(self) -> bool:
        return self._storage.exists(self._key)

    def open(self, seekable: bool = True) -> InputStream:
        if isinstance(self._storage, LocalStorage):
            return cast(InputStream, self._storage.path(self._key).open("rb"))
        copy = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (its reader closes it)
        with self._storage.open(self._key) as stream:
            shutil.copyfileobj(stream, copy, CHUNK)
        copy.seek(0)
        return cast(InputStream, copy)


def ancestors(table: StaticTable) -> Iterator[Snapshot]:
    """The current snapshot and those before it, as far as the table keeps them."""
    snapshot = table.current_snapshot()
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parent_snapshot_id
        snapshot = None if parent is None else table.snapshot_by_id(parent)


def _plain(location: str) -> str:
    """A location without its scheme: programs write s3 or s3a, and file with one slash or three."""
    return _SCHEME.sub("", location).lstrip("/")
