"""Names of levels: a mapping of the values that the data has to the names that people read."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from apex_ml.contract.changes import compare_contracts
from apex_ml.contract.conditions import NotIn, column_rules
from apex_ml.contract.model import Contract
from apex_ml.contract.predicates import predicate
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.core.features import level_texts
from apex_ml.errors import ConfigError
from apex_ml.sql.conditions import condition_sql
from apex_ml.sql.file_types import duckdb_type, level_sql
from tests.quality.test_every_key import contract_of

CLOSED = "closed: {train: true, score: false}"


def domain(levels: str, kind: str = "int64", role: str = "attribute") -> str:
    more = ", required: {train: true, score: false}, nullable: {train: false, score: true}" if role == "target" else ""
    return f"{{description: X., type: {kind}, role: {role}{more}, domain: {{levels: {levels}, {CLOSED}}}}}"


NAMED: dict[str, tuple[str, dict[str, str], list[Any]]] = {
    "int64": ("{0: kept, 1: cancelled}", {"0": "kept", "1": "cancelled"}, [0, 1, 7, None]),
    "boolean": ("{false: lost, true: paid back}", {"false": "lost", "true": "paid back"}, [False, True, None]),
    "decimal, decimals: 2": ("{1.5: low, 2: high}", {"1.50": "low", "2.00": "high"}, [1.5, 2, 9, None]),
    "date": (
        "{2024-12-31: last, 2024-01-01: first}",
        {"2024-12-31": "last", "2024-01-01": "first"},
        [date(2024, 12, 31), date(2024, 1, 1), date(2024, 1, 2)],
    ),
}
OF_A_TARGET: dict[str, tuple[str, dict[str, str], list[Any]]] = {
    "double": (
        "{0.30000000000000004: low, 2: high, 1e22: huge}",
        {"0.30000000000000004": "low", "2": "high", "10000000000000000000000": "huge"},
        [0.1 + 0.2, 2.0, 1e22, 0.3, -0.0, 1e-7, None],
    ),
    "timestamp": (
        "{2024-12-31 12:00: noon, 2024-12-31T23:59:59.5: last}",
        {"2024-12-31 12:00:00": "noon", "2024-12-31 23:59:59.500000": "last"},
        [datetime(2024, 12, 31, 12), datetime(2024, 12, 31, 23, 59, 59, 500_000), datetime(2024, 1, 2), None],
    ),
    "timestamp, timezone: Europe/Madrid": (
        "{2024-12-31 12:00: noon, '2024-07-01T12:00:00Z': summer}",
        {"2024-12-31 11:00:00+00:00": "noon", "2024-07-01 12:00:00+00:00": "summer"},
        [datetime(2024, 12, 31, 11, tzinfo=UTC), datetime(2024, 7, 1, 12, tzinfo=UTC), datetime(9, 1, 2, tzinfo=UTC)],
    ),
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", OF_A_TARGET)
def test_doubles_and_times_are_classes_with_and_without_names(tmp_path: Path, kind: str, named: bool) -> None:
    written, names, values = OF_A_TARGET[kind]
    if not named:
        written = f"[{', '.join(part.rpartition(': ')[0] for part in written.strip('{}').split(', '))}]"
        written, names = written.replace("1e22", "1.0e+22"), {name: name for name in names}
    contract = contract_of(tmp_path, {"kind": domain(written, kind, role="target")})
    column = contract.columns["kind"]
    assert contract.classes == tuple(names.values())
    array = pa.chunked_array([pa.array(values).cast(column.arrow_type)])
    texts = level_texts(column, array).to_pylist()
    assert texts[: len(names)] == list(names.values()) and not set(texts[len(names) :]) & set(names.values())
    assert texts[len(names) :][-1] == (None if values[-1] is None else "0009-01-02 00:00:00+00:00")
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'America/Lima'")
        rows = pa.table({"x": array})  # noqa: F841  # DuckDB finds it by its name
        value = f"CAST(x AS {duckdb_type(column)})"
        assert [text for (text,) in con.execute(f"SELECT {level_sql(column, value)} FROM rows").fetchall()] == texts
        (rule,) = [rule for rule in column_rules(column, "train") if isinstance(rule.broken, NotIn)]
        broken = con.execute(f"SELECT {condition_sql(rule.broken, {'kind': value})} FROM rows").fetchall()
        assert [is_broken for (is_broken,) in broken] == [
            None if value is None else nr >= len(names) for nr, value in enumerate(values)
        ]
    of_a_request = predicate(rule.broken)
    assert [of_a_request(value) for value in values] == [bool(is_broken) for (is_broken,) in broken]


@pytest.mark.parametrize(
    ("kind", "levels", "message"),
    [
        ("double", "[0.5, .nan]", "must be a finite number|no value of type double: write numbers, as 0.5"),
        ("double", "[a, 0.5]", "the level 'a' is no value of type double: write numbers, as 0.5"),
        ("double", "{0.5: '2', 1: b}", "'2' as the name of 0.5 is itself a value of type double"),
        ("timestamp", "['2024-12-31T12:00:00Z', a]", "no value of type timestamp: .*without a zone, as the column has"),
        ("timestamp", "[2024-12-31, 2024-12-31 00:00:00]", "is listed twice: remove one, or rename it"),
    ],
)
def test_refused_classes_of_doubles_and_times(tmp_path: Path, kind: str, levels: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract_of(tmp_path, {"kind": domain(levels, kind, role="target")})


@pytest.mark.parametrize("kind", ["double", "timestamp"])
def test_an_attribute_of_doubles_or_times_has_no_levels(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"a domain of levels needs type .*, not {kind}: use a range"):
        contract_of(tmp_path, {"x": domain("[1, 2]", kind)})


@pytest.mark.parametrize("kind", NAMED)
def test_names_stand_for_values_in_sql_and_in_features(tmp_path: Path, kind: str) -> None:
    written, names, values = NAMED[kind]
    column = contract_of(tmp_path, {"x": domain(written, kind)}).columns["x"]
    assert (
        column.domain is not None and dict(zip(column.domain.value_texts, column.domain.levels, strict=True)) == names
    )
    assert column.domain.shown[0] == " (".join(next(iter(names.items()))) + ")"
    array = pa.chunked_array([pa.array(values).cast(column.arrow_type)])
    texts = [None if v is None else names.get(str(v), str(v)) for v in array.cast(pa.string()).to_pylist()]
    assert level_texts(column, array).to_pylist() == texts
    assert level_texts(column, pa.chunked_array([pa.array(texts, pa.string())])).to_pylist() == texts
    with duckdb.connect() as con:
        rows = pa.table({"x": array})  # noqa: F841  # DuckDB finds it by its name
        query = f"SELECT {level_sql(column, f'CAST(x AS {duckdb_type(column)})')} FROM rows"
        assert [text for (text,) in con.execute(query).fetchall()] == texts


def test_a_target_with_names_has_the_names_as_classes(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, {"kind": domain("{0: kept, 1: cancelled}", role="target")})
    assert contract.classes == ("kept", "cancelled")
    reader = RequestReader(contract)
    row = {"client": "c", "day": "2024-03-05", "kind": 1}
    assert reader.read(json.dumps({"rows": [row]}).encode()).columns["kind"] == [1]
    warned = reader.read(json.dumps({"rows": [row | {"kind": 5}]}).encode()).warnings
    assert warned == {0: ["kind: domain: one of 0 (kept), 1 (cancelled); taken as unknown (found 5)"]}
    with pytest.raises(RefusedError, match="type: not int64"):
        reader.read(json.dumps({"rows": [row | {"kind": "kept"}]}).encode())


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (domain("{a: A, b: B}", "string"), "levels of type string need no names: write a list"),
        (domain("{0: kept, 1: kept}"), "is listed twice: remove one, or rename it"),
        (domain("{0: kept, 00: other}"), "the level '00' is no value of type int64"),
        (domain("{0: '1', 1: '0'}"), "'1' as the name of 0 is itself a value of type int64: choose another name"),
        (domain("{0: kept, 1: ' '}"), "the level 1 has an empty name"),
        (domain("{0: kept, 1: 2}"), "YAML as the number"),
        (domain("{0: kept, 1: no}"), "YAML"),
        (domain("{0: kept, one: other}"), "the level 'one' is no value of type int64"),
        (domain("{}"), "levels"),
        (domain("{1.5: a, 1.50: b}", "decimal, decimals: 2"), "is listed twice: remove one, or rename it"),
        (domain("[0, 1], values: [a, b]"), "no such key here"),
    ],
)
def test_refused_names(tmp_path: Path, column: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        contract_of(tmp_path, {"x": column})
    assert "columns.x" in str(error.value)


def target(tmp_path: Path, levels: str) -> Contract:
    return contract_of(tmp_path, {"kind": domain(levels, role="target")})


def test_another_name_or_value_of_a_class_needs_a_pipeline_of_its_own(tmp_path: Path) -> None:
    before = target(tmp_path, "{0: kept, 1: cancelled}")
    assert compare_contracts(before.identity(), target(tmp_path, "{0: kept, 1: cancelled}")).kind == "same"
    assert compare_contracts(before.identity(), target(tmp_path, "{0: kept, 1: cancelled, 2: late}")).kind == "additive"
    swapped = target(tmp_path, "{1: kept, 0: cancelled}")
    assert compare_contracts(before.identity(), swapped).refused == (
        "the class kept is the value 1 and was 0",
        "the class cancelled is the value 0 and was 1",
    )
    assert before.digest() != swapped.digest() and before.features_digest() != swapped.features_digest()
    assert compare_contracts(before.identity(), target(tmp_path, "[0, 1]")).kind == "new_pipeline"


def test_another_name_of_an_attribute_is_another_level(tmp_path: Path) -> None:
    before = contract_of(tmp_path, {"x": domain("{0: no rain, 1: rain}")})
    change = compare_contracts(before.identity(), contract_of(tmp_path, {"x": domain("{1: no rain, 0: rain}")}))
    assert change.kind == "additive" and "the column x: its levels are names of other values" in change.differences
    again = before.identity().from_dict(before.identity().as_dict())
    assert again == before.identity() and again is not None
    after = contract_of(tmp_path, {"x": domain("[0, 1]")})
    assert again.applied_to(after).columns["x"].domain == before.columns["x"].domain
