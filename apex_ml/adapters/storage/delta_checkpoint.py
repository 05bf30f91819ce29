"""Read a Delta table whose log begins in a checkpoint, through the package deltalake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from apex_ml.adapters.storage.path_keys import path_keys
from apex_ml.adapters.storage.table_packages import load_deltalake
from apex_ml.errors import DataError


@dataclass(frozen=True)
class CheckpointedTable:
    """What the library reads of a table: the files by their paths in the log, with the values of its partitions."""

    table_id: str
    partitions: tuple[str, ...]
    files: Mapping[str, Mapping[str, str | None]]
    features: tuple[str, ...]
    configuration: Mapping[str, str]
    has_deleted_rows: bool


def read_by_library(folder: Path, shown: str, version: int, refuse: Callable[[str], DataError]) -> CheckpointedTable:
    """One version of a table. Raises the error of `refuse` when the library cannot read it."""
    deltalake = load_deltalake(f"{shown}: a Delta table whose log begins in a checkpoint")
    try:
        table = deltalake.DeltaTable(str(folder), version=version)
        metadata = table.metadata()
        features = tuple(table.protocol().reader_features or ())
        actions = pa.table(table.get_add_actions())
        has_deleted_rows = "deletionVectors" in features and bool(table.deletion_vectors().read_all().num_rows)
    except (deltalake.exceptions.DeltaError, OSError, ValueError) as error:
        raise refuse(
            f"a part of its log is in checkpoints only, which cannot be read: {str(error).splitlines()[0][:300]}"
        ) from error
    return CheckpointedTable(
        table_id=str(metadata.id),
        partitions=tuple(metadata.partition_columns),
        files=_files(actions, tuple(metadata.partition_columns)),
        features=features,
        configuration=metadata.configuration,
        has_deleted_rows=has_deleted_rows,
    )


def _files(actions: pa.Table, partitions: tuple[str, ...]) -> dict[str, dict[str, str | None]]:
    paths = actions.column("path").to_pylist()
    if not partitions:
        return {path: {} for path in paths}
    values = actions.column("partition").combine_chunks()
    of_column = {name: values.field(name) for name in partitions}
    return {
        path: {name: _text(column[number], path_keys(unquote(path)).get(name)) for name, column in of_column.items()}
        for number, path in enumerate(paths)
    }


def _text(value: Any, in_folder: str | None) -> str | None:
    """The text of a partition's value: that of its folder when it means the same."""
    if not value.is_valid:
        return None
    if in_folder:
        try:
            kind = value.type
            plain = pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) else kind  # folders name no time zone
            if pa.scalar(in_folder).cast(plain).cast(kind) == value:
                return in_folder
        except pa.ArrowInvalid:
            pass
    return str(value.as_py())
