"""Iceberg tables for tests: written by pyiceberg through a catalog in a file, as other programs would."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot, Summary
from pyiceberg.table.update import AddSnapshotUpdate, SetSnapshotRefUpdate
from pyiceberg.transforms import Transform
from pyiceberg.typedef import Record

from tests.support.object_servers import KEY, SECRET, ObjectServer


def new_catalog(folder: Path, server: ObjectServer | None = None) -> SqlCatalog:
    """A catalog whose tables are below the folder, or below a new prefix of the server's bucket."""
    name = uuid.uuid4().hex[:8]
    properties = {"uri": f"sqlite:///{folder}/{name}.db", "warehouse": f"file://{folder}/{name}"}
    if server is not None:
        properties |= {
            "warehouse": f"s3://{server.bucket}/{name}",
            "s3.endpoint": server.endpoint,
            "s3.region": "us-east-1",
            "s3.access-key-id": KEY,
            "s3.secret-access-key": SECRET,
        }
    catalog = SqlCatalog("tests", **properties)
    catalog.create_namespace("lake")
    return catalog


def new_table(
    catalog: SqlCatalog, name: str, rows: pa.Table, parts: Mapping[str, Transform[Any, Any]] | None = None
) -> Table:
    """A table with these rows, partitioned by transforms of columns."""
    table = catalog.create_table(f"lake.{name}", rows.schema)
    if parts:
        with table.update_spec() as update:
            for column, transform in parts.items():
                update.add_field(column, transform, f"{column}_{transform}")
    if rows.num_rows:
        table.append(rows)
    return table


def place_of(table: Table) -> str:
    """The location of a table as a pipeline's file gives it."""
    return table.location().removeprefix("file://")


def add_deletes(table: Table, rows: pa.Table, content: DataFileContent) -> None:
    """Commit a file of deletes, as Spark and Flink write them; pyiceberg itself writes none."""
    folder, number, parent = table.location(), uuid.uuid4().int >> 66, table.current_snapshot()
    assert parent is not None
    with table.io.new_output(f"{folder}/data/{number}-deletes.parquet").create() as output:
        pq.write_table(rows, output)
    none: dict[str, Any] = dict.fromkeys(("key_metadata", "split_offsets", "sort_order_id"))
    statistics = ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts")
    file = DataFile.from_args(
        content=content,
        file_path=f"{folder}/data/{number}-deletes.parquet",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=rows.num_rows,
        file_size_in_bytes=1,
        equality_ids=[1] if content == DataFileContent.EQUALITY_DELETES else None,
        **none,
        **{name: {} for name in (*statistics, "lower_bounds", "upper_bounds")},
    )
    file.spec_id = 0
    manifest = _DeleteManifest(
        table.spec(), table.schema(), table.io.new_output(f"{folder}/metadata/{number}-m0.avro"), number, "deflate"
    )
    with manifest as writer:
        writer.add_entry(ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, snapshot_id=number, data_file=file))
    listed = f"{folder}/metadata/snap-{number}.avro"
    sequence = table.metadata.last_sequence_number + 1
    output = table.io.new_output(listed)
    with write_manifest_list(2, output, number, parent.snapshot_id, sequence, "deflate") as lists:
        lists.add_manifests([manifest.to_manifest_file(), *parent.manifests(table.io)])
    snapshot = Snapshot(
        snapshot_id=number,
        parent_snapshot_id=parent.snapshot_id,
        sequence_number=sequence,
        timestamp_ms=parent.timestamp_ms + 1,
        manifest_list=listed,
        summary=Summary(Operation.DELETE),
        schema_id=table.metadata.current_schema_id,
    )
    reference = SetSnapshotRefUpdate(
        snapshot_id=number,
        parent_snapshot_id=parent.snapshot_id,
        ref_name="main",
        type="branch",
        max_ref_age_ms=None,
        max_snapshot_age_ms=None,
        min_snapshots_to_keep=None,
    )
    with table.transaction() as change:
        change._apply((AddSnapshotUpdate(snapshot=snapshot), reference), ())


class _DeleteManifest(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}
