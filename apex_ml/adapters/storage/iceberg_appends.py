"""The snapshots of an Iceberg table: which of them append rows, and these rows as one parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from apex_ml.adapters.storage.storage import Storage
from apex_ml.adapters.storage.table_log import CommitKind, Commits, Position, TableCommit, TableState
from apex_ml.adapters.storage.table_packages import load_pyiceberg
from apex_ml.core.table_version import TableVersion, from_ms
from apex_ml.errors import ConfigError

if TYPE_CHECKING:  # the package is an extra
    from pyiceberg.table import StaticTable
    from pyiceberg.table.snapshots import Snapshot

KINDS: dict[str, CommitKind] = {"append": "append", "replace": "none"}
"""What a snapshot's operation does to the rows; every other one changes or removes some."""


@dataclass(frozen=True)
class IcebergAppends:
    """An Iceberg table at a location."""

    storage: Storage
    url: str

    def read(self) -> TableState | None:
        """The table now, by its newest metadata; None while it has no snapshot."""
        load_pyiceberg(f"{self.url}: appends to an Iceberg table as drops")
        from apex_ml.adapters.storage.iceberg_files import open_iceberg

        table = open_iceberg(self.storage, self.url)
        return None if table is None or table.current_snapshot() is None else _IcebergState(table, self.url)


class _IcebergState(TableState):
    """The chain of snapshots that ends in the current one."""

    def __init__(self, table: StaticTable, url: str) -> None:
        self._table, self._url = table, url

    @cached_property
    def _chain(self) -> list[Snapshot]:
        from apex_ml.adapters.storage.iceberg_files import ancestors

        return list(ancestors(self._table))

    @property
    def newest(self) -> TableVersion:
        return self._version(self._chain[0])

    def after(self, position: Position) -> Commits:
        if position.version is None:
            return Commits([self._commit(snapshot) for snapshot in reversed(self._chain)])
        newer: list[Snapshot] = []
        lost = ""
        for snapshot in self._chain:
            if snapshot.snapshot_id == position.version or self._is_until(snapshot, position):
                break
            newer.append(snapshot)
        else:
            if self._has_gap(position, self._chain[-1]):
                lost = f"snapshots before {self._chain[-1].snapshot_id}"
        return Commits([self._commit(snapshot) for snapshot in reversed(newer)], lost)

    def at(self, version: int) -> Position:
        snapshot = self._snapshot(version)
        if snapshot is None:
            raise FileNotFoundError(f"{self._url}: the table has no snapshot {version} in its history")
        return Position(version, from_ms(snapshot.timestamp_ms), snapshot.sequence_number)

    def before(self, version: int) -> Position:
        if version == 0:
            return Position()
        snapshot = self._snapshot(version)
        if snapshot is None:
            raise ConfigError(
                f"scoring.first_version: {version}: {self._url} has no such snapshot in its history; name one of"
                f" {', '.join(str(known.snapshot_id) for known in self._chain[:5])}, or 0 for all"
            )
        number = snapshot.sequence_number
        return Position(
            snapshot.parent_snapshot_id, from_ms(snapshot.timestamp_ms - 1), None if number is None else number - 1
        )

    def commit(self, version: int) -> TableCommit:
        snapshot = self._snapshot(version)
        if snapshot is None:
            raise FileNotFoundError(f"{self._url}: the table has no snapshot {version} in its history")
        return self._commit(snapshot)

    def write_rows(self, commit: TableCommit, path: Path) -> None:
        from apex_ml.adapters.storage.iceberg_files import write_tasks

        version = commit.table.version
        scan = self._table.incremental_append_scan().from_snapshot_id_inclusive(version)
        scan = scan.to_snapshot_id_inclusive(version)
        tasks = sorted(scan.plan_files(), key=lambda task: task.file.file_path)
        write_tasks(self._table, self._url, tasks, path)

    def _snapshot(self, version: int) -> Snapshot | None:
        return next((snapshot for snapshot in self._chain if snapshot.snapshot_id == version), None)

    def _is_until(self, snapshot: Snapshot, position: Position) -> bool:
        """Whether a snapshot was made before a position that is not in the history: it was rolled back or expired."""
        at = from_ms(snapshot.timestamp_ms)
        is_known = self._snapshot(position.version or 0) is not None
        return not is_known and position.committed_at is not None and at is not None and at <= position.committed_at

    def _has_gap(self, position: Position, oldest: Snapshot) -> bool:
        """Whether snapshots between a position that expired and the oldest one of the history expired, too.

        Who expires a snapshot may also remove its id from the one behind it; the numbers stay.
        """
        if position.sequence and oldest.sequence_number:
            return oldest.sequence_number > position.sequence + 1
        return oldest.parent_snapshot_id not in (None, position.version)

    def _version(self, snapshot: Snapshot) -> TableVersion:
        from apex_ml.adapters.storage.iceberg_files import version_of

        return version_of(self._table, snapshot, self._url)

    def _commit(self, snapshot: Snapshot) -> TableCommit:
        summary = snapshot.summary
        operation = "a snapshot without a summary" if summary is None else summary.operation.value
        size = 0 if summary is None else int(summary.additional_properties.get("added-files-size") or 0)
        return TableCommit(self._version(snapshot), KINDS.get(operation, "change"), operation, size)
