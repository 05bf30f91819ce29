"""The commits of a Delta table: which of them append rows, and these rows as one parquet file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.storage.delta_log import (
    DELTA_LOG,
    DeltaCommit,
    check_features,
    commit_time,
    commit_version,
    is_log_file,
    read_commit,
    refusal,
)
from apex_ml.adapters.storage.storage import Storage
from apex_ml.adapters.storage.table_log import CommitKind, Commits, Position, TableCommit, TableState, local_copy
from apex_ml.adapters.storage.table_packages import load_deltalake
from apex_ml.core.table_version import TableVersion
from apex_ml.errors import ConfigError, DataError

BATCH_ROWS = 100_000


@dataclass(frozen=True)
class DeltaAppends:
    """A Delta table at a location. `log_folder` gives a local folder whose ``_delta_log`` is that of the table."""

    storage: Storage
    url: str
    log_folder: Callable[[], Path]

    def read(self) -> TableState | None:
        """The table now, by the package deltalake; None while there is no commit."""
        deltalake = load_deltalake(f"{self.url}: appends to a Delta table as drops")
        folder = self.log_folder()
        log = folder / DELTA_LOG
        names = [path.name for path in log.iterdir() if is_log_file(path.name)] if log.is_dir() else []
        if not names:
            return None
        try:
            table = deltalake.DeltaTable(str(folder))
            metadata, schema = table.metadata(), pa.schema(table.schema())
        except (deltalake.exceptions.DeltaError, OSError, ValueError) as error:
            raise refusal(self.url, f"its log cannot be read: {str(error).splitlines()[0][:300]}") from error
        features = DeltaCommit(
            protocol={"readerFeatures": table.protocol().reader_features},
            metadata={"configuration": metadata.configuration},
        )
        check_features(features, lambda why: refusal(self.url, why))
        name = self.url.rstrip("/").rpartition("/")[2]
        newest = TableVersion("delta", name, str(metadata.id), table.version())
        versions = sorted(v for n in names if (v := commit_version(n)) is not None and v <= newest.version)
        return _DeltaState(self.storage, self.url, log, newest, versions, schema, tuple(metadata.partition_columns))


@dataclass(frozen=True)
class _DeltaState:
    """A Delta table at one version."""

    storage: Storage
    url: str
    log: Path
    newest: TableVersion
    versions: list[int]
    """Versions whose commits the log still has."""
    schema: pa.Schema
    partitions: tuple[str, ...]
    _commits: dict[int, DeltaCommit] = field(default_factory=dict)

    def after(self, position: Position) -> Commits:
        first = 0 if position.version is None else position.version + 1
        commits = [self.commit(version) for version in self.versions if version >= first]
        oldest = min(self.versions, default=self.newest.version + 1)
        is_lost = position.version is not None and bool(commits) and first < oldest
        return Commits(commits, f"versions {first} to {oldest - 1}" if is_lost else "")

    def at(self, version: int) -> Position:
        return Position(version, None, version)

    def before(self, version: int) -> Position:
        if version > self.newest.version + 1:
            raise ConfigError(
                f"scoring.first_version: {version}: the newest version of {self.url} is {self.newest.version}; name one"
                " that exists, or the next one"
            )
        return Position(version - 1, None, version - 1) if version else Position()

    def commit(self, version: int) -> TableCommit:
        content = self._content(version)
        info = content.info
        kind = _kind_of(content)
        table = TableVersion("delta", self.newest.name, self.newest.table_id, version, commit_time(content))
        size = sum(int(add.get("size") or 0) for add in content.added.values()) if kind == "append" else 0
        return TableCommit(table, kind, str(info.get("operation") or "a commit without a name"), size)

    def _content(self, version: int) -> DeltaCommit:
        if version not in self.versions:
            raise FileNotFoundError(f"{self.url}: the log has no commit {version}")
        if version not in self._commits:
            self._commits[version] = read_commit(self.log / f"{version:020d}.json", self.url)
        return self._commits[version]

    def write_rows(self, commit: TableCommit, path: Path) -> None:
        content = self._content(commit.table.version)
        with pq.ParquetWriter(path, self.schema) as writer:
            for key, add in content.added.items():
                if add.get("deletionVector"):
                    raise refusal(self.url, "it has deletion vectors")
                with local_copy(self.storage, key, path.parent) as file:
                    self._add_rows(writer, file, key, add.get("partitionValues") or {})

    def _add_rows(self, writer: pq.ParquetWriter, path: Path, key: str, values: Mapping[str, str | None]) -> None:
        try:
            with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
                for batch in file.iter_batches(BATCH_ROWS):
                    columns = [self._column(of, batch, values) for of in self.schema]
                    writer.write_batch(pa.record_batch(columns, schema=self.schema))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{self.url}: {key}: cannot be read as rows of the table: {error}") from error

    def _column(self, of: pa.Field, batch: pa.RecordBatch, values: Mapping[str, str | None]) -> pa.Array:
        if of.name in self.partitions:
            return pa.repeat(partition_value(values.get(of.name), of.type), batch.num_rows)
        if of.name not in batch.schema.names:  # the column was added to the table later
            return pa.nulls(batch.num_rows, of.type)
        return batch.column(of.name).cast(of.type)


def partition_value(text: str | None, kind: pa.DataType) -> pa.Scalar:
    """The value of a partition from its text in the log, where an empty text is null.

    >>> partition_value("2026-01-02", pa.date32()), partition_value("", pa.string())
    (<pyarrow.Date32Scalar: datetime.date(2026, 1, 2)>, <pyarrow.StringScalar: None>)
    """
    if not text:
        return pa.scalar(None, kind)
    if pa.types.is_binary(kind):
        return pa.scalar(text.encode(), kind)
    if pa.types.is_timestamp(kind) and kind.tz and not text.endswith("Z"):
        return pa.scalar(text).cast(pa.timestamp(kind.unit)).cast(kind)
    return pa.scalar(text).cast(kind)


def _kind_of(commit: DeltaCommit) -> CommitKind:
    def changes_rows(actions: Mapping[str, dict[str, Any]]) -> bool:
        return any(action.get("dataChange", True) for action in actions.values())

    # restored rows were there before
    if changes_rows(commit.removed) or (commit.added and commit.info.get("operation") == "RESTORE"):
        return "change"
    return "append" if changes_rows(commit.added) else "none"
