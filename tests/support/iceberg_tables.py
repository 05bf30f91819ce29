"""Iceberg tables for tests: written by pyiceberg through a catalog in a file, as other programs would."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table
from pyiceberg.transforms import Transform

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
