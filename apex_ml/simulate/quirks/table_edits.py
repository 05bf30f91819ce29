"""Edit columns of a table."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.quirks.interface import Context, Mask


def configured_columns(context: Context, quirk: str, table: pa.Table) -> list[str]:
    """The columns to touch that are in the table; ConfigError when none is configured, DataError when none is there."""
    if not context.settings.columns:
        raise ConfigError(
            f"quirk {quirk}: process {context.process.name} names no columns for it (quirks.{quirk}.columns)"
        )
    present = [name for name in context.settings.columns if name in table.column_names]
    if not present:
        raise DataError(f"quirk {quirk}: no column {', '.join(context.settings.columns)} left to touch")
    return present


def set_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Replace a column, in its place."""
    return table.set_column(table.schema.get_field_index(name), name, values)


def replace_where(table: pa.Table, name: str, rows: Mask, values: pa.Array | pa.ChunkedArray | pa.Scalar) -> pa.Table:
    """Replace a column's values in chosen rows."""
    return set_column(table, name, pc.if_else(pa.array(rows), values, table.column(name)))
