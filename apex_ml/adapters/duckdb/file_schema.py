"""Read the schema of a parquet file, and refuse one that lacks columns of the contract or hides them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.engine import reason_of
from apex_ml.adapters.duckdb.file_report import repr_visible
from apex_ml.adapters.storage.parquet_files import check_parquet
from apex_ml.contract.expressions import shown_expression
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError
from apex_ml.sql.row_checks import RowChecks
from apex_ml.sql.schema_findings import SchemaFindings
from apex_ml.text import visible
from apex_ml.wording import nearest


def read_schema(path: Path) -> pa.Schema:
    """Read a parquet file's Arrow schema.

    Raises :class:`~apex_ml.errors.DataError` naming the file when it is not a whole, readable parquet file.
    """
    check_parquet(path)
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path.name}: a damaged parquet file; deliver it again ({reason_of(error)})") from error


def refuse_repeated_names(path: Path, contract: Contract, schema: pa.Schema) -> None:
    """Refuse a file in which a column of the contract appears twice."""
    if twice := [name for name in contract.file_columns if schema.names.count(name) > 1]:
        raise DataError(f"{path.name}: repeated columns: {', '.join(twice)}; deliver each once")


def refuse_other_names(path: Path, contract: Contract, checks: RowChecks) -> None:
    """Refuse a file without a required column, or with a name similar to a column's: its values would be lost."""
    schema = checks.schema
    if schema.delivered:
        delivered = "; ".join(
            f"{name} is derived by {shown_expression(contract.columns[name].derive)} and is in the file"
            + ("" if names == (name,) else f" as {', '.join(map(repr_visible, names))}")
            for name, names in schema.delivered
        )
        raise DataError(
            f"{path.name}: {delivered}: which of both counts? Remove the column from the file, or give the derived one"
            " another name in the contract"
        )
    if schema.ambiguous:
        lines = [f"{path.name}: several columns may be meant by one name of the contract; deliver each once"]
        lines += [f"  {name}: {', '.join(map(repr_visible, names))}" for name, names in schema.ambiguous]
        lines.append("  keep the column that holds the values, under the contract's name; remove or rename the others")
        raise DataError("\n".join(lines))
    if schema.missing_required or schema.near:
        raise DataError(
            "\n".join([f"{path.name}: {_title(schema)}; expected → found", *_differences(contract, schema)])
        )


def refuse_extra(path: Path, contract: Contract, checks: RowChecks) -> None:
    """Refuse a file with columns that the contract does not mention, if the contract says so."""
    if contract.extra == "refuse" and checks.schema.added:
        names = ", ".join(map(repr_visible, checks.schema.added))
        raise DataError(
            f"{path.name}: columns that the contract does not mention: {names} (extra: refuse); remove them, give them"
            " the role ignore in the contract, or write extra: report"
        )


def _title(schema: SchemaFindings) -> str:
    if schema.missing_required:
        return "required columns are missing"
    return "columns have nearly a name of the contract"


def _differences(contract: Contract, schema: SchemaFindings) -> list[str]:
    """One line a column that is missing or has a similar name, then advice."""
    near = dict(schema.near)
    others = [name for name in schema.added if name not in {n for names in near.values() for n in names}]
    lines = []
    for name in dict.fromkeys([*schema.missing_required, *near]):
        if name in near:
            instead = f"{', '.join(map(visible, near[name]))} (rename it)"
        elif (other := nearest(name, others)) is not None:
            instead = f"nothing; {visible(other)} comes near (rename it if it is meant)"
        else:
            instead = "nothing"
        lines.append(f"  {name} ({contract.columns[name].type}) → {instead}")
    if schema.added:
        lines.append(f"  columns unknown to the contract: {', '.join(map(visible, schema.added[:10]))}")
    if near:
        lines.append("  or write match: insensitive into the contract, so that such names are accepted")
    return lines


def refuse_encrypted(path: Path, checks: RowChecks, encrypted: Collection[str]) -> None:
    """Refuse a file in which a column of the contract is encrypted. Other columns are not needed."""
    if unreadable := [c.name for c in checks.raw_columns if c.column is not None and c.name in encrypted]:
        raise DataError(
            f"{path.name}: encrypted columns: {', '.join(map(visible, unreadable))}; Apex holds no keys:"
            " deliver them without encryption"
        )
