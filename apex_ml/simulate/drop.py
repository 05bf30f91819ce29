"""Make a scoring drop: future orders of known clients."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
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
from apex_ml.core.row_time import time_array, time_value
from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.draws import stream
from apex_ml.simulate.files import write_part
from apex_ml.sql.newest_rows import RAW_FILES, create_raw_rows, drop_type, select_newest
from apex_ml.sql.session import SET_MEMORY_LIMIT, SET_TEMP_DIRECTORY, set_threads

MEMORY_LIMIT = "512MB"
THREADS = 2
DAY_PARTS = ("year", "month", "day")


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

    Raises ConfigError when `path` exists, `rows` is below 1, the raw URL is no local folder, or the entity or the
    timestamp is derived in a way that cannot be reversed; DataError when there is
    no readable raw file, or the entity or timestamp column is missing, or no row names an entity.
    """
    began = time.perf_counter()
    if rows < 1:
        raise ConfigError(f"rows {rows:,}: a drop needs 1 or more")
    if not contract.has_history:
        raise ConfigError("a drop of drawn rows needs columns with the roles entity and timestamp; deliver a file")
    parts = _parts_of_day(contract)
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
    buffer = BytesIO()
    drawn = _on_day(contract, sample, as_of, parts, seed)
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


def _parts_of_day(contract: Contract) -> tuple[str, ...]:
    """The columns with year, month and day of a derived timestamp; empty for one that the file holds.

    Raises ConfigError for a derived entity, and for a timestamp that is derived in another way.
    """
    entity, when = contract.columns[contract.entity], contract.columns[contract.timestamp]
    if entity.derive is not None:
        raise ConfigError(
            f"rows are not drawn, as the entity {entity.name} is derived by {entity.derive}; deliver a file"
        )
    if when.expression is None:
        return ()
    columns = when.expression.columns(contract.columns)
    parts = tuple(columns[token.text] for token in when.expression.tokens if token.kind == "column")
    # the expression without white space
    written = "".join(token.word for token in when.expression.tokens if token.kind != "column")
    if written != "make_date(,,)" or len(set(parts)) != len(DAY_PARTS):
        raise ConfigError(
            f"rows are not drawn, as the timestamp {when.name} is derived by {when.derive}: only the columns of"
            " make_date(year, month, day) can be set to another day; deliver a file"
        )
    return parts


def _times_of_day(contract: Contract, day: date, rows: int, seed: int) -> pa.Array:
    """Random seconds of the first 24 hours of a day, on the clock of the contract."""
    seconds = stream(seed, "times of day").integers(0, 86_400, rows)
    return time_array(contract, time_value(contract, day) + seconds * 1_000_000)


def _on_day(contract: Contract, sample: pa.Table, day: date, parts: Sequence[str], seed: int) -> pa.Table:
    """The rows on another day: in their timestamp, or in the columns that it is derived from."""
    values: dict[str, pa.Scalar] = {}
    if parts:
        sample = sample.drop_columns([contract.timestamp])
        values = {name: getattr(day, part) for name, part in zip(parts, DAY_PARTS, strict=True)}
    elif contract.has_instants:
        place = sample.schema.get_field_index(contract.timestamp)
        return sample.set_column(place, contract.timestamp, _times_of_day(contract, day, sample.num_rows, seed))
    else:
        values[contract.timestamp] = datetime(day.year, day.month, day.day)
    for name, value in values.items():
        place = sample.schema.get_field_index(name)
        repeated = pa.repeat(pa.scalar(value, sample.schema.field(place).type), sample.num_rows)
        sample = sample.set_column(place, name, repeated)
    return sample


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
    parts = _parts_of_day(contract)
    needed = (contract.entity, *(parts or (contract.timestamp,)))
    if missing := [name for name in needed if name not in raw.columns]:
        raise DataError(f"raw files in {folder}: no column {missing[0]}; found {', '.join(raw.columns)}")
    # a derived timestamp says which row is the newest
    names = {*contract.columns_of_drop(), contract.timestamp}
    columns = {name: drop_type(column) for name, column in contract.columns.items() if name in names}
    kinds = {name: _number_type(kind) for name, kind in zip(raw.columns, raw.types, strict=True)}
    raw.create_view(RAW_FILES)
    connection.execute(create_raw_rows(contract, parts))
    kinds[contract.timestamp] = kinds.get(contract.timestamp)
    return connection.sql(select_newest(contract, columns, kinds)).to_arrow_table()


def _number_type(kind: DuckDBPyType) -> pa.DataType | None:
    """The type of a number that is not whole; None for any other type."""
    if kind.id in ("float", "double"):
        return pa.float64()
    if kind.id == "decimal":
        (_, precision), (_, scale) = kind.children
        return pa.decimal128(precision, scale)
    return None
