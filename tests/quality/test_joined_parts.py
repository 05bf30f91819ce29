"""A folder of parts gives the rows, reports and errors of one file with the same rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb import open_parts
from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.joined_parts import join_parts
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.storage.folder_drops import parts_in
from apex_ml.contract.model import Contract
from apex_ml.contract.scoring_options import FolderRule
from apex_ml.errors import DataError
from tests.support.order_files import order_table

Result = tuple[FileReport, list[dict[str, Any]], list[dict[str, Any]]]
Check = Callable[..., Result]
RULE = FolderRule("never")
CLIENT, COUNTRY, DATE, AMOUNT = "cliente_id", "pais_cd", "fecha_pedido_dt", "facturacion_usd_val"
INT96 = {"use_deprecated_int96_timestamps": True}
UPPER = {CLIENT: CLIENT.upper()}


@pytest.fixture
def check(con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path) -> Check:
    def run(path: Path, use: Any = "score") -> Result:
        accepted, bad = tmp_path / "accepted.parquet", tmp_path / "bad.parquet"
        bad.unlink(missing_ok=True)
        with ExitStack() as stack:
            joined = None
            if path.is_dir():
                parts = parts_in(path, path.name, RULE)
                joined = stack.enter_context(join_parts(make_strict(con), path, parts, contract, use, tmp_path))
            report = check_file(
                make_strict(con), path, contract, use, as_of=None, accepted=accepted, quarantined=bad,
                with_row_nr=True, copy=False, joined=joined,
            )  # fmt: skip
            rows = con.sql(report.query).to_arrow_table().sort_by("row_nr").to_pylist()
            return report, rows, pq.read_table(bad).sort_by("row_nr").to_pylist() if bad.exists() else []

    return run


def write_parts(folder: Path, tables: Sequence[pa.Table], **options: Any) -> Path:
    folder.mkdir()
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"part-{number:05}.parquet", **options)
    return folder


def comparable(result: Result) -> tuple[Any, ...]:
    report, rows, bad = result
    return (
        replace(report, name="", query="", places=None),
        rows,
        [(row["row_nr"], row["reasons"], row["row"]) for row in bad],
    )


def column(name: str, values: pa.Array) -> pa.Table:
    table = order_table(rows=len(values))
    return table.set_column(table.schema.get_field_index(name), name, values)


ODD: dict[str, tuple[pa.Table, dict[str, Any]]] = {
    "plain": (order_table(rows=9), {}),
    "bad values": (column(CLIENT, pa.array(["X", None, "", "nobody", "Z"])), {}),
    "not UTF-8": (column(COUNTRY, pa.array([b"PE", b"\xff", b"PE", b"a\xe9"], pa.binary()).view(pa.string())), {}),
    "bytes": (column(COUNTRY, pa.array([b"PE", b"EC", None, b"PE"], pa.binary())), {}),
    "categories": (column(COUNTRY, pa.array(["PE", "EC", None, "PE"]).dictionary_encode()), {}),
    "large text": (column(COUNTRY, pa.array(["PE", "EC", None, "PE"], pa.large_string())), {}),
    "view": (column(COUNTRY, pa.array(["PE", "EC", None, "PE"], pa.string_view())), {}),
    "decimals": (column(AMOUNT, pa.array([1, 2, None, 4]).cast(pa.decimal128(25, 4))), {}),
    "wide decimals": (column(AMOUNT, pa.array([1, 2, None, 4]).cast(pa.decimal256(50, 4))), {}),
    "halves": (column(AMOUNT, pa.array([1, 2, None, 4], pa.float16())), {}),
    "unsigned": (column(AMOUNT, pa.array([1, 2, None, 2**64 - 1], pa.uint64())), {}),
    "nothing": (column(AMOUNT, pa.nulls(4)), {}),
    "durations": (column(AMOUNT, pa.array([1, 2, None, 4], pa.duration("ms"))), {}),
    "lists": (column(AMOUNT, pa.array([[1.0], [2.0], None, []])), {}),
    "days": (column(DATE, pa.array([date(2024, 3, 5)] * 3 + [None])), {}),
    "days in ms": (column(DATE, pa.array([date(2024, 3, 5)] * 4, pa.date64())), {}),
    "INT96": (
        column(DATE, pa.array([datetime(2024, 3, 5)] * 4, pa.timestamp("ns"))),
        {"use_deprecated_int96_timestamps": True},
    ),
    "zones": (column(DATE, pa.array([datetime(2024, 3, 5, 3)] * 4, pa.timestamp("us", "America/Lima"))), {}),
    "nanoseconds": (column(DATE, pa.array([datetime(2024, 3, 5)] * 4, pa.timestamp("ns"))), {}),
    "seconds": (column(DATE, pa.array([datetime(2024, 3, 5)] * 4, pa.timestamp("s"))), {}),
    "far days": (column(DATE, pa.array([2**60, 0, 1, 2], pa.timestamp("us"))), {}),
    "extra": (order_table(rows=4).append_column("extra", pa.array([{"a": 1}] * 4)), {}),
    "uuid": (order_table(rows=4).append_column("extra", pa.array([b"0" * 16] * 4, pa.uuid())), {}),
    "json": (order_table(rows=4).append_column("extra", pa.array(['{"a": 1}'] * 4, pa.json_())), {}),
    "empty": (order_table(rows=4).slice(0, 0), {}),
    "missing": (order_table(rows=4).drop_columns([CLIENT]), {}),
    "near": (
        order_table(rows=4).rename_columns([n.upper() if n == CLIENT else n for n in order_table().column_names]),
        {},
    ),
    "twice": (order_table(rows=4).append_column(CLIENT, pa.array(["a"] * 4)), {}),
}


@pytest.mark.parametrize("use", ["score", "train"])
@pytest.mark.parametrize("name", list(ODD))
def test_parts_are_checked_as_one_file_of_their_rows(check: Check, tmp_path: Path, name: str, use: str) -> None:
    table, options = ODD[name]
    one = tmp_path / "one"
    pq.write_table(table, one, **options)
    step = max(1, table.num_rows // 3)
    tables = [table.slice(at, step) for at in range(0, max(1, table.num_rows), step)]
    many = write_parts(tmp_path / "many", tables, **options)

    def outcome(path: Path) -> Any:
        try:
            return comparable(check(path, use))
        except DataError as error:
            return str(error).removeprefix(f"{path.name}: ")

    assert outcome(many) == outcome(one)


def test_parts_of_several_types_get_one_that_holds_all_values_exactly(check: Check, tmp_path: Path) -> None:
    kinds = [pa.array([1, 2], pa.int8()), pa.array([2.5, None]), pa.nulls(2), pa.array([2**40, 3], pa.int64())]
    folder = write_parts(tmp_path / "many", [column(AMOUNT, values) for values in kinds])
    one = tmp_path / "one"
    values = pa.chunked_array([kind.cast(pa.float64()) for kind in kinds]).combine_chunks()
    pq.write_table(pa.concat_tables([order_table(rows=2)] * 4).set_column(11, AMOUNT, values), one)
    assert comparable(check(folder, "train"))[1:] == comparable(check(one, "train"))[1:]
    pq.write_table(column(AMOUNT, pa.array([2**53 + 1, 1])), folder / "part-00009.parquet")
    with pytest.raises(
        DataError, match=rf"many: part-00009.parquet: column {AMOUNT} is int64, and other parts make it"
    ):
        check(folder)
    pq.write_table(column(AMOUNT, pa.array([["a"], []])), folder / "part-00009.parquet")
    text = rf"many: column {AMOUNT} is double in part-00000.parquet and list.* in part-00009.parquet; write all parts"
    with pytest.raises(DataError, match=text):
        check(folder)


def test_a_column_that_a_part_lacks_is_null_there_and_keys_of_folders_are_columns(check: Check, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    table = order_table(rows=2)
    for country in ("EC", "__HIVE_DEFAULT_PARTITION__", "E%43"):
        (folder / f"{COUNTRY}={country}" / f"{DATE}=2024-03-05").mkdir(parents=True)
        part = table.drop_columns([COUNTRY, DATE, *([AMOUNT] if country == "EC" else [])])
        pq.write_table(part, folder / f"{COUNTRY}={country}" / f"{DATE}=2024-03-05" / "part-0.parquet")
    report, rows, bad = check(folder, "train")
    assert bad == [] and report.cast == ()
    day = date(2024, 3, 5)  # the parts are in the order of their names
    expected = [("EC", day, 10.5)] * 2 + [("EC", day, None)] * 2 + [(None, day, 10.5)] * 2
    assert [(row[COUNTRY], row[DATE], row[AMOUNT]) for row in rows] == expected
    assert report.places is not None
    assert report.places.part_of(5) == (f"{COUNTRY}=__HIVE_DEFAULT_PARTITION__/{DATE}=2024-03-05/part-0.parquet", 1)
    pq.write_table(order_table(rows=2), folder / f"{COUNTRY}=E%43" / f"{DATE}=2024-03-05" / "part-1.parquet")
    with pytest.raises(DataError, match="differ from the name of the folder"):
        check(folder)


def test_a_part_that_would_be_refused_alone_is_refused(check: Check, tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "many", [order_table(rows=5), order_table(rows=2).drop_columns([CLIENT])])
    with pytest.raises(DataError, match=r"many: part-00001\.parquet: required columns are missing(?s:.*)cliente_id"):
        check(folder)
    first = order_table(rows=5)
    pq.write_table(
        first.rename_columns([f"value {n}" for n in range(first.num_columns)]), folder / "part-00001.parquet"
    )
    with pytest.raises(DataError, match=r"many: part-00001\.parquet: required columns are missing"):
        check(folder)


def test_days_and_times_are_read_as_times(check: Check, tmp_path: Path) -> None:
    day = column(DATE, pa.array([date(2024, 3, 5)] * 2))
    folder = write_parts(tmp_path / "many", [order_table(rows=3), day, column(DATE, pa.array([datetime(2024, 3, 5)]))])
    _, rows, bad = check(folder)
    assert [row[DATE].day for row in rows] == [1, 2, 3, 5, 5, 5] and bad == []


def test_large_parts_are_read_in_pieces(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parts(tmp_path / "many", [order_table(rows=50), order_table(rows=20)])
    whole = comparable(check(folder))
    monkeypatch.setattr(open_parts, "LARGE", 0)
    monkeypatch.setattr(open_parts, "PIECE_ROWS", 7)
    assert comparable(check(folder)) == whole and len(whole[1]) == 70


@pytest.mark.parametrize("seed", range(3))
def test_damaged_parts_are_refused_by_name_or_read_as_they_are(check: Check, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = write_parts(tmp_path / "many", [order_table(rows=40)] * 2, write_page_checksum=True)
    part = folder / "part-00001.parquet"
    content, noticed = part.read_bytes(), 0
    for _ in range(40):
        damaged = bytearray(content)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        part.write_bytes(damaged)
        try:
            assert len(check(folder)[1]) <= 80
        except DataError as error:
            noticed += 1
            assert str(error).startswith(("many: part-00001.parquet: ", "many: "))
    assert noticed > 10


def test_parquet_and_csv_do_not_mix(check: Check, tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "many", [order_table()])
    (folder / "part-2.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"many: part-2\.csv: not a parquet file .*format: csv"):
        check(folder)
