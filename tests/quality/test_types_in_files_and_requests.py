"""A value of a new type is the same, or the same fault, in a file and in a request."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apex_ml.contract.columns import Column
from apex_ml.contract.requests.values import ValueReader
from apex_ml.sql.casts import cast_sql

ZONES = (
    "Europe/Madrid",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Africa/Cairo",
)
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def column(**parts: Any) -> Column:
    return Column.model_validate({"name": "x", "description": "A thing.", "role": "attribute", **parts})


def in_file(con: duckdb.DuckDBPyConnection, of: Column, values: pa.Array) -> list[Any]:
    con.register("given", pa.table({"x": values}))
    sql = cast_sql(of, values.type, '"x"')
    assert sql is not None
    cast = con.sql(f"SELECT {sql} AS x FROM given").to_arrow_table().column("x")
    # in UTC, as Python takes no time of the hour that a clock shows twice for that of another zone
    result: list[Any] = cast.cast(pa.timestamp("us", "UTC") if of.timezone else of.arrow_type).to_pylist()
    return result


def in_request(of: Column, value: Any) -> Any:
    """The value; None where it has a fault."""
    reader = ValueReader(of)
    return reader.read(value).value if reader.takes(value) else None


@SETTINGS
@given(
    times=st.lists(st.datetimes(datetime(1975, 1, 1), datetime(2037, 12, 31)), min_size=1, max_size=30),
    zone=st.sampled_from(ZONES),
    nights=st.lists(st.tuples(st.integers(1975, 2037), st.integers(0, 365 * 48)), max_size=30),
)
def test_times_on_the_clock_of_a_zone(
    con: duckdb.DuckDBPyConnection, times: list[datetime], zone: str, nights: list[tuple[int, int]]
) -> None:
    every_half_hour = [datetime(year, 1, 1) + timedelta(minutes=30 * halves) for year, halves in nights]
    of, values = column(type="timestamp", timezone=zone), times + every_half_hour
    files = in_file(con, of, pa.array(values, pa.timestamp("us")))
    requests = [in_request(of, value.isoformat()) for value in values]
    assert files == requests


@pytest.mark.parametrize(
    ("normalise", "written", "rule", "remedy"),
    [
        (
            (),
            "2024-03-31T02:30:00",
            "type: not timestamp; the clock of Europe/Madrid skips this time (daylight saving)",
            "correct it, or write it with its offset from UTC",
        ),
        (
            (),
            "2024-03-31T01:30:00.0000001",
            "type: not timestamp without loss; it has nanoseconds",
            "write at most six digits of a second, or add microsecond_of_timestamp to its normalise in the contract",
        ),
        (
            ({"date_formats": ("%d/%m/%Y %H:%M%z",)},),
            "31/03/2024 02:30",
            "type: not timestamp",
            "write it as DD/MM/YYYY hh:mm+hh:mm, in quotes",
        ),
    ],
)
def test_a_request_names_why_a_time_is_none_and_the_remedy(
    normalise: tuple[Any, ...], written: str, rule: str, remedy: str
) -> None:
    reader = ValueReader(column(type="timestamp", timezone="Europe/Madrid", normalise=normalise))
    assert reader.read(written).error == rule and reader.remedy(rule, written) == remedy


OFFSETS = st.sampled_from(
    ("", "Z", "z", "+02:00", "-0730", "+14", "+15:59", "+16:00", "+02:60", "+2", " +02:00", "+02:00:30")
)
FRACTIONS = st.sampled_from(
    ("", ".5", ".123456", ".1234560", ".1234567", ".123456789", ".000000001", ".", ".1234567891")
)
OFFSET_FORMATS = ("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f")


@SETTINGS
@given(
    times=st.lists(
        st.tuples(st.datetimes(datetime(1975, 1, 1), datetime(2037, 12, 31)), FRACTIONS, OFFSETS),
        min_size=1,
        max_size=40,
    ),
    formats=st.lists(st.sampled_from(OFFSET_FORMATS), min_size=1, max_size=4, unique=True),
    zone=st.sampled_from(ZONES),
    cut=st.booleans(),
    kind=st.sampled_from(("timestamp", "date")),
)
def test_times_as_text_with_offsets_and_fractions(
    con: duckdb.DuckDBPyConnection,
    times: list[tuple[datetime, str, str]],
    formats: list[str],
    zone: str,
    cut: bool,
    kind: str,
) -> None:
    steps: tuple[Any, ...] = ({"date_formats": tuple(formats)},)
    steps += ("microsecond_of_timestamp",) if cut and kind == "timestamp" else ()
    of = column(type=kind, timezone=zone, normalise=steps)
    written = [f"{time:%Y-%m-%dT%H:%M:%S}{fraction}{offset}" for time, fraction, offset in times]
    con.register("given", pa.table({"x": pa.array(written, pa.string())}))
    sql = cast_sql(of, pa.string(), '"x"')
    values = con.sql(f"SELECT {sql} AS x FROM given").to_arrow_table().column("x")
    files = values.cast(pa.timestamp("us", "UTC") if kind == "timestamp" else pa.date32()).to_pylist()
    assert files == [in_request(of, text) for text in written]


@SETTINGS
@given(
    numbers=st.lists(
        st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12), max_size=30
    ),
    floats=st.lists(st.floats(-1e15, 1e15) | st.integers(-(10**9), 10**9).map(lambda n: n / 100), max_size=30),
    decimals=st.integers(0, 9),
)
def test_decimals_as_text_and_as_floats(
    con: duckdb.DuckDBPyConnection, numbers: list[Decimal], floats: list[float], decimals: int
) -> None:
    of = column(type="decimal", decimals=decimals)
    texts = [format(number, "f") for number in numbers] + ["", " 1", "1.", ".5", "+0", "-0.000", "1e2", "1_0", "½"]
    assert in_file(con, of, pa.array(texts, pa.string())) == [in_request(of, text) for text in texts]
    assert in_file(con, of, pa.array(floats, pa.float64())) == [in_request(of, number) for number in floats]


def test_every_half_hour_of_a_year_in_every_zone(con: duckdb.DuckDBPyConnection) -> None:
    """All half hours of a year, so that every change of the clock is among them."""
    values = [datetime(2024, 1, 1) + timedelta(minutes=30 * n) for n in range(366 * 48)]
    for zone in ZONES:
        of = column(type="timestamp", timezone=zone)
        reader = ValueReader(of)
        files = in_file(con, of, pa.array(values, pa.timestamp("us")))
        assert files == [reader.read(value.isoformat()).value for value in values], zone
