"""Drops: orders of known clients without outcome, moved into the inbox atomically, equal for equal seeds."""

from __future__ import annotations

import hashlib
import json
import os
import time
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb.derived_columns import request_reader
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.errors import ConfigError, DataError
from apex_ml.serving.loadtest_rows import rows_of
from apex_ml.simulate.drop import make_drop
from apex_ml.simulate.files import part_files, write_parts
from apex_ml.simulate.process import Process
from apex_ml.simulate.quirks.apply import apply_quirk

AS_OF = date(2024, 8, 24)


def test_a_drop(contract: Contract, process: Process, orders: pa.Table, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "inbox" / "drop.parquet"
    info = make_drop(str(folder), AS_OF, 300, 1, path, contract)
    assert [p.name for p in path.parent.iterdir()] == ["drop.parquet"]
    table = pq.read_table(path)
    assert table.column_names == [
        name for name, column in contract.columns.items() if column.role in ("entity", "timestamp", "attribute")
    ]
    assert pq.ParquetFile(path).schema.column(table.column_names.index(contract.timestamp)).physical_type == "INT96"
    assert set(table.column(contract.timestamp).cast(pa.timestamp("s")).to_pylist()) == {datetime(2024, 8, 24)}
    assert len(pc.unique(table.column(contract.entity))) == 300  # distinct while there are clients enough
    known = orders.select([name for name in table.column_names if name != contract.timestamp])
    attributes = {row[contract.entity]: row for row in known.to_pylist()}
    assert all(row == attributes[row[contract.entity]] for row in table.drop_columns([contract.timestamp]).to_pylist())
    assert (info.path, info.rows, info.clients, info.as_of, info.seed) == (path, 300, 300, AS_OF, 1)
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.bytes == path.stat().st_size


def test_clients_repeat_evenly_when_they_must(contract: Contract, folder: Path, tmp_path: Path) -> None:
    info = make_drop(str(folder), AS_OF, 2_500, 1, tmp_path / "drop.parquet", contract)
    counts = pc.value_counts(pq.read_table(info.path).column(contract.entity)).field("counts").to_pylist()
    assert sum(counts) == 2_500
    assert set(counts) == {2, 3}
    assert len(counts) == info.clients


def test_the_seed_decides_not_the_files(contract: Contract, process: Process, orders: pa.Table, tmp_path: Path) -> None:
    for number, rows in enumerate((orders, orders.take(pa.array(range(orders.num_rows - 1, -1, -1))))):
        raw = tmp_path / f"raw{number}"
        raw.mkdir()
        write_parts(rows, raw, 1 + 4 * number, label="x", entity=process.entity)
    first = make_drop(str(tmp_path / "raw0"), AS_OF, 100, 1, tmp_path / "a.parquet", contract)
    second = make_drop((tmp_path / "raw1").as_uri(), AS_OF, 100, 1, tmp_path / "b.parquet", contract)
    other = make_drop(str(tmp_path / "raw0"), AS_OF, 100, 2, tmp_path / "c.parquet", contract)
    assert first.sha256 == second.sha256 != other.sha256


def test_attributes_are_the_newest(
    contract: Contract, process: Process, orders: pa.Table, folder: Path, tmp_path: Path
) -> None:
    apply_quirk(folder, "changing_attributes", 1.0, 1, process)
    path = make_drop(str(folder), AS_OF, 500, 1, tmp_path / "drop.parquet", contract).path
    raw = pa.concat_tables([pq.read_table(p) for p in part_files(folder)]).sort_by(contract.timestamp)
    newest = {row[contract.entity]: row[process.given] for row in raw.to_pylist()}
    rows = pq.read_table(path).to_pylist()
    agree = [row[process.given] == newest[row[contract.entity]] for row in rows]
    assert sum(agree) >= 497  # a client may have two orders on its last day


@pytest.mark.parametrize(
    "quirk",
    [
        "nulls",
        "date_strings",
        "estrellas_suffix",
        "tz_aware",
        "missing_column",
        "extra_column",
        "all_null_column",
        "reordered_columns",
        "empty_file",
        "int_as_double",
        "dictionary_strings",
    ],
)
@pytest.mark.parametrize("rate", ["one", 1.0])
def test_damaged_raw_files_do_not_stop_it(
    contract: Contract, process: Process, folder: Path, tmp_path: Path, quirk: str, rate: float
) -> None:
    apply_quirk(folder, quirk, rate, 1, process)
    table = pq.read_table(make_drop(str(folder), AS_OF, 300, 1, tmp_path / "drop.parquet", contract).path)
    assert table.num_rows == 300
    assert table.column(contract.entity).null_count == 0
    assert set(table.column(contract.timestamp).cast(pa.timestamp("s")).to_pylist()) == {datetime(2024, 8, 24)}


def test_refusals(contract: Contract, process: Process, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "drop.parquet"
    with pytest.raises(ConfigError, match="rows 0"):
        make_drop(str(folder), AS_OF, 0, 1, path, contract)
    with pytest.raises(ConfigError, match="s3://"):
        make_drop("s3://bucket/raw", AS_OF, 1, 1, path, contract)
    with pytest.raises(DataError, match="no such folder"):
        make_drop(str(tmp_path / "none"), AS_OF, 1, 1, path, contract)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="apex simulate"):
        make_drop(str(tmp_path / "empty"), AS_OF, 1, 1, path, contract)
    path.touch()
    with pytest.raises(ConfigError, match="never overwritten"):
        make_drop(str(folder), AS_OF, 1, 1, path, contract)
    path.unlink()
    apply_quirk(folder, "nulls", 1.0, 1, process, columns=[contract.entity])
    with pytest.raises(DataError, match="no row has a cliente_id, so there is no client"):
        make_drop(str(folder), AS_OF, 1, 1, path, contract)
    apply_quirk(folder, "missing_column", 1.0, 1, process, columns=[contract.entity])
    with pytest.raises(DataError, match=f"no column {contract.entity}"):
        make_drop(str(folder), AS_OF, 1, 1, path, contract)
    cut = apply_quirk(folder, "truncated_file", "one", 1, process)[0]
    with pytest.raises(DataError, match=cut.name):
        make_drop(str(folder), AS_OF, 1, 1, path, contract)
    assert not path.exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(not os.environ.get("APEX_TEST_RAW"), reason="APEX_TEST_RAW names no folder of the real files")
def test_the_real_files(contract: Contract, tmp_path: Path) -> None:
    began = time.perf_counter()
    info = make_drop(os.environ["APEX_TEST_RAW"], AS_OF, 100_000, 1, tmp_path / "drop.parquet", contract)
    assert time.perf_counter() - began < 2
    table = pq.read_table(info.path)
    assert len(pc.unique(table.column(contract.entity))) == 100_000
    assert all(column.null_count == 0 for column in table.columns)


SHOP = """\
name: shop
version: 1
description: Sales of a shop.
columns:
  client: {description: C., type: string, role: entity}
  y: {description: Y., type: int64, role: ignore}
  m: {description: M., type: int64, role: ignore}
  d: {description: D., type: int64, role: ignore}
  day: {description: D., type: date, role: timestamp, derive: "make_date(y, m, d)"}
  price: {description: P., type: double, role: attribute}
  dear: {description: D., type: boolean, role: attribute, derive: price > 10}
  kind:
    {description: K., type: string, role: target, required: {train: true, score: false},
     nullable: {train: false, score: true}, domain: {levels: [a, b], closed: true}}
rules: []
quarantine: {limit: 0.5}
batch: {recent: 7}
features: {grain: every_row, attributes: [price, dear], history: [{recipe: count, name: history_rows}]}
split: {fractions: {train: 0.6, validation: 0.2, test: 0.2}}
promotion: {margin: 0.001}
"""


def shop(folder: Path, text: str = SHOP) -> Contract:
    path = folder / "pipeline.yaml"
    path.write_text(text)
    return load_contract(path)


def test_rows_are_drawn_for_derived_columns(tmp_path: Path) -> None:
    contract = shop(tmp_path)
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(60)]
    parts = {"y": [d.year for d in days], "m": [d.month for d in days], "d": [d.day for d in days]}
    raw = {"client": [f"c{n % 7}" for n in range(60)], **parts, "price": [float(n) for n in range(60)]}
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(raw | {"kind": ["a", "b"] * 30}), tmp_path / "raw" / "a.parquet")
    path = make_drop(str(tmp_path / "raw"), AS_OF, 7, 1, tmp_path / "drop.parquet", contract).path
    drop = pq.read_table(path)
    assert drop.column_names == ["client", "y", "m", "d", "price"]
    assert {(r["y"], r["m"], r["d"]) for r in drop.to_pylist()} == {(2024, 8, 24)}
    assert {r["client"]: r["price"] for r in drop.to_pylist()} == {f"c{n % 7}": float(n) for n in range(53, 60)}
    sent = rows_of(contract, drop, path.name).rows
    read = request_reader(contract).read(json.dumps({"rows": sent}).encode()).columns
    assert read["day"] == [AS_OF] * 7 and read["dear"] == [True] * 7


DAYS = [date(2024, 1, 1) + timedelta(days=n) for n in range(60)]
WHEN = {
    "make_date(y, m, d)": {},
    "strptime(concat_ws(' ', y, m, d), '%Y %B %d')": {"m": [f"{day:%B}" for day in DAYS]},
    "make_date(y // 10000, (y // 100) % 100, y % 100)": {"y": [int(f"{day:%Y%m%d}") for day in DAYS]},
    "m + to_days(CAST(y AS INTEGER))": {"y": [0] * 60, "m": DAYS},
    "CAST(strptime(m, '%d/%m/%Y') AS DATE)": {"m": [f"{day:%d/%m/%Y}" for day in DAYS]},
    "make_timestamp(y * 1000000)": {"y": [1_700_000_000 + n * 86_400 for n in range(60)]},
    "make_timestamp(y, m, d, 23, 59, 0)": {},
}
"""Expressions of the day of a row, with the columns that are not those of year, month and day."""


@pytest.mark.parametrize("derive", WHEN)
def test_rows_are_drawn_on_the_day_of_a_derived_timestamp_and_of_a_derived_entity(tmp_path: Path, derive: str) -> None:
    parts = {"y": [d.year for d in DAYS], "m": [d.month for d in DAYS], "d": [d.day for d in DAYS]} | WHEN[derive]
    types = {str: "string", int: "int64", date: "date"}
    text = SHOP.replace("make_date(y, m, d)", derive)
    text = text.replace("m: {description: M., type: int64", f"m: {{description: M., type: {types[type(parts['m'][0])]}")
    if "make_timestamp" in derive or "strptime(concat" in derive:
        text = text.replace("type: date, role: timestamp", "type: timestamp, role: timestamp")
    text = text.replace(
        "  client: {description: C., type: string, role: entity}",
        "  nr: {description: N., type: int64, role: ignore}\n"
        "  client: {description: C., type: string, role: entity, derive: \"'c' || nr\"}",
    )
    contract = shop(tmp_path, text)
    raw = {"nr": [n % 7 for n in range(60)], **parts, "price": [float(n) for n in range(60)]}
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(raw | {"kind": ["a", "b"] * 30}), tmp_path / "raw" / "a.parquet")
    path = make_drop(str(tmp_path / "raw"), AS_OF, 7, 1, tmp_path / "drop.parquet", contract).path
    drop = pq.read_table(path)
    assert {r["nr"]: r["price"] for r in drop.to_pylist()} == {n % 7: float(n) for n in range(53, 60)}
    sent = rows_of(contract, drop, path.name).rows
    read = request_reader(contract).read(json.dumps({"rows": sent}).encode()).columns
    assert {value.date() if isinstance(value, datetime) else value for value in read["day"]} == {AS_OF}
    assert sorted(read["client"]) == [f"c{n}" for n in range(7)]


@pytest.mark.parametrize(
    "derive", ["make_date(y, m, 1)", "make_date(2024, 1 + m % 2, d)", "DATE '2024-01-01' + CAST(y % 9 AS INTEGER)"]
)
def test_a_timestamp_that_no_likely_values_put_on_a_day_is_refused(tmp_path: Path, derive: str) -> None:
    contract = shop(tmp_path, SHOP.replace("make_date(y, m, d)", derive))
    raw = {"client": ["a", "b"], "y": [2024, 2024], "m": [1, 2], "d": [3, 4], "price": [1.0, 2.0], "kind": ["a", "b"]}
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table(raw), tmp_path / "raw" / "a.parquet")
    with pytest.raises(ConfigError, match="put a row on another day; deliver a file"):
        make_drop(str(tmp_path / "raw"), AS_OF, 7, 1, tmp_path / "drop.parquet", contract)
