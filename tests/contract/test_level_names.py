"""Names of levels: a mapping of the values that the data has to the names that people read."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from apex_ml.contract.changes import compare_contracts
from apex_ml.contract.model import Contract
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.core.features import level_texts
from apex_ml.errors import ConfigError
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
        (domain("{0: kept, 1: kept}"), "levels are listed twice"),
        (domain("{0: kept, 00: other}"), "the level '00' is no value of type int64"),
        (domain("{0: '1', 1: '0'}"), "'1' as the name of 0 is itself a value of type int64: choose another name"),
        (domain("{0: kept, 1: ' '}"), "the level 1 has an empty name"),
        (domain("{0: kept, 1: 2}"), "YAML as the number"),
        (domain("{0: kept, 1: no}"), "YAML"),
        (domain("{0: kept, one: other}"), "the level 'one' is no value of type int64"),
        (domain("{}"), "levels"),
        (domain("{1.5: a, 1.50: b}", "decimal, decimals: 2"), "levels are listed twice"),
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
