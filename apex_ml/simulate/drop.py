"""Make a scoring drop: future orders of known clients."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass
from datetime import date, datetime
from io import BytesIO
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.sqltypes import DuckDBPyType

from apex_ml.adapters.duckdb.engine import errors_name
from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.parquet_files import check_parquet
from apex_ml.adapters.storage.raw_folder import data_files
from apex_ml.contract.model import Contract
from apex_ml.contract.roles import ROLES_OF_A_DROP
from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.draws import stream
from apex_ml.simulate.files import write_part
from apex_ml.sql.newest_rows import RAW_ROWS, drop_type, select_newest
from apex_ml.sql.session import SET_MEMORY_LIMIT, SET_TEMP_DIRECTORY, set_threads

MEMORY_LIMIT = "512MB"
THREADS = 2


@dataclass(frozen=True)
class DropInfo:
    """A written drop."""

    path: Path
    rows: int
    clients: int
    as_of: date
    seed: int
    bytes: int
    sha256: str
    seconds: float


def make_drop(raw: str, as_of: date, rows: int, seed: int, path: Path, contract: Contract) -> DropInfo:
    """Write `rows` orders dated `as_of`, of clients sampled from the raw files, to `path`, in one rename.

    The file has the contract's entity, timestamp and attribute columns in its order and the raw files' types; neither
    target nor measures. A client's attributes are those of its newest raw order. Clients repeat only when there are
    more rows than clients, and then evenly. The same raw rows, `rows` and `seed` give the same bytes, for any division
    of the raw rows into files.

    Raises ConfigError when `path` exists, `rows` is below 1 or the raw URL is no local folder; DataError when there is
    no readable raw file, or the entity or timestamp column is missing, or no row names an entity.
    """
    began = time.perf_counter()
    if rows < 1:
        raise ConfigError(f"rows {rows:,}: a drop needs 1 or more")
    if not contract.has_history:
        raise ConfigError("a drop of drawn rows needs columns with the roles entity and timestamp; deliver a file")
    if contract.derived:
        names = ", ".join(contract.derived)
        raise ConfigError(f"rows are not drawn for a contract with derived columns ({names}); deliver a file")
    if path.exists():
        raise ConfigError(f"{path} exists: a drop is never overwritten, choose another name")
    folder = local_folder(raw, "locations.raw")
    clients = _read_clients(folder, contract)
    if not clients.num_rows:
        raise DataError(f"raw files in {folder}: no row has a {contract.entity}, so there is no client")
    random = stream(seed, "drop")
    rounds = -(-rows // clients.num_rows)
    places = np.concatenate([random.permutation(clients.num_rows) for _ in range(rounds)])[:rows]
    sample = clients.take(pa.array(places))
    when = pa.scalar(datetime(as_of.year, as_of.month, as_of.day), pa.timestamp("ns"))
    place = sample.schema.get_field_index(contract.timestamp)
    sample = sample.set_column(place, contract.timestamp, pa.repeat(when, rows))
    buffer = BytesIO()
    write_part(sample, buffer, plain=frozenset({contract.entity}))
    content = buffer.getvalue()
    write_atomically(path, content)
    return DropInfo(
        path=path,
        rows=rows,
        clients=min(rows, clients.num_rows),
        as_of=as_of,
        seed=seed,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        seconds=time.perf_counter() - began,
    )


def _read_clients(folder: Path, contract: Contract) -> pa.Table:
    """One row per client, sorted by client: the drop's columns, from the client's newest raw order."""
    files = data_files(folder, "locations.raw")
    for path in files:
        check_parquet(path)
    with (
        tempfile.TemporaryDirectory(prefix="apex-drop-") as spill,
        errors_name(f"raw files in {folder}"),
        duckdb.connect() as connection,
    ):
        connection.execute(SET_MEMORY_LIMIT, [MEMORY_LIMIT])
        connection.execute(SET_TEMP_DIRECTORY, [spill])
        connection.execute(set_threads(THREADS))
        raw = connection.read_parquet([str(path) for path in files], union_by_name=True)
        return _newest(connection, raw, contract, folder)


def _newest(
    connection: duckdb.DuckDBPyConnection, raw: duckdb.DuckDBPyRelation, contract: Contract, folder: Path
) -> pa.Table:
    if missing := [name for name in (contract.entity, contract.timestamp) if name not in raw.columns]:
        raise DataError(f"raw files in {folder}: no column {missing[0]}; found {', '.join(raw.columns)}")
    columns = {name: drop_type(column) for name, column in contract.columns.items() if column.role in ROLES_OF_A_DROP}
    kinds = {name: _number_type(kind) for name, kind in zip(raw.columns, raw.types, strict=True)}
    raw.create_view(RAW_ROWS)
    return connection.sql(select_newest(contract, columns, kinds)).to_arrow_table()


def _number_type(kind: DuckDBPyType) -> pa.DataType | None:
    """The type of a number that is not whole; None for any other type."""
    if kind.id in ("float", "double"):
        return pa.float64()
    if kind.id == "decimal":
        (_, precision), (_, scale) = kind.children
        return pa.decimal128(precision, scale)
    return None
