"""One number has one text, in files of every type and in a request."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import USES, Use
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.serving.loadtest_rows import rows_of
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop
from tests.support.order_files import order_table, write_orders

ROUTE = "ruta_id"  # a string without a domain
SIGNED = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
UNSIGNED = (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
FLOATS = (pa.float32(), pa.float64())
Checked = Callable[..., tuple[FileReport, list[Any]]]
DECIMALS = (pa.decimal128(5, 2), pa.decimal128(18, 0), pa.decimal128(38, 6), pa.decimal256(50, 4))


def stored(kind: pa.DataType, number: Decimal) -> pa.Array | None:
    """The number in a column of the type; None when the type cannot hold it."""
    if pa.types.is_floating(kind):
        value = pa.array([float(number)]).cast(kind)
        return value if number != number.to_integral_value() or int(value[0].as_py()) == int(number) else None
    try:
        return pa.array([number], pa.decimal256(60, 20)).cast(kind)
    except pa.ArrowInvalid:
        return None


def single(value: float) -> float:
    """The nearest float32."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with engine.connect(Settings.load(home=tmp_path_factory.mktemp("home"))) as connection:
        yield connection


@pytest.fixture(scope="module")
def checked(con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """Check a file with these values; returns the report and the accepted texts."""

    def run(values: pa.Array, use: Use = "score") -> tuple[FileReport, list[Any]]:
        folder = tmp_path_factory.mktemp("file")
        path = write_orders(folder / "file.parquet", order_table({ROUTE: values}, rows=len(values)))
        kept = folder / "accepted.parquet"
        bad = folder / "bad.parquet"
        report = check_file(
            make_strict(con), path, contract, use, as_of=None, accepted=kept, quarantined=bad, with_row_nr=True
        )
        return report, pq.read_table(kept).column(ROUTE).to_pylist()

    return run


def asked(contract: Contract, literals: Sequence[str]) -> list[Any]:
    """The values that the service reads from these numbers in a request."""
    order = {c.name: c.domain.levels[0] if c.domain else "R1" for c in contract.columns.values() if c.required.score}
    order |= {contract.entity: "C000001", contract.timestamp: "2024-08-24", ROUTE: 0}
    orders = [json.dumps(order).replace(f'"{ROUTE}": 0', f'"{ROUTE}": {text}') for text in literals]
    result = RequestReader(contract).read(f'{{"rows": [{", ".join(orders)}]}}'.encode())
    return result.columns[ROUTE]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("240", "240"),
        ("-7", "-7"),
        ("0", "0"),
        ("127", "127"),
        ("100", "100"),
        ("2.5", "2.5"),
        ("-0.5", "-0.5"),
        ("0.125", "0.125"),
        ("16777216", "16777216"),
        ("9007199254740992", "9007199254740992"),
        ("100000000000000000000", "100000000000000000000"),
        ("0.00000011920929", "0.00000011920929"),
    ],
)
def test_a_number_has_one_text_in_every_type_that_holds_it(
    checked: Checked, contract: Contract, value: str, text: str
) -> None:
    number = Decimal(value)
    columns = [c for k in (*SIGNED, *UNSIGNED, *FLOATS, *DECIMALS) if (c := stored(k, number)) is not None]
    assert len(columns) > 1
    for column in columns:
        assert checked(column)[1] == [text], column.type
    literals = [value, repr(float(number))] + ([f"{value}.00"] if "." not in value else [f"{value}0"])
    assert asked(contract, literals) == [text] * len(literals)


def test_the_same_numbers_in_files_and_requests(checked: Checked, contract: Contract) -> None:
    floats = st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-(2**53), 2**53).map(float),
        st.floats(-1e6, 1e6).map(lambda v: round(v, 2)),
        st.floats(-1e-3, 1e-3),
    )

    @settings(max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(floats, min_size=1, max_size=60))
    def compare(values: list[float]) -> None:
        _, result = checked(pa.array(values, pa.float64()))
        assert result == asked(contract, [repr(v) for v in values])
        for value, text in zip(values, result, strict=True):
            assert not set("eE+") & set(text) and (float(text) == value)
            assert text == "0" or (not text.startswith("-0.0") or value) and not text.endswith((".0", "."))
            if value.is_integer() and abs(value) < 2**127:
                assert text == str(int(value))
        singles = [single(v) for v in values if abs(v) < 1e38]
        assert [single(float(text)) for text in checked(pa.array(singles, pa.float32()))[1]] == singles
        exact = [v for v in values if abs(v) < 1e15 and v == round(v, 2)]
        if exact:
            _, doubles = checked(pa.array(exact, pa.float64()))
            cents = pa.array([Decimal(repr(v)) for v in exact]).cast(pa.decimal128(38, 2))
            assert checked(cents)[1] == doubles

    compare()


def test_zero_has_no_sign(checked: Checked, contract: Contract) -> None:
    assert checked(pa.array([-0.0, 0.0]))[1] == asked(contract, ["-0.0", "0"]) == ["0", "0"]


@pytest.mark.parametrize("use", USES)
def test_a_non_number_is_quarantined(checked: Checked, use: Use) -> None:
    report, result = checked(pa.array([math.nan, math.inf, 240.0, -math.inf, None]), use)
    assert report.reasons == {f"{ROUTE}: type: not a finite number": 3} and result == ["240", None]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "[1]", "{}"])
def test_a_non_number_is_refused_once(contract: Contract, value: str) -> None:
    with pytest.raises(RefusedError) as raised:
        asked(contract, [value])
    assert [(f.path, f.rule) for f in raised.value.faults] == [
        (f"rows[0].{ROUTE}", "Input should be a string, a finite number, true or false")
    ]


def test_a_boolean_is_not_a_number(checked: Checked, contract: Contract) -> None:
    result = checked(pa.array([True, False]))[1]
    assert result == ["TRUE", "FALSE"] == asked(contract, ["true", "false"])
    assert asked(contract, ["1", "true", "1.0", "0", "false"]) == ["1", "TRUE", "1", "0", "FALSE"]


def test_text_is_not_changed(checked: Checked, contract: Contract) -> None:
    assert checked(pa.array(["240.0", "0240"]))[1] == ["240.0", "0240"]
    assert asked(contract, ['"240.0"', '"0240"']) == ["240.0", "0240"]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.decimal128(10, 2), pa.int32()])
def test_a_demonstration_drop_has_the_texts_of_its_raw_files(
    contract: Contract, tmp_path: Path, kind: pa.DataType
) -> None:
    values = pa.array([Decimal(v) for v in (240, 241, 242, 243)]).cast(kind)
    write_orders(tmp_path / "raw" / "part.parquet", order_table({ROUTE: values}))
    created = make_drop(
        str(tmp_path / "raw"), order_table(rows=1)[contract.timestamp][0].as_py().date(), 4, 1,
        tmp_path / "drop.parquet", contract,
    )  # fmt: skip
    assert sorted(pq.read_table(created.path)[ROUTE].to_pylist()) == ["240", "241", "242", "243"]


@pytest.mark.parametrize("kind", [pa.int16(), pa.float64(), pa.decimal128(10, 2)])
def test_a_load_test_sends_the_text_of_a_files_number(contract: Contract, kind: pa.DataType) -> None:
    table = order_table({ROUTE: pa.array([Decimal(240), None]).cast(kind)}, rows=2)
    sent = json.loads(json.dumps(rows_of(contract, table, "drop.parquet").rows))
    assert [order[ROUTE] for order in sent] == ["240", None]
