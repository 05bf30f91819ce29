"""Every logical type of the format in a column of every type of the contract: the exact values, or a clear refusal."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError
from apex_ml.settings import Settings
from tests.support.order_files import order_table

COLUMNS = {
    "string": "ruta_id",
    "double": "facturacion_usd_val",
    "int64": "materiales_distintos_val",
    "date": "fecha_pedido_dt",
}
DAY = date(2024, 3, 5)
NOON = datetime(2024, 3, 5, 12, 30)
UUID = uuid.UUID("c1897f02-4071-4d17-9bb6-14a5918de2cf")
Cells = dict[str, Any]
NUMBER: Cells = {"string": "7", "double": 7.0, "int64": 7}
TEXT_OF_NUMBER: Cells = {"string": "7", "double": 7.0, "int64": 7}
HALF: Cells = {"string": "1.5", "double": 1.5}
ISO: Cells = {"string": "2024-03-05", "date": DAY}
WIDE = Decimal("9007199254740993.5")
MINUTES: Cells = {"date": DAY}

TYPES: list[tuple[str, pa.Array | str, Cells]] = [
    # name, one value as Arrow has it or as SQL, and what each type of the contract makes of it; absent: refused
    ("boolean", pa.array([True]), {"string": "TRUE"}),
    *((str(k), pa.array([7], k), NUMBER) for k in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((str(k), pa.array([7], k), NUMBER) for k in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    ("uint64 beyond int64", pa.array([2**63 + 1], pa.uint64()), {"string": "9223372036854775809"}),
    *((str(k), pa.array([1.5]).cast(k), HALF) for k in (pa.float16(), pa.float32(), pa.float64())),
    *(
        (f"decimal of {k.precision} digits", pa.array([Decimal("1.5")], k), HALF)
        for k in (pa.decimal32(5, 1), pa.decimal64(12, 2), pa.decimal128(38, 3), pa.decimal256(50, 4))
    ),
    ("decimal beyond a double", pa.array([WIDE], pa.decimal128(20, 1)), {"string": str(WIDE)}),
    ("whole decimal of 60 digits", pa.array([Decimal(7)], pa.decimal256(60, 2)), NUMBER),
    *((str(k), pa.array(["7"], k), TEXT_OF_NUMBER) for k in (pa.string(), pa.large_string(), pa.string_view())),
    ("dictionary", pa.array(["7"]).dictionary_encode(), TEXT_OF_NUMBER),
    ("date as text", pa.array(["2024-03-05"]), ISO),
    ("date as bytes", pa.array([b"2024-03-05"]), ISO),
    *((str(k), pa.array([b"7"], k), TEXT_OF_NUMBER) for k in (pa.binary(), pa.large_binary(), pa.binary_view())),
    ("fixed binary", pa.array([b"ab"], pa.binary(2)), {"string": "AB"}),
    ("dictionary of binary", pa.array([b"7"]).dictionary_encode(), TEXT_OF_NUMBER),
    ("binary that is no text", pa.array([b"\xff\x00"]), {}),
    ("ENUM", "enum", TEXT_OF_NUMBER),
    ("JSON", pa.array(["7"]).cast(pa.json_()), TEXT_OF_NUMBER),
    ("malformed JSON", pa.array(["R1"]).cast(pa.json_()), {"string": "R1"}),
    ("BSON", "bson", {}),
    ("UUID", pa.array([UUID.bytes], pa.uuid()), {"string": str(UUID).upper()}),
    ("date", pa.array([DAY]), {"date": DAY}),
    ("date out of range", pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), {}),
    *((f"time {k}", pa.array([time(1, 2)]).cast(k), {}) for k in (pa.time32("ms"), pa.time64("us"), pa.time64("ns"))),
    ("time out of range", pa.array([2**40], pa.int64()).view(pa.time64("us")), {}),
    *((f"timestamp {u}", pa.array([NOON], pa.timestamp(u)), MINUTES) for u in ("ms", "us", "ns")),
    ("aware", pa.array([NOON], pa.timestamp("us", "UTC")), MINUTES),
    ("aware in a zone", pa.array([datetime(2024, 3, 6, 3)], pa.timestamp("ns", "America/Lima")), MINUTES),
    ("timestamp out of range", pa.array([2**63 - 2], pa.timestamp("ms")), {}),
    ("INT96", "int96", MINUTES),
    ("INT96 out of range", "int96 broken", {}),
    ("duration", pa.array([7], pa.duration("us")), {}),
    ("INTERVAL", "INTERVAL 7 DAY", {}),
    ("VARIANT", "'7'::VARIANT", {}),
    ("list", pa.array([["7"]]), {}),
    ("struct", pa.array([{"a": 7}]), {}),
    ("map", pa.array([[("a", 7)]], pa.map_(pa.string(), pa.int64())), {}),
    ("bool8", pa.array([1], pa.int8()).cast(pa.bool8()), {"string": "1", "double": 1.0, "int64": 1}),
]
NULL = pa.nulls(1)


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with engine.connect(Settings.load(home=tmp_path_factory.mktemp("home"))) as connection:
        yield connection


def annotated(path: Path, column: str, mark: bytes) -> None:
    """Change a string column's mark in the footer, as writers have it that know more kinds of text."""
    content = path.read_bytes()
    old = column.encode() + b"\x25\x00\x4c\x1c\x00\x00"
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, column.encode() + mark))


def write(con: duckdb.DuckDBPyConnection, path: Path, column: str, value: pa.Array | str) -> None:
    if value in ("enum", "bson"):
        pq.write_table(order_table({column: pa.array(["7"])}, rows=1), path, store_schema=False)
        annotated(path, column, b"\x25\x08\x4c\x4c\x00\x00" if value == "enum" else b"\x25\x28\x4c\xdc\x00\x00")
    elif isinstance(value, str) and value.startswith("int96"):
        table = order_table({column: pa.array([NOON.replace(hour=0, minute=0)], pa.timestamp("us"))}, rows=1)
        options: dict[str, Any] = {"use_dictionary": False, "compression": "none", "write_statistics": False}
        pq.write_table(table, path, use_deprecated_int96_timestamps=True, **options)
        if value.endswith("broken"):
            instant = (0).to_bytes(8, "little") + (2460375).to_bytes(4, "little")
            content = path.read_bytes()
            assert instant in content
            path.write_bytes(content.replace(instant, (0).to_bytes(8, "little") + b"\xff\xff\xff\x7f"))
    elif isinstance(value, str):
        base = path.with_name("base.parquet")
        pq.write_table(order_table(rows=1), base)
        query = f"SELECT * REPLACE ({value} AS {column}) FROM '{base}'"
        con.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    else:
        pq.write_table(order_table({column: value}, rows=1), path)


@pytest.mark.parametrize("expected", COLUMNS)
@pytest.mark.parametrize(("name", "value", "cells"), TYPES, ids=[t[0] for t in TYPES])
def test_every_type_is_read_exactly_or_refused_clearly(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    tmp_path: Path,
    name: str,
    value: pa.Array | str,
    cells: Cells,
    expected: str,
) -> None:
    path, accepted, bad = (tmp_path / f"{n}.parquet" for n in ("file", "accepted", "bad"))
    column = COLUMNS[expected]
    write(con, path, column, value)
    try:
        report = check_file(make_strict(con), path, contract, "score", as_of=None, accepted=accepted, quarantined=bad)
    except DataError as error:
        assert expected not in cells and all(
            word in str(error) for word in ("file.parquet", column, name, "; write it")
        )
        return
    if expected in cells:
        assert pq.read_table(accepted).column(column).to_pylist() == [cells[expected]]
        assert report.reasons == {}
        return
    (row,) = pq.read_table(bad).to_pylist()
    (reason,) = json.loads(row["reasons"])
    assert reason["column"] == column and reason["value"] not in ("null", "absent", "")
    kind, _, remedy = reason["rule"].partition("; ")
    loss = f"type: not {expected} without loss"
    if expected == "date" and name.startswith(("date out", "timestamp out", "INT96 out")):
        assert kind.startswith(("range: ", loss))
    elif kind != loss:
        assert kind.endswith(f" is not {expected}") or kind.startswith("encoding: cannot be decoded"), kind
        assert remedy.startswith(("deliver ", "add date_formats ", "write it ")), reason


@pytest.mark.parametrize("name", [t[0] for t in TYPES if t[1] is not None and not isinstance(t[1], str)])
def test_a_column_outside_the_contract_can_have_any_type(
    con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path, name: str
) -> None:
    """One row is bad, so that all its values are shown in quarantine."""
    value = next(v for n, v, _ in TYPES if n == name)
    table = order_table({"cliente_id": ["X", "C000001"]}, rows=2)
    table = table.append_column("extra", pa.concat_arrays([value, pa.nulls(1, value.type)]))
    path, accepted, bad = (tmp_path / f"{n}.parquet" for n in ("file", "accepted", "bad"))
    pq.write_table(table, path)
    report = check_file(make_strict(con), path, contract, "score", as_of=None, accepted=accepted, quarantined=bad)
    assert (report.accepted, report.quarantined, report.added) == (1, 1, ("extra",))
    (row,) = pq.read_table(bad).to_pylist()
    assert json.loads(row["row"])["extra"] not in (None, "")
