"""Difficult files that are valid parquet: wrong statistics, unusual names, values that JSON cannot hold."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference_rules import violations

from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.storage.parquet_pages import verify_pages
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError

AMOUNT, COUNT, CLIENT, COUNTRY = "facturacion_usd_val", "materiales_distintos_val", "cliente_id", "pais_cd"


@dataclass(frozen=True)
class Split:
    report: FileReport
    accepted: pa.Table
    quarantined: list[dict[str, Any]]


Checker = Callable[..., Split]


@pytest.fixture
def split(con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path) -> Checker:
    def run(path: Path, use: Any = "train") -> Split:
        accepted, bad = tmp_path / "accepted.parquet", tmp_path / "bad.parquet"
        bad.unlink(missing_ok=True)
        report = check_file(make_strict(con), path, contract, use, as_of=None, accepted=accepted, quarantined=bad)
        table = pq.read_table(accepted)
        assert violations(table, contract, use) == []
        rows = pq.read_table(bad).to_pylist() if bad.exists() else []
        assert report.rows == table.num_rows + len(rows)
        return Split(report, table, rows)

    return run


@pytest.fixture
def some(healthy_orders: pa.Table) -> pa.Table:
    return healthy_orders.slice(0, 200)


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    values = values if isinstance(values, pa.Array) else pa.array(values)
    return table.set_column(table.schema.get_field_index(name), name, values)


def in_the_footer(path: Path, old: bytes, new: bytes) -> int:
    """Replace bytes in the footer alone; returns how often."""
    content = path.read_bytes()
    length = struct.unpack("<I", content[-8:-4])[0] + 8
    path.write_bytes(content[:-length] + content[-length:].replace(old, new))
    return content[-length:].count(old)


def test_wrong_statistics_hide_no_bad_value(split: Checker, some: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "lies.parquet"
    table = replaced(some, COUNT, pa.array([-5, *[3] * 199], pa.int64()))
    pq.write_table(replaced(table, COUNTRY, ["AA", *["EC"] * 199]), path, use_dictionary=False)
    assert in_the_footer(path, struct.pack("<q", -5), struct.pack("<q", 3)) and in_the_footer(path, b"\2AA", b"\2EC")
    result = split(path)
    assert [r["row_nr"] for r in result.quarantined if "range" in r["reasons"] and "domain" in r["reasons"]] == [0]


def test_a_changed_page_is_detected_by_its_checksum(split: Checker, some: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "page.parquet"
    pq.write_table(some, path, use_dictionary=False, compression="none", write_page_checksum=True)
    assert split(path).report.accepted == 200
    content = path.read_bytes()
    name = some.column(CLIENT)[7].as_py().encode()
    path.write_bytes(content.replace(name, b"C199999", 1))  # a valid value, but not the written one
    with pytest.raises(DataError, match=r"page\.parquet: damaged in column cliente_id, row group 0: .* checksum"):
        split(path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"data_page_version": "2.0"},
        {"data_page_size": 256, "compression": "zstd"},
        {"row_group_size": 17, "compression": "gzip"},
        {"version": "1.0", "compression": "none", "write_statistics": False},
        {"use_byte_stream_split": [AMOUNT], "use_dictionary": [CLIENT]},
        {"use_deprecated_int96_timestamps": True, "compression": "lz4"},
        {"write_page_index": True, "store_decimal_as_integer": True},
    ],
)
@pytest.mark.parametrize("checksums", [True, False])
def test_every_way_of_writing_is_read_alike(
    split: Checker, some: pa.Table, tmp_path: Path, options: dict[str, Any], checksums: bool
) -> None:
    long = replaced(some, "ruta_id", ["R" * 3_000 + str(nr) for nr in range(200)])  # statistics of that length
    path = tmp_path / "one.parquet"
    pq.write_table(long, path, write_page_checksum=checksums, **options)
    pq.write_table(long, tmp_path / "usual.parquet")
    assert split(path).accepted.equals(split(tmp_path / "usual.parquet").accepted)


def test_the_real_files_carry_checksums_and_pass(
    con: duckdb.DuckDBPyConnection, real_raw: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(sorted(real_raw.glob("*.parquet"))[0], tmp_path / "part.parquet"))
    verify_pages(con, path)
    middle = pq.read_metadata(path).row_group(0).column(0).data_page_offset + 5_000
    content = bytearray(path.read_bytes())
    content[middle] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged in column cliente_id, row group 0"):
        verify_pages(con, path)


def test_values_that_json_cannot_hold_are_kept_as_text(split: Checker, some: pa.Table, tmp_path: Path) -> None:
    table = replaced(some, AMOUNT, [float("nan"), float("inf"), float("-inf"), *[1.5] * 197])
    table = table.append_column("note", pa.array(["a\0b", "\\u0000", '"', *["x"] * 197]))
    table = table.append_column("more", pa.array([{"a": [float("nan")]}] * 200))
    table = table.append_column("blob", pa.array([b"\xff\x00"] * 200))
    pq.write_table(table, tmp_path / "json.parquet")
    bad = split(tmp_path / "json.parquet").quarantined
    rows = [json.loads(r["row"], parse_constant=pytest.fail) for r in bad]
    assert [r[AMOUNT] for r in rows] == ["nan", "inf", "-inf"]
    assert [r["note"] for r in rows] == ["a\\x00b", "\\u0000", '"']
    assert rows[0][COUNT] == table.column(COUNT)[0].as_py()
    assert json.loads(bad[1]["reasons"])[0] == {
        "column": AMOUNT,
        "value": "inf",
        "rule": "type: not double without loss",
    }


NUMBERS = [
    # column, delivered, accepted; None for a row that is quarantined
    (AMOUNT, pa.array([2**53, 2**53 + 1, 7], pa.int64()), [2.0**53, None, 7.0]),
    (AMOUNT, pa.array([2**63, 7, 0], pa.uint64()), [None, 7.0, 0.0]),
    (AMOUNT, pa.array([Decimal("0.10"), Decimal("12345678901234567.89"), Decimal("3.00")]), [0.1, None, 3.0]),
    (COUNT, pa.array(["5", "5.000", "5.0000000001"]), [5, 5, None]),
    (COUNT, pa.array(["1e3", "9223372036854775808", "-0"]), [None, None, 0]),
    (COUNT, pa.array([Decimal("5.0000000000"), Decimal("5.0000000001"), Decimal("6")]), [5, None, 6]),
]  # fmt: skip


@pytest.mark.parametrize(("column", "delivered", "accepted"), NUMBERS, ids=[str(n[1].type) for n in NUMBERS])
def test_a_number_is_never_cast_with_loss(
    split: Checker, some: pa.Table, tmp_path: Path, column: str, delivered: pa.Array, accepted: list[Any]
) -> None:
    pq.write_table(replaced(some.slice(0, 3), column, delivered), tmp_path / "numbers.parquet")
    result = split(tmp_path / "numbers.parquet")
    assert result.accepted.column(column).to_pylist() == [v for v in accepted if v is not None]
    assert [r["row_nr"] for r in result.quarantined] == [nr for nr, v in enumerate(accepted) if v is None]


@pytest.mark.parametrize("column", [CLIENT, "fecha_pedido_dt", "canal_pedido_cd"])
def test_nulls_of_a_type_that_cannot_be_cast_are_still_nulls(
    split: Checker, some: pa.Table, tmp_path: Path, column: str
) -> None:
    pq.write_table(replaced(some.slice(0, 2), column, [["x"], None]), tmp_path / "lists.parquet")
    assert [r["row_nr"] for r in split(tmp_path / "lists.parquet").quarantined] == [0, 1]


def test_rows_that_become_equal_and_have_other_faults(split: Checker, some: pa.Table, tmp_path: Path) -> None:
    table = pa.concat_tables([some, some.slice(0, 3)])
    lower = [v.lower() if nr >= 200 else v for nr, v in enumerate(table.column(CLIENT).to_pylist())]
    broken = [None if nr in (1, 201) else v for nr, v in enumerate(table.column("canal_pedido_cd").to_pylist())]
    pq.write_table(replaced(replaced(table, CLIENT, lower), "canal_pedido_cd", broken), tmp_path / "equal.parquet")
    result = split(tmp_path / "equal.parquet")
    reasons = {r["row_nr"]: [f["column"] for f in json.loads(r["reasons"])] for r in result.quarantined}
    assert reasons == {
        1: ["canal_pedido_cd"],
        200: ["all columns"],
        201: ["canal_pedido_cd", "all columns"],
        202: ["all columns"],
    }


ODD_NAMES = [
    "row_nr", "file_row_number", "in doubt", "raw 0", "c0", "source", "PAIS", "pais_cd 2", "filename", "año",
    "a'b\"c", "",
]  # fmt: skip


def test_columns_with_unusual_names_are_reported_and_ignored(split: Checker, some: pa.Table, tmp_path: Path) -> None:
    pq.write_table(some, tmp_path / "plain.parquet")
    table = replaced(some, COUNTRY, ["XX", *some.column(COUNTRY).to_pylist()[1:]])
    for name in ODD_NAMES:
        table = table.append_column(name, pa.array(["odd"] * 200))
    pq.write_table(table.select(table.column_names[::-1]), tmp_path / "odd.parquet")
    result = split(tmp_path / "odd.parquet")
    assert sorted(result.report.added) == sorted(ODD_NAMES)
    assert [r["row_nr"] for r in result.quarantined] == [0]
    assert {n: v for n, v in json.loads(result.quarantined[0]["row"]).items() if n in ODD_NAMES} == dict.fromkeys(
        ODD_NAMES, "odd"
    )
    assert result.accepted.equals(split(tmp_path / "plain.parquet").accepted.slice(1))


@pytest.mark.parametrize("name", [COUNTRY, AMOUNT])
def test_a_repeated_column_is_refused(split: Checker, some: pa.Table, tmp_path: Path, name: str) -> None:
    table = pa.table([*some.columns, some.column(name)], names=[*some.column_names, name])
    pq.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=rf"twice\.parquet: repeated columns: {name}"):
        split(tmp_path / "twice.parquet")


@pytest.mark.parametrize(
    "name", ["a[0-9]*?.parquet", "with space.parquet", "o'clock.parquet", "pais_cd=XX/part.parquet"]
)
def test_paths_are_no_patterns_and_no_partitions(split: Checker, some: pa.Table, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    pq.write_table(some, path)
    pq.write_table(some, tmp_path / "a1x.parquet")
    result = split(path)
    assert (result.report.rows, result.report.accepted, result.report.added) == (200, 200, ())


def test_row_counts_that_contradict_each_other_are_refused(tmp_path: Path, some: pa.Table, split: Checker) -> None:
    path = tmp_path / "counts.parquet"
    pq.write_table(some, path, row_group_size=150)
    original = pq.read_metadata(path)
    assert original.num_row_groups == 2
    content = path.read_bytes()
    length = struct.unpack("<I", content[-8:-4])[0] + 8
    footer = content[-length:]
    result = 0
    for at in [i for i in range(length) if footer.startswith(b"\x90\x03", i)]:  # 200 as zigzag varint
        path.write_bytes(content[:-length] + footer[:at] + b"\x92\x03" + footer[at + 2 :])
        try:
            changed = pq.read_metadata(path).num_rows == 201
        except (OSError, pa.ArrowInvalid):
            continue
        if changed:
            result += 1
            with pytest.raises(DataError, match="do not add up to 201 rows"):
                split(path)
    assert result == 1
