"""Every logical type of the format in a boolean, a decimal and a timestamp: the exact values, or a clear refusal."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.errors import DataError
from tests.adapters.test_logical_types import NOON, TYPES, con, write  # noqa: F401  (a fixture)
from tests.support.pipeline_files import ORDERS

COLUMN = "facturacion_usd_val"
KINDS: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "decimal": {"type": "decimal", "decimals": 2},
    "time": {"type": "timestamp"},
    "instant": {"type": "timestamp", "timezone": "America/Lima"},
}
SEVEN, HALF = {"decimal": Decimal("7.00")}, {"decimal": Decimal("1.50")}
MIDNIGHT = {"time": datetime(2024, 3, 5), "instant": datetime(2024, 3, 5, 5, tzinfo=UTC)}
TIME = {"time": NOON, "instant": NOON.replace(hour=17, tzinfo=UTC)}
EXPECTED: dict[str, dict[str, Any]] = {
    "boolean": {"boolean": True},
    "bool8": {"boolean": True, "decimal": Decimal("1.00")},
    "decimal beyond a double": {"decimal": Decimal("9007199254740993.50")},
    "uint64 beyond int64": {"decimal": Decimal("9223372036854775809.00")},
    "whole decimal of 60 digits": SEVEN,
    "date": MIDNIGHT,
    "aware": {"instant": NOON.replace(tzinfo=UTC)},
    "aware in a zone": {"instant": datetime(2024, 3, 6, 3, tzinfo=UTC)},
    "INT96": {"instant": datetime(2024, 3, 5, tzinfo=UTC)},
    **{f"timestamp {unit}": TIME for unit in ("ms", "us", "ns")},
}


def expected_of(name: str, cells: dict[str, Any]) -> dict[str, Any]:
    if name in EXPECTED:
        return EXPECTED[name]
    return {"7": SEVEN, "1.5": HALF}.get(cells.get("string", ""), {})


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Contract]:
    folder = tmp_path_factory.mktemp("contracts")
    loaded = {}
    for kind, parts in KINDS.items():
        content = yaml.safe_load(ORDERS.read_text(encoding="utf-8"))
        column = {"description": "A thing.", "role": "attribute", "required": False, "nullable": True}
        content["columns"][COLUMN] = column | parts
        content["features"]["history"] = [{"recipe": "count"}]
        path = folder / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        loaded[kind] = load_contract(path)
    return loaded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "value", "cells"), TYPES, ids=[t[0] for t in TYPES])
def test_every_type_is_read_exactly_or_refused_clearly(
    con: duckdb.DuckDBPyConnection,  # noqa: F811
    contracts: dict[str, Contract],
    tmp_path: Path,
    name: str,
    value: pa.Array | str,
    cells: dict[str, Any],
    kind: str,
) -> None:
    path, accepted, bad = (tmp_path / f"{n}.parquet" for n in ("file", "accepted", "bad"))
    write(con, path, COLUMN, value)
    expected = expected_of(name, cells)
    try:
        check_file(
            make_strict(con), path, contracts[kind], "score", as_of=None, accepted=accepted, quarantined=bad
        )  # fmt: skip
    except DataError as error:
        assert kind not in expected and "file.parquet" in str(error) and COLUMN in str(error), error
        return
    if kind in expected:
        (result,) = pq.read_table(accepted).column(COLUMN).to_pylist()
        assert result == expected[kind] and (not isinstance(result, date) or str(result.tzinfo) in ("None", "UTC"))
        return
    (row,) = pq.read_table(bad).to_pylist()
    (reason,) = json.loads(row["reasons"])
    assert reason["column"] == COLUMN and reason["rule"].startswith(("type: ", "encoding: ")), reason
