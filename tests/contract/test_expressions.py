"""What an expression may hold: one row, and nothing that gives another value tomorrow or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_ml.contract.expressions import FUNCTIONS, TYPES, parse_expression
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.errors import ConfigError
from tests.quality.test_every_key import contract_of

SOURCES = {
    "year": "{description: Y., type: int64, role: ignore}",
    "Name": "{description: N., type: string, role: attribute, nullable: true}",
    "paid": "{description: P., type: double, decimals: 2, role: measure, nullable: true}",
}


def derived(expression: str, kind: str = "string", role: str = "attribute") -> str:
    return f"{{description: D., type: {kind}, role: {role}, nullable: true, derive: {json.dumps(expression)}}}"


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("make_date(year, month, day)", ("year", "month", "day")),
        ("CAST(date AS DATE)", ("date",)),
        ("date '2020-01-01'", ()),
        ("date::date - date '2020-01-01'", ("date",)),
        ("lower(\"Ship City\") || ' ' || x", ("Ship City", "x")),
        ("CASE WHEN a IS NOT DISTINCT FROM b THEN 1 ELSE 2 END", ("a", "b")),
        ("'now() -- not a comment'", ()),
        ("x IN (1, 2) AND NOT (y BETWEEN 1 AND 2)", ("x", "y")),
        ("string_split(x, '-')[1]", ("x",)),
        ("CAST(x AS DECIMAL(10, 2)) % 3", ("x",)),
    ],
)
def test_columns_of_an_expression(expression: str, names: tuple[str, ...]) -> None:
    parsed = parse_expression(expression)
    assert parsed.faults == () and parsed.names == names
    again = parse_expression(parsed.text)
    assert again.names == names and again.text == parsed.text


def test_white_space_does_not_count(tmp_path: Path) -> None:
    one = contract_of(tmp_path, SOURCES | {"x": derived("concat( Name,\n   'a  b')")})
    other = contract_of(tmp_path, SOURCES | {"x": derived("concat( Name, 'a  b')")})
    assert one.digest() == other.digest() and one.columns["x"].derive == "concat( Name, 'a  b')"
    assert one.digest() != contract_of(tmp_path, SOURCES | {"x": derived("concat(Name, 'a b')")}).digest()


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("now()", "the function now is not allowed: it gives another value each time"),
        ("current_date", "current_date is not allowed: it gives another value each time"),
        ("random() < 0.5", "the function random is not allowed: it gives another value"),
        ("nextval('s')", "the function nextval is not allowed"),
        ("getenv('HOME')", "the function getenv is not allowed"),
        ("count(Name)", "the function count is not allowed"),
        ("sum(year) OVER ()", "the function OVER is not allowed"),
        ("(SELECT max(year))", "the contract has no column SELECT|the function max is not allowed"),
        ("(FROM t)", "FROM is not allowed"),
        ("read_text('f')", "the function read_text is not allowed"),
        ("uper(Name)", "the function uper is not allowed; did you mean upper?"),
        ("extract(year FROM x)", "write date_part"),
        ("CAST(Name AS TIMESTAMPTZ)", "the type TIMESTAMPTZ is not allowed: give the column"),
        ("Name; DROP TABLE t", "';' is not part of an expression"),
        ("Name -- a", "'--' is not part of an expression"),
        ("upper(Name", r"\) is missing"),
        ("upper(Name)), (Name", r"\) closes nothing"),
        ("*", "does not stand for all columns"),
        ("coalesce(*)", "does not stand for all columns"),
        ("Name, Name", "a comma outside parentheses"),
        ("", "the expression is empty"),
        ("1", "it names no column"),
        ("upper(Nmae)", "the contract has no column Nmae; did you mean Name?"),
        ("upper(x)", "it reads itself"),
        ("upper(y)", "it reads y, which is derived too"),
        ("round(paid)", "it reads the measure paid, which is not known when a row is scored"),
        ("upper(kind)", "it reads the target kind"),
    ],
)
def test_refused_expressions(tmp_path: Path, expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        contract_of(tmp_path, SOURCES | {"x": derived(expression), "y": derived("lower(Name)")})
    line = next(n for n, text in enumerate((tmp_path / "contract.yaml").read_text().splitlines(), 1) if " x:" in text)
    assert f"contract.yaml:{line}: columns.x" in str(error.value)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("{description: D., type: string, role: ignore, derive: lower(Name)}", "nothing would use a derived column"),
        ("{description: D., type: string, role: attribute, required: true, derive: lower(Name)}", "remove required"),
    ],
)
def test_keys_that_make_no_sense_for_a_derived_column(tmp_path: Path, column: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract_of(tmp_path, SOURCES | {"x": column})


def test_a_measure_or_the_target_may_read_what_is_known_later(tmp_path: Path) -> None:
    target = (
        "{description: T., type: string, role: target, nullable: {train: false, score: true}, derive:"
        " \"CASE WHEN paid > 5 THEN 'A' ELSE 'B' END\", domain: {levels: [A, B], closed: {train: true, score: false}}}"
    )
    contract = contract_of(tmp_path, SOURCES | {"kind": target})
    assert contract.sources("target") == ("paid",) and contract.columns_of_drop() == ("client", "day", "Name")


def test_a_column_that_only_an_expression_reads_is_read(tmp_path: Path) -> None:
    both = SOURCES | {"other": "{description: O., role: ignore}", "x": derived("YEAR + 1", "int64")}
    contract = contract_of(tmp_path, both)
    assert contract.ignored == ("other",) and "year" in contract.columns and contract.sources("attribute") == ("year",)
    without_type = "{description: Y., role: ignore}"
    with pytest.raises(ConfigError, match=r"columns\.year\.type"):
        contract_of(tmp_path, both | {"year": without_type})
    assert load_contract(Path("pipelines/orders/pipeline.yaml")).derived == {}


# the grammar here against that of DuckDB

GOOD = """
    year "Name" 1 2.5 'text' null true ( ) [ ] , + - * / // % = <> < || :: AND OR NOT IN IS LIKE BETWEEN CASE WHEN THEN
    ELSE END CAST( AS DISTINCT upper( make_date( coalesce( if( bigint date interval
"""
BAD = (
    "FROM count( now() random() SELECT t OVER ORDER BY -> : . ; -- $1 ? current_date EXISTS ANY( VALUES COLUMNS( ESCAPE"
)
VALUES = [
    "year",
    '"Name"',
    "1",
    "'a'",
    "upper( year )",
    "coalesce( year , 1 )",
    "( year + 1 )",
    "CAST( year AS bigint )",
]
BETWEEN = [
    *("+", "-", "*", "||", "=", "<>", "AND", "OR", "LIKE", "IS DISTINCT FROM", "IN (", ")", ","),
    "::",
    "IS NULL",
    "[",
]
VALUE = st.sampled_from(VALUES) | st.sampled_from(GOOD.split())
OPERATOR = st.sampled_from(BETWEEN) | st.sampled_from(f"{GOOD} {BAD}".split())
EXPRESSIONS = st.lists(st.tuples(VALUE, OPERATOR).map(" ".join), max_size=5).flatmap(
    lambda parts: VALUE.map(lambda last: " ".join([*parts, last]))
)
ALLOWED = {
    "CONSTANT",
    "COLUMN_REF",
    "FUNCTION",
    "COMPARISON",
    "CONJUNCTION",
    "OPERATOR",
    "CASE",
    "CAST",
    "BETWEEN",
    "TYPE",
}
OPERATORS = {"+", "-", "*", "/", "//", "%", "||", "~~", "!~~", "~~*", "!~~*", "array_extract", "list_value", "contains"}


def classes(node: Any) -> Iterator[tuple[str, str]]:
    """The classes of all nodes of an expression, with the names of functions."""
    if isinstance(node, dict):
        if "class" in node:
            yield node["class"], str(node.get("function_name", ""))
        for value in node.values():
            yield from classes(value)
    elif isinstance(node, list):
        for value in node:
            yield from classes(value)


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@settings(max_examples=3000, deadline=None)
@given(EXPRESSIONS)
def test_what_is_accepted_is_one_value_of_one_row_for_duckdb_too(
    con: duckdb.DuckDBPyConnection, expression: str
) -> None:
    parsed = parse_expression(expression)
    if parsed.faults:
        return
    names = dict.fromkeys(parsed.names, '"in"')
    text = f"SELECT TRY([{parsed.sql(names)}]) AS x FROM rows"
    ((tree,),) = con.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
    read = json.loads(tree)
    if read["error"]:
        return  # DuckDB refuses it
    (statement,) = read["statements"]
    (value,) = statement["node"]["select_list"]
    (listed,) = value["children"]
    assert listed["function_name"] == "list_value" and len(listed["arguments"]) == 1
    for kind, function in classes(listed["arguments"]):
        assert kind in ALLOWED, (expression, kind)
        assert not function or function in FUNCTIONS | OPERATORS, (expression, function)


def test_functions_depend_on_their_arguments_alone(con: duckdb.DuckDBPyConnection) -> None:
    query = (
        "SELECT function_type, stability, parameter_types FROM duckdb_functions()"
        " WHERE function_name = ? AND schema_name = 'main'"
    )
    macros = {"nullif", "if", "split_part"}
    for name in FUNCTIONS - {"coalesce", "ifnull"}:  # parts of the grammar
        variants = con.execute(query, [name]).fetchall()
        assert variants, name
        for kind, stability, arguments in variants:
            if kind == "macro" and name in macros:
                continue
            if kind == "table":
                continue  # not in an expression
            # what depends on a session is the calendar of an instant, and no expression has an instant
            of_instants = any(
                argument.startswith(("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")) for argument in arguments
            )
            assert kind == "scalar" and (stability == "CONSISTENT" or of_instants), (name, kind, stability)


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_types_are_duckdbs(con: duckdb.DuckDBPyConnection, kind: str) -> None:
    con.execute(f"SELECT CAST(NULL AS {kind})")
