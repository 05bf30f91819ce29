"""Derived columns: the checks of a file beside those of a file that holds the column, and the reading of requests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.derived_columns import request_reader
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.settings import Settings
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene

ROWS, REQUESTS, ROUNDS = 1_000_000, 2_000, 5
FAILING = 0.001
PIPELINE = """\
name: flights
version: 1
description: Flights with the parts of their days.
columns:
  year: {{description: Year., type: int64, role: {role}}}
  month: {{description: Month., type: int64, role: {role}}}
  dom: {{description: Day of the month., type: int64, role: {role}}}
  day: {{description: Day., type: date, role: timestamp{derive}}}
  late:
    description: Whether the flight was late.
    type: boolean
    role: target
    required: {{train: true, score: false}}
    nullable: {{train: false, score: true}}
    domain: {{levels: [false, true], closed: true}}
quarantine: {{limit: 0.5}}
batch: {{recent: 1}}
features: {{grain: every_row, calendar: [month]}}
split: {{fractions: {{train: 0.6, validation: 0.2, test: 0.2}}}}
promotion: {{margin: 0}}
"""


@measurement
def derived(scene: Scene) -> Iterator[Row]:
    """A date of year, month and day: in a million rows, with rows that are no days, and in requests of one row."""
    contracts = {kind: _contract(scene.folder, kind) for kind in ("stored", "derived")}
    table = _flights(0)
    day = pc.cast(pc.strptime(_text(table), "%Y-%m-%d", "s"), pa.date32())
    stored = Beside(
        "the same column in the file, s", _seconds(scene, contracts["stored"], table.append_column("day", day))
    )
    note = f"{ROWS:,} rows, median of {ROUNDS}"
    yield Row("row checks with a derived date", _seconds(scene, contracts["derived"], table), "s", None, stored, note)
    failing = _seconds(scene, contracts["derived"], _flights(FAILING))
    yield Row("row checks, one row in a thousand is no day", failing, "s", None, stored, note)
    readers = {kind: request_reader(contract) for kind, contract in contracts.items()}
    rows = [{"year": 1900 + n // 336, "month": 1 + n // 28 % 12, "dom": 1 + n % 28} for n in range(REQUESTS)]
    bodies = [json.dumps({"rows": [row]}).encode() for row in rows]
    plain = [json.dumps({"rows": [row | {"day": f"{row['year']}-01-01"}]}).encode() for row in rows]
    beside = Beside("the same column in the request, µs", _microseconds(readers["stored"].read, plain))
    for what in ("of a day that is new", "of a day that is known"):
        value = _microseconds(readers["derived"].read, bodies)
        yield Row(f"read a request with a derived date, {what}", value, "µs", None, beside, f"{REQUESTS:,} requests")


def _contract(folder: Path, kind: str) -> Contract:
    role, derive = ("attribute", "") if kind == "stored" else ("ignore", ", derive: 'make_date(year, month, dom)'")
    path = folder / f"{kind}.yaml"
    path.write_text(PIPELINE.format(role=role, derive=derive), encoding="utf-8")
    return load_contract(path)


def _flights(failing: float) -> pa.Table:
    random = np.random.default_rng(5)
    dom = random.integers(1, 29, ROWS)
    parts = {"year": random.integers(2000, 2020, ROWS), "month": random.integers(1, 13, ROWS)}
    return pa.table(
        parts | {"dom": np.where(random.random(ROWS) < failing, 40, dom), "late": random.random(ROWS) < 0.2}
    )


def _text(table: pa.Table) -> pa.ChunkedArray:
    parts = [pc.cast(table.column(name), pa.string()) for name in ("year", "month", "dom")]
    return pc.binary_join_element_wise(*parts, "-")


def _seconds(scene: Scene, contract: Contract, table: pa.Table) -> float:
    file = scene.folder / "flights.parquet"
    pq.write_table(table, file)
    out = {"accepted": scene.folder / "accepted.parquet", "quarantined": scene.folder / "bad.parquet"}
    seconds = []
    with engine.connect_strict(Settings.load(home=scene.folder), scene.folder) as con:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            check_file(con, file, contract, "train", as_of=None, **out)
            seconds.append(time.perf_counter() - began)
    return median(seconds)


def _microseconds(read: Callable[[bytes], object], bodies: list[bytes]) -> float:
    began = time.perf_counter()
    for body in bodies:
        read(body)
    return 1e6 * (time.perf_counter() - began) / len(bodies)
