"""Columns in the names of folders beside columns of the files: DuckDB SQL."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from apex_ml.contract.columns import Column
from apex_ml.sql.casts import cast_sql
from apex_ml.sql.parquet import place_name, scan_by_place
from apex_ml.sql.quote import identifier

NULL_TEXT = "CAST(NULL AS VARCHAR)"


def count_other_values(
    path: Path, columns: int, place: int, column: Column, kind: pa.DataType, key: tuple[pa.DataType, str]
) -> str:
    """One row: the rows of a file whose column has another value than its folder says, and one of these values.

    `key` is the type and SQL of the value in the name of the folder.
    """
    source = identifier(place_name(place))
    key_kind, value = key
    text = f"CAST({source} AS VARCHAR)"
    same = f"{text} IS NOT DISTINCT FROM CAST({value} AS VARCHAR)"
    own, other = cast_sql(column, kind, source), cast_sql(column, key_kind, value)
    if own is not None and other is not None:
        same += f" OR coalesce({own} = {other}, false)"
    differs = f"FILTER (NOT ({same}))"
    return f"SELECT count(*) {differs}, any_value({text}) {differs} FROM {scan_by_place(path, columns)}"
