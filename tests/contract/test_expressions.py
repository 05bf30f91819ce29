"""What an expression may hold: one row, and nothing that gives another value tomorrow or elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_ml.contract.expression_growth import MAX_GROWTH
from apex_ml.contract.expressions import FUNCTIONS, MAX_FAULTS, MAX_LENGTH, TYPES, parse_expression
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


def test_texts_are_replaced_split_and_padded() -> None:
    for expression in (
        "lpad(x, 1000, '0') || rpad(y, 10, ' ')",
        "lower(" * 20 + "x" + ")" * 20,
        "replace(" * 20 + "x" + ", '.', '')" * 20,
        "regexp_replace(" * 20 + "x" + r", '[^a-z]|\s', '', 'g')" * 20,
        "regexp_replace(" * 20 + "x" + r", '[^a-z]+', ' ', 'g')" * 20,
        "replace(replace(x, ' & ', ' and '), 'brand', brand)",
        "nullif(nullif(nullif(trim(x), ''), '-'), 'NA')",
        "string_split(string_split(string_split(x, '-')[1], '/')[2], ' ')[1]",
        "split_part(split_part(x, '-', 1), '/', 2)",
        "concat_ws(' / ', x, y, lpad(z, 5, '0'))",
        "interval + day + INTERVAL '1 day' + interval '2 months'",
        "CAST(x AS INTEGER[])[1] + x::decimal(9, 2)",
    ):
        assert parse_expression(expression).faults == (), expression


def test_faults_of_an_expression_are_bounded(tmp_path: Path) -> None:
    for expression in (
        " + ".join(f"fun{nr}(Name)" for nr in range(500)),
        " + ".join(f"unknown{nr}" for nr in range(500)),
    ):
        with pytest.raises(ConfigError) as error:
            contract_of(tmp_path, SOURCES | {"x": derived(expression)})
        lines = [line for line in str(error.value).splitlines() if "columns.x" in line]
        assert len(lines) == MAX_FAULTS
    assert parse_expression("(" * 100 + "x" + ")" * 100).faults == ()
    for opening, closing in (("(", ")"), ("upper(", ")"), ("[", "]")):
        (fault,) = parse_expression(opening * 101 + "x" + closing * 101).faults
        assert "nested more than 100 deep" in fault


def test_a_long_expression_is_refused_and_shown_in_part(tmp_path: Path) -> None:
    longest = "Name || '" + "a" * (MAX_LENGTH - 10) + "'"
    assert len(longest) == MAX_LENGTH and parse_expression(longest).faults == ()
    for expression, message in (
        (longest + " ", "the expression has 10,001 characters, at most 10,000 are allowed: write a shorter one"),
        (f"{longest[:-1000]}' || now()", "the function now is not allowed"),
        (f"{longest[:-1000]}' || Nmae", "the contract has no column Nmae"),
        ("z" * 9000 + "(Name)", "is not allowed"),
        ("z" * 9000, "the contract has no column zzz"),
        (f"Name::{'z' * 9000}", "the type zzz"),
        ('"' + "z" * 9000 + '"(Name)', "is not a function"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)) as error:
            contract_of(tmp_path, SOURCES | {"x": derived(expression)})
        assert all(len(line) < 800 for line in str(error.value).splitlines()), expression


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
        ("(SELECT max(year))", "the function max is not allowed"),
        ("(SELECT 1)", "SELECT is not allowed: an expression reads the columns of its own row, without subqueries"),
        ("exists (select 1)", "the function exists is not allowed: .*without subqueries"),
        ("day + interval 1 day", r"interval 1 day is not allowed: write to_days\(1\)"),
        ("day + INTERVAL '3' Months", r"INTERVAL '3' Months is not allowed: write to_months\(3\)"),
        ("day + interval (year) day", r"the function interval is not allowed: write to_days\(n\)"),
        ("length(repeat(Name, 100000000))", "the function repeat is not allowed: write concat"),
        ("format('{:>1000000000}', Name)", "the function format is not allowed: write concat"),
        ("printf('%1000000000d', year)", "the function printf is not allowed: write concat"),
        ("lpad(Name, 2000000000, 'x')", "lpad needs its length as one whole number of at most 1000"),
        ("lpad(Name, 1001, 'x')", "lpad needs its length"),
        ("rpad(Name, 500 + 501, 'x')", "rpad needs its length as one whole number"),
        ("RPAD(Name, year, 'x')", r"rpad needs its length .*write for example rpad\(text, 10, '0'\)"),
        ("TRY_CAST(Name AS INTEGER[100000])", r"a type with a number of items is not allowed: .*INTEGER\[\]"),
        ("Name::decimal(9, 2)[][3]", "a type with a number of items is not allowed"),
        (
            "replace(Name, 'a', lpad(Name, 9, 'a'))",
            "the replacement of replace must be one text in quotes or one column",
        ),
        ("concat_ws(concat(Name, Name), '', '', '')", "the separator of concat_ws must be one text"),
        ("replace(replace(Name, 'a', 'aaaaaaaaaaa'), 'a', 'aaaaaaaaaa')", "100 times as long .replace.: nest fewer"),
        ("regexp_replace(" * 7 + "Name" + ", 'a*', 'a', 'g')" * 7, "100 times as long .regexp_replace.: nest fewer"),
        ("CAST([" * 7 + "Name" + "] AS VARCHAR)" * 7, "100 times as long .a list.: nest fewer"),
        ("CAST((" * 7 + "Name" + ", 1) AS VARCHAR)" * 7, "100 times as long .a list.: nest fewer"),
        ("nullif(" * 7 + "Name" + ", '')" * 7, "100 times as long .nullif.: nest fewer"),
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
OPERATORS = {
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "||",
    "~~",
    "!~~",
    "~~*",
    "!~~*",
    "array_extract",
    "list_value",
    "contains",
    "row",
}


KNOWN = "SELECT 1 FROM duckdb_functions() WHERE function_name = ?"


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
        if function and function not in FUNCTIONS | OPERATORS:  # a keyword as a function, which DuckDB does not know
            assert not con.execute(KNOWN, [function]).fetchall(), (expression, function)


NESTED = st.recursive(
    st.sampled_from(["x", "'it''s'", "'aa'"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["''", "'a'", "'aa'", "x"]), st.sampled_from(["''", "'aaa'", "x"])).map(
            "replace({0[0]}, {0[1]}, {0[2]})".format
        ),
        st.tuples(
            inner, st.sampled_from(["", "a", "a*", ".*", "(.*)", "^", "[^b]", r"\b"]), st.sampled_from(["aa", r"\0\0"])
        ).map("regexp_replace({0[0]}, '{0[1]}', '{0[2]}', 'g')".format),
        st.tuples(st.sampled_from(["'--'", "x"]), inner).map("concat_ws({0[0]}, {0[1]}, '', '')".format),
        inner.map("concat_ws({}, '', '', '')".format),
        inner.map("nullif({}, 'b')".format),
        inner.map("split_part({}, 'b', 1)".format),
        inner.map("CAST([{}] AS VARCHAR)".format),
        inner.map("CAST(({}, 'a') AS VARCHAR)".format),
        inner.map("CAST(string_split({}, '') AS VARCHAR)".format),
        inner.map("CAST(regexp_extract({}, '(((.*)))', ['a', 'b', 'c']) AS VARCHAR)".format),
        inner.map("lpad({}, 20, 'a')".format),
        inner.map("upper({})".format),
    ),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(NESTED, st.lists(st.integers(0, 9), max_size=2))
def test_what_is_accepted_keeps_a_short_text_short(
    con: duckdb.DuckDBPyConnection, expression: str, repeats: list[int]
) -> None:
    for _ in repeats:  # the same functions once more around themselves
        if "(x," in expression:
            expression = expression.replace("(x,", f"({expression},", 1)
    if parse_expression(expression).faults:
        return
    rows = [["aaaaaaaa", "it's", "", "''", "a\\a"]]
    query = f"SELECT max(length({expression})) FROM (SELECT unnest(CAST(? AS VARCHAR[])) AS x)"
    ((longest,),) = con.execute(query, rows).fetchall()
    assert longest is None or longest <= MAX_GROWTH * 8 * len(expression), expression


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
