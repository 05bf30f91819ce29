"""Make a scoring drop: future orders of known clients."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

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
from apex_ml.core.row_time import time_array, time_value
from apex_ml.errors import ConfigError, DataError
from apex_ml.services.raw_location import PLACE
from apex_ml.simulate.day_columns import values_of_day
from apex_ml.simulate.draws import stream
from apex_ml.simulate.files import write_part
from apex_ml.sql.newest_rows import RAW_FILES, create_raw_rows, drop_type, select_newest
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
    """Write `rows` orders of the day `as_of`, of clients sampled from the raw files, to `path`, in one rename.

    The file has the contract's entity, timestamp and attribute columns, and those that derived ones need, in its order
    and the raw files' types; neither target nor measures. A client's attributes are those of its newest raw order.
    Clients repeat only when there are more rows than clients, and then evenly. The same raw rows, `rows` and `seed`
    give the same bytes, for any division of the raw rows into files.

    Raises ConfigError when `path` exists, `rows` is below 1, the raw URL is no local folder, or no values of the
    columns from which the timestamp is derived put it on the day; DataError when there is
    no readable raw file, or the entity or timestamp column is missing, or no row names an entity.
    """
    began = time.perf_counter()
    if rows < 1:
        raise ConfigError(f"rows {rows:,}: a drop needs 1 or more")
    if not contract.has_history:
        raise ConfigError("a drop of drawn rows needs columns with the roles entity and timestamp; deliver a file")
    if path.exists():
        raise ConfigError(f"{path} exists: a drop is never overwritten, choose another name")
    folder = local_folder(raw, PLACE)
    clients = _read_clients(folder, contract)
    if not clients.num_rows:
        raise DataError(f"raw files in {folder}: no row has a {contract.entity}, so there is no client")
    random = stream(seed, "drop")
    rounds = -(-rows // clients.num_rows)
    places = np.concatenate([random.permutation(clients.num_rows) for _ in range(rounds)])[:rows]
    sample = clients.take(pa.array(places))
    buffer = BytesIO()
    drawn = _on_day(contract, sample, as_of, seed)
    # an instant keeps its time zone, which INT96 does not have
    write_part(drawn, buffer, plain=frozenset({contract.entity}), arrow_schema=contract.has_instants)
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


def _times_of_day(contract: Contract, day: date, rows: int, seed: int) -> pa.Array:
    """Random seconds of the first 24 hours of a day, on the clock of the contract."""
    seconds = stream(seed, "times of day").integers(0, 86_400, rows)
    return time_array(contract, time_value(contract, day) + seconds * 1_000_000)


def _on_day(contract: Contract, sample: pa.Table, day: date, seed: int) -> pa.Table:
    """The rows on another day: in their timestamp, or in the columns that it is derived from."""
    values: Mapping[str, Any] = {contract.timestamp: day}
    if contract.timestamp in contract.derived:
        values = {name: of_day(day) for name, of_day in values_of_day(contract, sample).items()}
    elif contract.has_instants:
        place = sample.schema.get_field_index(contract.timestamp)
        sample = sample.set_column(place, contract.timestamp, _times_of_day(contract, day, sample.num_rows, seed))
        values = {}
    for name, value in values.items():
        place = sample.schema.get_field_index(name)
        if isinstance(value, date) and not isinstance(value, datetime):  # a drop has days as timestamps
            value = datetime(value.year, value.month, value.day)
        repeated = pa.repeat(pa.scalar(value, sample.schema.field(place).type), sample.num_rows)
        sample = sample.set_column(place, name, repeated)
    return sample.drop_columns([name for name in sample.column_names if name in contract.derived])


def _read_clients(folder: Path, contract: Contract) -> pa.Table:
    """One row per client, sorted by client: the drop's columns, from the client's newest raw order."""
    files = data_files(folder, PLACE)
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
    of_rows = (contract.entity, contract.timestamp)
    needed = [name for name in (*of_rows, *contract.sources("entity", "timestamp")) if name not in contract.derived]
    if missing := [name for name in needed if name not in raw.columns]:
        raise DataError(f"raw files in {folder}: no column {missing[0]}; found {', '.join(raw.columns)}")
    # a derived entity or timestamp says whose row is the newest
    names = {*contract.columns_of_drop(), *of_rows}
    columns = {name: drop_type(column) for name, column in contract.columns.items() if name in names}
    kinds = {name: _number_type(kind) for name, kind in zip(raw.columns, raw.types, strict=True)}
    raw.create_view(RAW_FILES)
    connection.execute(create_raw_rows(contract, kinds))
    kinds |= {name: kinds.get(name) for name in of_rows}
    return connection.sql(select_newest(contract, columns, kinds)).to_arrow_table()


def _number_type(kind: DuckDBPyType) -> pa.DataType | None:
    """The type of a number that is not whole; None for any other type."""
    if kind.id in ("float", "double"):
        return pa.float64()
    if kind.id == "decimal":
        (_, precision), (_, scale) = kind.children
        return pa.decimal128(precision, scale)
    return None
