"""Derived columns: files and requests give the same values, bit for bit; what fails or clashes is named."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.derived_columns import request_reader
from apex_ml.adapters.duckdb.derived_types import derived_types, refuse_expressions
from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.duckdb.split_rows import HELD_ROWS
from apex_ml.contract.changes import compare_contracts
from apex_ml.contract.model import Contract
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.errors import ConfigError, DataError
from apex_ml.pipelines import load_pipeline
from apex_ml.services.held_back import hold_back
from apex_ml.settings import Settings
from apex_ml.sql.derived import OUTSIDE_YEARS
from apex_ml.sql.session import count_rows
from tests.quality.test_every_key import checked, contract_of

SOURCES = {
    "year": "{description: Y., type: int64, role: ignore, nullable: true}",
    "month": "{description: M., type: int64, role: ignore, nullable: true}",
    "share": "{description: S., type: double, role: attribute, nullable: true}",
    "name": "{description: N., type: string, role: attribute, nullable: true, normalise: [trim]}",
    "price": "{description: P., type: decimal, decimals: 2, role: attribute, nullable: true}",
    "at": "{description: A., type: timestamp, role: ignore, timezone: Europe/Madrid, nullable: true}",
}
ATTRIBUTE = "role: attribute, nullable: true"
DERIVED = {
    "first": f"{{description: D., type: date, {ATTRIBUTE}, derive: 'make_date(year, month, 1)'}}",
    "ratio": f"{{description: D., type: double, {ATTRIBUTE}, derive: 'share / nullif(month, 0)'}}",
    "curve": f"{{description: D., type: double, {ATTRIBUTE}, derive: 'exp(sin(share)) + ln(abs(share) + 1)'}}",
    "letter": f"{{description: D., type: string, {ATTRIBUTE}, derive: 'left(name, 1)', domain: {{levels: [a, b],"
    " closed: {train: true, score: false}}, checks: [{rule: pattern, regex: '[^A-Z]'}]}",
    "clean": f"{{description: D., type: string, {ATTRIBUTE}, normalise: [trim, upper], derive: "
    "\"regexp_replace(name, '[0-9]+', ' ')\"}",
    "big": f"{{description: D., type: boolean, {ATTRIBUTE}, derive: price > 10.5}}",
    "whole": f"{{description: D., type: int64, {ATTRIBUTE}, derive: year * 100 + month, "
    "checks: [{rule: range, min: 199500}, {rule: range, max: 202500, severity: warning}]}",
    "net": f"{{description: D., type: decimal, decimals: 2, {ATTRIBUTE}, derive: price + 0.05}}",
    "hour": f"{{description: D., type: int64, {ATTRIBUTE}, derive: hour(at)}}",
    "later": f"{{description: D., type: timestamp, timezone: Europe/Madrid, {ATTRIBUTE}, derive: at + to_hours(1)}}",
    "text": f"{{description: D., type: string, {ATTRIBUTE}, derive: share * 2}}",
}
ROWS = st.fixed_dictionaries(
    {
        "year": st.none() | st.integers(1990, 2030) | st.sampled_from([1, 9999, 10**8, 2**63 - 1, -(2**63)]),
        "month": st.none() | st.integers(-1, 14),
        "share": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1e308]),
        "name": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
        "price": st.none() | st.decimals(-1000, 1000, places=2),
        "at": st.none() | st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
    }
)
KINDS = {"year": pa.int64(), "month": pa.int64(), "share": pa.float64(), "name": pa.string()} | {
    "price": pa.decimal128(10, 2),
    "at": pa.timestamp("us", "UTC"),
}


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with engine.connect(Settings.load(home=tmp_path_factory.mktemp("home"))) as connection:
        yield connection


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return contract_of(tmp_path_factory.mktemp("contract"), SOURCES | DERIVED)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    n = len(rows)
    plain = {"client": [f"c{nr}" for nr in range(n)], "day": [date(2024, 3, 5)] * n, "kind": ["A"] * n}
    return pa.table(plain | {name: pa.array([row[name] for row in rows], kind) for name, kind in KINDS.items()})


def sent(nr: int, row: dict[str, Any]) -> dict[str, Any]:
    as_json = row | {"price": None if row["price"] is None else str(row["price"])}
    as_json["at"] = None if row["at"] is None else row["at"].isoformat()
    return {"client": f"c{nr}", "day": "2024-03-05"} | as_json


def bits(value: Any) -> Any:
    return struct.pack(">d", value) if isinstance(value, float) else value


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, min_size=1, max_size=6))
def test_a_file_and_a_request_give_the_same_values_and_faults(
    con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    _, from_file = checked(con, tmp_path, contract, "score", table_of(rows))
    reader = request_reader(contract)
    for nr, (row, result) in enumerate(zip(rows, from_file, strict=True)):
        body = json.dumps({"rows": [sent(nr, row)]}).encode()
        if isinstance(result, dict):
            read = reader.read(body)
            for name in DERIVED:
                assert bits(read.columns[name][0]) == bits(result[name]), (name, row)
            warned = {re.sub(r" [(]found .*", "", text) for text in read.warnings.get(0, ())}
            assert warned == set(checked(con, tmp_path, contract, "score", table_of([row]))[0].warnings)
        else:
            with pytest.raises(RefusedError) as error:
                reader.read(body)
            assert {f"{f.path.removeprefix('rows[0].')}: {f.rule}" for f in error.value.faults} == set(result)


def test_rows_of_one_request_are_those_of_single_requests(contract: Contract) -> None:
    row = {"year": 2024, "month": 2, "share": 0.5, "name": "a1b", "price": None, "at": None}
    rows = [sent(nr, row | {"month": month}) for nr, month in enumerate([1, 2, 1, None, 3])]
    reader = request_reader(contract)
    together = reader.read(json.dumps({"rows": rows}).encode()).columns
    for nr, one in enumerate(rows):
        alone = request_reader(contract).read(json.dumps({"rows": [one]}).encode()).columns
        assert {name: values[nr] for name, values in together.items()} == {n: v[0] for n, v in alone.items()}
    assert together["first"] == [date(2024, 1, 1), date(2024, 2, 1), date(2024, 1, 1), None, date(2024, 3, 1)]


def test_there_is_one_zero(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    columns = SOURCES | {"angle": f"{{description: D., type: double, {ATTRIBUTE}, derive: 'atan2(share, -1)'}}"}
    contract = contract_of(tmp_path, columns)
    row = {"year": None, "month": None, "name": None, "price": None, "at": None}
    rows = [row | {"share": share} for share in (0.0, -0.0)]
    body = json.dumps({"rows": [sent(nr, row) for nr, row in enumerate(rows)]}).encode()
    assert request_reader(contract).read(body).columns["angle"] == [math.pi, math.pi]
    _, from_file = checked(con, tmp_path, contract, "score", table_of(rows))
    assert [row["angle"] for row in from_file if isinstance(row, dict)] == [math.pi, math.pi]


@pytest.mark.parametrize("zone", ["UTC", "America/Lima", "Asia/Tokyo"])
def test_the_time_zone_of_a_session_does_not_matter(
    con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path, zone: str
) -> None:
    row = {"year": 2024, "month": 2, "share": 0.5, "name": "a", "price": None}
    table = table_of([row | {"at": datetime(2024, 7, 1, 22, 30, tzinfo=UTC)}])
    con.execute(f"SET TimeZone = '{zone}'")
    try:
        _, (result,) = checked(con, tmp_path, contract, "score", table)
    finally:
        con.execute("SET TimeZone = 'UTC'")
    assert (
        isinstance(result, dict) and result["hour"] == 0 and result["later"] == datetime(2024, 7, 1, 23, 30, tzinfo=UTC)
    )


def test_a_row_on_which_an_expression_fails(con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path) -> None:
    row = {"year": 2024, "month": 2, "share": 0.5, "name": "a", "price": None, "at": None}
    rows = [row, row | {"month": 13}, row | {"month": None}]
    report, (good, failed, null) = checked(con, tmp_path, contract, "train", table_of(rows))
    rule = "derive: make_date(year, month, 1) fails on these values; correct them, or let the expression allow for them"
    assert failed == [f"first: {rule}"] and report.reasons == {f"first: {rule}": 1}
    assert report.examples == {f"first: {rule}": ("2024 / 13", "Date out of range: 2024-13-1")}
    assert good["first"] == date(2024, 2, 1) and null["first"] is None  # type: ignore[call-overload]
    (bad,) = pq.read_table(tmp_path / "bad.parquet").to_pylist()
    assert json.loads(bad["reasons"])[0]["value"] == "2024 / 13"
    assert json.loads(bad["row"])["whole"] == 202413 and json.loads(bad["row"])["first"] is None
    with pytest.raises(RefusedError) as error:
        request_reader(contract).read(json.dumps({"rows": [sent(0, rows[1]), {"client": 5.5}]}).encode())
    fault = next(f for f in error.value.faults if f.path == "rows[0].first")
    assert (fault.rule, fault.value) == (rule, "2024 / 13") and "year, month" in fault.remedy


def test_a_null_that_follows_from_nulls_breaks_not_null(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    own = SOURCES | {"first": DERIVED["first"].replace(", nullable: true", "")}
    row = {"year": 2024, "month": None, "share": 0.5, "name": "a", "price": None, "at": None}
    _, (reasons,) = checked(con, tmp_path, contract_of(tmp_path, own), "train", table_of([row]))
    assert reasons == ["first: not_null"]


@pytest.mark.parametrize("name", ["first", "First", "fir_st"])
def test_a_file_that_holds_the_column_is_refused(
    con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path, name: str
) -> None:
    row = {"year": 2024, "month": 2, "share": 0.5, "name": "a", "price": None, "at": None}
    table = table_of([row]).append_column(name, pa.array([date(2024, 2, 1)]))
    message = r"first is derived by make_date\(year, month, 1\) and is in the file.*Remove the column"
    with pytest.raises(DataError, match=message):
        checked(con, tmp_path, contract, "train", table)


def test_a_request_that_holds_the_column_is_refused(contract: Contract) -> None:
    with pytest.raises(RefusedError, match=r"computed from year, month: make_date\(year, month, 1\)"):
        row = {"year": 2024, "month": 2, "share": 0.5, "name": "a", "price": None, "at": None, "first": "2024-02-01"}
        request_reader(contract).read(json.dumps({"rows": [sent(0, row)]}).encode())


@pytest.mark.parametrize("column", ["first", "later", "clock"])
def test_a_computed_year_that_python_does_not_have(con: duckdb.DuckDBPyConnection, tmp_path: Path, column: str) -> None:
    """It is quarantined in a file as it is refused in a request, and breaks no other rule."""
    own = {
        "first": f"{{description: D., type: date, {ATTRIBUTE}, derive: 'make_date(year, month, 1)',"
        " checks: [{rule: range, min: 1990-01-01, max: 2100-01-01}]}",
        "later": f"{{description: D., type: timestamp, timezone: Europe/Madrid, {ATTRIBUTE},"
        " derive: 'at + to_years(year::int)'}",
        "clock": f"{{description: D., type: timestamp, {ATTRIBUTE}, derive: 'at + to_years(year::int)'}}",
    }
    contract = contract_of(tmp_path, SOURCES | {column: own[column]})
    row = {"month": 2, "share": 0.5, "name": "a", "price": None, "at": datetime(2024, 7, 1, tzinfo=UTC)}
    rows = [row | {"year": year} for year in (-3000, 12_000, 1 if column != "first" else 2024)]
    _, results = checked(con, tmp_path, contract, "score", table_of(rows))
    assert results[:2] == [[f"{column}: {OUTSIDE_YEARS}"]] * 2 and isinstance(results[2], dict)
    for nr in range(2):
        assert faults_of(contract, nr, rows[nr]) == [(f"rows[0].{column}", OUTSIDE_YEARS)]


def faults_of(contract: Contract, nr: int, row: dict[str, Any]) -> list[tuple[str, str]]:
    """Paths and rules of the faults of a request with one row."""
    with pytest.raises(RefusedError) as error:
        request_reader(contract).read(json.dumps({"rows": [sent(nr, row)]}).encode())
    return [(fault.path, fault.rule) for fault in error.value.faults]


@pytest.mark.parametrize("kind", ["double", "string", "int64", "decimal, decimals: 2"])
@pytest.mark.parametrize("nullable", ["true", "false"])
def test_a_division_by_zero_names_the_expression_and_nullif(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, kind: str, nullable: str
) -> None:
    column = f"{{description: D., type: {kind}, role: attribute, nullable: {nullable}, derive: 'share / month'}}"
    contract = contract_of(tmp_path, SOURCES | {"x": column})
    row = {"year": None, "name": "a", "price": None, "at": None}
    rows = [row | {"share": share, "month": month} for share, month in ((1.0, 0), (0.0, 0), (2.0, 1))]
    report, results = checked(con, tmp_path, contract, "train", table_of(rows))
    rule = "derive: share / month gives no finite number; where it divides, write nullif(divisor, 0), which gives null"
    assert results[:2] == [[f"x: {rule}"]] * 2 and isinstance(results[2], dict)
    assert report.examples[f"x: {rule}"][0] == "1.0 / 0"
    for nr in range(2):
        assert faults_of(contract, nr, rows[nr]) == [("rows[0].x", rule)]


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("regexp_matches(name, '(')", "'(' fails in every row: missing )"),
        ("CASE WHEN year > 1 THEN regexp_extract(name, 'a[', 1) END", "'a[' fails in every row: missing ]"),
        ("regexp_replace(name, '(a)', '\\2')", "'(a)', '\\2' fails in every row: Invalid replacement string"),
        ("regexp_replace(name, '*', 'x')", "'*' fails in every row: no argument for repetition"),
        ("date_diff('yeer', at, at)", "'yeer' fails in every row: extract specifier"),
        ("date_diff('day', date '2024-13-01', at::date)", "date '2024-13-01' fails in every row: date field value"),
        ("strftime(at, '%Q')", "Failed to parse format specifier %Q"),
        ("date_part('yeer', at)", 'extract specifier "yeer" not recognized'),
    ],
)
def test_what_fails_in_every_row_is_refused_with_the_file(tmp_path: Path, expression: str, part: str) -> None:
    column = f"{{description: D., type: string, {ATTRIBUTE}, derive: {json.dumps(expression)}}}"
    faulty = contract_of(tmp_path, SOURCES | {"x": column})
    with pytest.raises(ConfigError, match=re.escape(part)) as error:
        refuse_expressions(tmp_path / "contract.yaml", faulty)
    assert "columns.x.derive: " in str(error.value)


@pytest.mark.parametrize(
    "expression",
    [
        "regexp_matches(name, name)::varchar",
        "regexp_replace(name, '(a)(b)', '\\2\\1', 'g')",
        "regexp_extract(name, '(a)(b)', ['x', 'y'])['x']",
        "regexp_matches(name, '^a', 'i')::varchar",
        "date_diff('day', date '2024-02-29', at::date)",
    ],
)
def test_what_works_in_some_row_is_not_refused(tmp_path: Path, expression: str) -> None:
    column = f"{{description: D., type: string, {ATTRIBUTE}, derive: {json.dumps(expression)}}}"
    derived_types(contract_of(tmp_path, SOURCES | {"x": column}))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("type: date, derive: year + 1", "it gives int64, and the column is date: write a cast"),
        ("type: date, derive: name || '-01'", "it gives string, and the column is date: add date_formats"),
        ("type: string, derive: 'make_date(name, year)'", "DuckDB cannot read the expression: No function matches"),
        ("type: string, derive: name name", "DuckDB cannot read the expression"),
        ("type: string, derive: year +", "DuckDB cannot read the expression"),
        ("type: string, derive: 'string_split(name, name)'", "and the column is string"),
    ],
)
def test_an_expression_that_duckdb_cannot_read_is_refused_with_its_line(
    tmp_path: Path, column: str, message: str
) -> None:
    faulty = contract_of(tmp_path, SOURCES | {"x": f"{{description: D., {ATTRIBUTE}, {column}}}"})
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        refuse_expressions(tmp_path / "contract.yaml", faulty)
    lines = (tmp_path / "contract.yaml").read_text().splitlines()
    assert f"contract.yaml:{1 + next(n for n, t in enumerate(lines) if ' x:' in t)}: columns.x.derive: " in str(
        error.value
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        derived_types(faulty)
    folder = tmp_path / "pipelines" / "shop"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_bytes((tmp_path / "contract.yaml").read_bytes())
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_pipeline(Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines", pipeline="shop"))


def test_another_expression_needs_another_training(tmp_path: Path) -> None:
    features = {"features": "{grain: every_row, attributes: [first, share]}"}
    before = contract_of(tmp_path, SOURCES | DERIVED, **features)
    same = contract_of(tmp_path, SOURCES | DERIVED | {"big": DERIVED["big"].replace("10.5", "11")}, **features)
    change = compare_contracts(before.identity(), same)
    assert change.kind == "additive" and change.differences == (
        "the column big is derived by price > 11 and was derived by price > 10.5",
    )
    edits: dict[str, tuple[dict[str, str], str]] = {
        "expression": ({"first": DERIVED["first"].replace(", 1)", ", 2)")}, "first is derived by make_date"),
        "in the file": ({"first": f"{{description: D., type: date, {ATTRIBUTE}}}"}, "is a column of the file and was"),
        "source": (
            {"month": SOURCES["month"].replace("int64", "double")},
            "derived from month, which is of type double",
        ),
    }
    for edit, text in edits.values():
        now = contract_of(tmp_path, SOURCES | DERIVED | edit, **features)
        assert now.digest() != before.digest() and now.features_digest() != before.features_digest()
        change = compare_contracts(before.identity(), now)
        assert change.kind == "retrain"
        assert [lost.feature for lost in change.lost] == ["first"] and text in change.lost[0].reason


def test_rows_that_are_held_back_are_a_drop_again(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    columns = SOURCES | {"day": "{description: D., type: date, role: timestamp, derive: 'make_date(year, month, 5)'}"}
    contract = contract_of(tmp_path, columns)
    row = {"year": 2024, "share": 0.5, "name": "a", "price": None, "at": None}
    table = table_of([row | {"month": month} for month in (1, 2, 3)]).drop_columns(["day"])
    checked(con, tmp_path, contract, "train", table)
    accepted = tmp_path / "rows"
    accepted.mkdir()
    (tmp_path / "accepted.parquet").rename(accepted / "a.parquet")
    held = tmp_path / "held"
    held.mkdir()
    assert hold_back(con, contract, accepted, date(2024, 3, 5), held) == 1
    (file,) = held.iterdir()
    drop = pq.read_table(file)
    assert set(drop.column_names) == {"client", "year", "month", "share", "name", "price"}
    report, (scored,) = checked(con, tmp_path, contract, "score", drop.append_column("at", pa.nulls(1)))
    assert isinstance(scored, dict) and scored["day"] == date(2024, 3, 5) and report.quarantined == 0
    assert con.execute(count_rows(f"read_parquet('{accepted}/*')")).fetchall() == [(2,)]


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("damaged", [True, False], ids=["with a value that cannot be decoded", "readable"])
def test_a_large_file_is_split_as_a_small_one(
    con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path, copy: bool, damaged: bool
) -> None:
    rows = HELD_ROWS + 10
    month = [13 if nr % 1000 == 7 else 1 + nr % 12 for nr in range(rows)]
    table = table_of([{"year": 2024, "month": 1, "share": 0.5, "name": "a1b", "price": None, "at": None}])
    table = pa.concat_tables([table] * rows).combine_chunks()
    table = table.set_column(table.schema.get_field_index("month"), "month", pa.array(month))
    if damaged:
        names = pa.array([b"\xff" if nr == 3 else b"a1b" for nr in range(rows)], pa.binary()).view(pa.string())
        table = table.set_column(table.schema.get_field_index("name"), "name", names)
    path, accepted, bad = (tmp_path / f"{name}.parquet" for name in ("file", "accepted", "bad"))
    pq.write_table(table, path)
    out = {"accepted": accepted, "quarantined": bad}
    report = check_file(make_strict(con), path, contract, "score", as_of=None, copy=copy, with_row_nr=True, **out)
    failed = [nr for nr in range(rows) if month[nr] == 13] + [3] * damaged
    assert pq.read_table(bad).column("row_nr").to_pylist() == sorted(failed)
    result = con.sql(report.query).to_arrow_table().to_pydict()
    assert len(result["row_nr"]) == rows - len(failed)
    assert result["first"] == [date(2024, month[nr], 1) for nr in result["row_nr"]]
    assert set(result["clean"]) == {"A B"} and set(result["whole"]) == {202400 + month for month in range(1, 13)}


NUMBER = st.recursive(
    st.sampled_from(["year", "month", "share", "price", "2", "0.5", "length(name)", "hour(at)", "null"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(" ".join).map("({})".format),
        st.tuples(st.sampled_from(["abs", "round", "sqrt", "sin", "exp", "ln", "floor"]), inner).map(
            "{0[0]}({0[1]})".format
        ),
        st.tuples(inner, inner).map("coalesce({0[0]}, {0[1]})".format),
        st.tuples(inner, inner, inner).map("CASE WHEN {0[0]} > {0[1]} THEN {0[1]} ELSE {0[2]} END".format),
        inner.map("CAST({} AS BIGINT)".format),
        inner.map("TRY_CAST({} AS DOUBLE)".format),
    ),
    max_leaves=5,
)
TEXT = st.one_of(
    NUMBER.map("CAST({} AS VARCHAR)".format),
    NUMBER.map("concat(name, '-', {})".format),
    NUMBER.map("strftime(at + to_days(CAST({} AS INTEGER)), '%Y %B %d')".format),
    st.just("upper(trim(regexp_replace(name, '[^a-z]', '', 'g')))"),
    st.just("string_split(name, ' ')[1]"),
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    NUMBER.map(lambda text: ("double", text)) | TEXT.map(lambda text: ("string", text)),
    st.lists(ROWS, min_size=3, max_size=5),
)
def test_any_expression_gives_a_file_and_a_request_the_same(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, expression: tuple[str, str], rows: list[dict[str, Any]]
) -> None:
    kind, text = expression
    written = f"{{description: D., type: {kind}, {ATTRIBUTE}, derive: {json.dumps(text)}}}"
    try:
        contract = contract_of(tmp_path, SOURCES | {"x": written})
        derived_types(contract)
    except ConfigError as error:
        assert (
            "names no column" in str(error) or "DuckDB cannot read" in str(error) or "null in every row" in str(error)
        )
        return
    _, from_file = checked(con, tmp_path, contract, "score", table_of(rows))
    reader = request_reader(contract)
    for nr, (row, result) in enumerate(zip(rows, from_file, strict=True)):
        body = json.dumps({"rows": [sent(nr, row)]}).encode()
        if isinstance(result, dict):
            assert bits(reader.read(body).columns["x"][0]) == bits(result["x"]), (text, row)
        else:
            with pytest.raises(RefusedError) as error_of_request:
                reader.read(body)
            assert {f"{f.path.removeprefix('rows[0].')}: {f.rule}" for f in error_of_request.value.faults} == set(
                result
            )
