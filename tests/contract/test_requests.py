"""A value in a request is read, normalised and refused as the same value in a drop is."""

from __future__ import annotations

import json
from datetime import date
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
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.contract.model import Contract
from apex_ml.contract.normalisation import upper
from apex_ml.contract.requests.faults import MAX_FAULTS, RefusedError
from apex_ml.contract.requests.model import MAX_ROWS
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.settings import Settings

ALPHABET = "abcLMIVé ñß\u00a0\tıſ1.0-/ESTRELASestrelas"


@pytest.fixture(scope="module")
def reader(contract: Contract) -> RequestReader:
    return RequestReader(contract)


@pytest.fixture(scope="module")
def order(contract: Contract) -> dict[str, Any]:
    """An order that nothing is wrong with."""
    created: dict[str, Any] = {}
    for column in contract.columns.values():
        if column.required.score:
            created[column.name] = column.domain.levels[0] if column.domain else "R1"
    return created | {contract.entity: "C000001", contract.timestamp: "2024-08-24"}


def body(*orders: Any) -> bytes:
    return json.dumps({"rows": orders}).encode()


def refused(reader: RequestReader, content: bytes) -> RefusedError:
    with pytest.raises(RefusedError) as raised:
        reader.read(content)
    return raised.value


def strings(contract: Contract) -> st.SearchStrategy[dict[str, Any]]:
    """Values for the string columns: levels in odd dress, and anything."""
    fields: dict[str, Any] = {}
    for column in contract.columns.values():
        if column.type != "string" or not column.required.score:
            continue
        levels = column.domain.levels if column.domain else ("C000001", "c1234567", "R1")
        dressed = st.builds(
            lambda before, level, after, low: before + (level.lower() if low else level) + after,
            st.text(" \t\u00a0", max_size=2),
            st.sampled_from(levels),
            st.sampled_from(["", " ", "\u00a0\n", " ESTRELLAS", " estrella", ".0", " estrella.0 "]),
            st.booleans(),
        )
        fields[column.name] = st.one_of(st.none(), dressed, st.text(ALPHABET, max_size=8))
    dates = ["2024-08-24", "24/08/2024", " 2024-8-4", "2024-08-24 10:11:12", "1999-01-01", "2024-13-01", "x", "", None]
    return st.fixed_dictionaries(fields | {contract.timestamp: st.sampled_from(dates)})


def test_a_request_is_read_as_a_drop_is(
    reader: RequestReader, contract: Contract, tmp_path: Path, tmp_path_factory: Any
) -> None:
    home = Settings.load(home=tmp_path)

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(strings(contract), min_size=1, max_size=25))
    def compare(orders: list[dict[str, Any]]) -> None:
        folder = tmp_path_factory.mktemp("drop")
        file = folder / "drop.parquet"
        pq.write_table(pa.table({n: pa.array([o[n] for o in orders], pa.string()) for n in orders[0]}), file)
        kept = folder / "accepted.parquet"
        with engine.connect(home) as con:
            report = check_file(
                make_strict(con), file, contract, "score", as_of=None, accepted=kept,
                quarantined=folder / "bad.parquet", with_row_nr=True,
            )  # fmt: skip
        accepted = {row.pop("row_nr"): row for row in pq.read_table(kept).to_pylist()}
        for place, order in enumerate(orders):
            try:
                result = reader.read(body(order))
            except RefusedError:
                assert place not in accepted, order
            else:
                assert {n: v[0] for n, v in result.columns.items()} == accepted[place], order
        assert report.rows == len(orders)

    compare()


def test_every_fault_is_reported_with_its_path(
    reader: RequestReader, order: dict[str, Any], contract: Contract
) -> None:
    attribute, measure = contract.features.attributes[0], contract.named("measure")[0]
    bad = order | {contract.entity: "nobody", attribute: [3], measure: -1, "extra": 1, contract.timestamp: "2014-01-01"}
    lacking = {k: v for k, v in order.items() if k != attribute}
    messages = refused(reader, body(order, bad, lacking, 7))
    rules = {fault.path: fault.rule for fault in messages.faults}
    assert set(rules) == {
        *(f"rows[1].{n}" for n in (contract.entity, attribute, measure, "extra", contract.timestamp)),
        f"rows[2].{attribute}",
        "rows[3]",
    }
    assert rules[f"rows[1].{contract.entity}"].startswith("pattern: ")
    assert rules[f"rows[1].{contract.timestamp}"].startswith("range: ")
    assert rules["rows[1].extra"].startswith("unknown key; the keys are ")
    assert "null where nothing is known" in rules[f"rows[2].{attribute}"]
    assert {f.value for f in messages.faults} >= {"'nobody'", "[3]", "-1", "7"}
    assert messages.total == len(messages.faults) == 7


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (b"", "body"),
        (b"[", "body"),
        (b"\xff\xfe", "body"),
        (b"[]", "body"),
        (b'{"rows": 3}', "rows"),
        (b'{"rows": []}', "rows"),
        (b"{}", "rows"),
        (b'{"rows": [], "more": 1}', "rows"),
        (b"[" * 100_000, "body"),
    ],
)
def test_an_invalid_request_is_refused(reader: RequestReader, content: bytes, path: str) -> None:
    assert path in [fault.path for fault in refused(reader, content).faults]


def test_too_many_orders_are_refused_and_their_faults_are_bounded(
    reader: RequestReader, order: dict[str, Any], contract: Contract
) -> None:
    assert len(reader.read(body(*[order] * MAX_ROWS))) == MAX_ROWS
    messages = refused(reader, body(*[order | {contract.timestamp: 5}] * (MAX_ROWS + 1)))
    assert messages.faults[0].path == "rows"
    messages = refused(reader, body(*[order | {contract.entity: "x", contract.timestamp: "y"}] * MAX_ROWS))
    assert (messages.total, len(messages.faults)) == (2 * MAX_ROWS, MAX_FAULTS)
    long = refused(reader, body(order | {contract.entity: "x" * 100_000}))
    assert len(long.faults[0].value) < 300


def test_faults_of_every_kind_are_reported_together(
    reader: RequestReader, order: dict[str, Any], contract: Contract
) -> None:
    """A fault of the shape hides none of the values, of the pairs, or of the day."""
    first, second = next(r for r in contract.rules if r.rule == "pairs").columns
    measure, when = contract.named("measure")[0], contract.timestamp
    bad = order | {measure: True, when: "2024-01-01", second: "SIERRA", first: "PE"}
    with pytest.raises(RefusedError) as raised:
        reader.read(body(bad, order | {contract.entity: None}), date(2024, 8, 1))
    rules = {fault.path: (fault.rule, fault.value, fault.remedy) for fault in raised.value.faults}
    assert rules == {
        f"rows[0].{measure}": ("type: not double", "true", "write a finite number, without quotes"),
        f"rows[0].{when}": (
            "on or after 2024-08-01, the day of the history snapshot",
            "2024-01-01",
            "send a day from then on, or score the row in a drop: a file may hold earlier ones",
        ),
        f"rows[1].{contract.entity}": ("not_null", "null", "send a value"),
    }
    assert str(raised.value).startswith("3 faults: rows[0]")


@pytest.mark.parametrize("twice", ["an order", "the body"])
def test_a_repeated_key_is_refused(reader: RequestReader, order: dict[str, Any], twice: str) -> None:
    """JSON readers keep the last one without a word."""
    inner = json.dumps(order)
    name = next(iter(order))
    if twice == "an order":
        content = f'{{"rows": [{inner[:-1]}, "{name}": null}}]}}'
        path = f"rows[0].{name}"
    else:
        content, path = f'{{"rows": [{inner}], "rows": [{inner}]}}', "rows"
    messages = refused(reader, content.encode())
    assert [(f.path, f.rule, f.remedy) for f in messages.faults][0] == (path, "the key occurs twice", "send it once")


def test_a_value_equal_to_a_key_is_accepted(reader: RequestReader, order: dict[str, Any]) -> None:
    free = next(name for name in order if reader.accepts(name, name))
    assert len(reader.read(body(order | {free: free}))) == 1


def test_non_finite_numbers_are_refused(reader: RequestReader, order: dict[str, Any], contract: Contract) -> None:
    for measure in contract.named("measure"):
        too_large = [2**70] if contract.columns[measure].type == "int64" else []
        for value in ("3", True, float("nan"), float("inf"), *too_large):
            assert refused(reader, body(order | {measure: value})).faults[0].path == f"rows[0].{measure}"


def test_a_missing_number_is_sent_as_null(reader: RequestReader, order: dict[str, Any], contract: Contract) -> None:
    optional = [*contract.named("measure"), *contract.features.attributes]
    for name in optional:
        (fault,) = refused(reader, body(order | {name: float("nan")})).faults
        assert (fault.value, fault.remedy) == ("nan", "send null")
    (fault,) = refused(reader, body(order | {optional[0]: float("inf")})).faults
    assert fault.remedy == "write a finite number, without quotes"


def test_orders_without_their_object_are_one_fault(reader: RequestReader, order: dict[str, Any]) -> None:
    for content, words, remedy in (
        (order, "a row without", 'wrap it: {"rows": [{…}]}'),
        ({"PAIS CD": None}, "a row without", 'wrap it: {"rows": [{…}]}'),
        ([order, order], "a list of rows without", 'wrap it: {"rows": [{…}, …]}'),
    ):
        (fault,) = refused(reader, json.dumps(content).encode()).faults
        assert fault.path == "body" and words in fault.rule and fault.remedy == remedy
    for other in ({"order": [order]}, [order, 3], {"rows": [order], "more": 1}):
        assert "without an object" not in str(refused(reader, json.dumps(other).encode()))


def test_formats_of_dates_are_shown_as_people_write_them(
    reader: RequestReader, order: dict[str, Any], contract: Contract
) -> None:
    (fault,) = refused(reader, body(order | {contract.timestamp: "5 March"})).faults
    assert fault.remedy == "write it as YYYY-MM-DD or DD/MM/YYYY or YYYY-MM-DD hh:mm:ss, in quotes"
    schema = json.dumps(reader.model.model_json_schema())
    assert "Written as YYYY-MM-DD or DD/MM/YYYY" in schema and "%Y" not in schema


def test_values_are_read_again_after_many_others(
    reader: RequestReader, order: dict[str, Any], contract: Contract
) -> None:
    attribute = contract.features.attributes[0]
    for n in range(0, 42_000, 1000):
        result = reader.read(body(*[order | {attribute: f"level {n + i}"} for i in range(1000)]))
        assert len(result.warnings) == 1000
    assert reader.read(body(order)).warnings == {}


def test_the_schema_follows_the_contract(reader: RequestReader, contract: Contract) -> None:
    schema = reader.model.model_json_schema()
    order = schema["$defs"]["Row"]
    assert list(order["properties"]) == list(contract.columns) and order["additionalProperties"] is False
    assert order["required"] == [c.name for c in contract.columns.values() if c.required.score]
    for column in contract.columns.values():
        message = order["properties"][column.name]
        assert message["description"].startswith(column.description) and message["x-role"] == column.role
        if column.domain:
            assert message["examples"] == list(column.domain.levels)


def test_upper_case_is_that_of_sql() -> None:
    letters = [chr(n) for n in range(0x20, 0x2FF)] + ["ŉ", "ǰ", "ﬁ", "ꭰ"]
    with duckdb.connect() as con:
        sql = [row[0] for row in con.execute("SELECT upper(unnest(?))", [letters]).fetchall()]
    different = [(a, upper(a), b) for a, b in zip(letters, sql, strict=True) if upper(a) != b]
    assert not different


def test_the_former_key_of_the_rows_is_read(reader: RequestReader, order: dict[str, Any]) -> None:
    def former(*rows: Any) -> bytes:
        return json.dumps({"orders": rows}).encode()

    assert reader.read(former(order, order)) == reader.read(body(order, order))
    name = next(iter(order))
    for wrong in ([order | {"more": 1}], [order | {name: [1]}], [3], [], [{}]):
        assert refused(reader, former(*wrong)).faults == refused(reader, body(*wrong)).faults
    both = json.dumps({"rows": [order], "orders": [order]}).encode()
    assert [(f.path, f.rule) for f in refused(reader, both).faults] == [("orders", "unknown key; the keys are rows")]
    twice = f'{{"orders": [{json.dumps(order)}], "orders": [{json.dumps(order)}]}}'
    assert refused(reader, twice.encode()).faults[0].rule == "the key occurs twice"
    assert list(reader.model.model_json_schema()["properties"]) == ["rows"]
