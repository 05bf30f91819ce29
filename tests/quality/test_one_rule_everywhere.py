"""One rule, one compiler: files, requests and Great Expectations find the same faults, with the same texts.

The same values go as rows of a parquet file through DuckDB, as orders of a request through Python, and normalised
through Great Expectations. Other tests cover values that cannot be cast, which only files and requests have.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from apex_ml.adapters.expectations.project import frame_of, make_suite
from apex_ml.contract.conditions import column_rules
from apex_ml.contract.model import Contract
from apex_ml.contract.predicates import predicate
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.contract.suites import expectations
from apex_ml.sql.conditions import condition_sql
from apex_ml.sql.quote import identifier, identifiers, literal
from apex_ml.sql.row_checks import ROW_NR, compile_row_checks

AS_OF = date(2024, 6, 1)
TYPES = {"string": pa.string(), "date": pa.string(), "double": pa.float64(), "int64": pa.int64()}
Faults = dict[str, str]  # text of the broken rules by their columns

VALUES: dict[str, list[Any]] = {
    "cliente_id": ["C000001", " c000002 ", "C12345", "X000001", "C0000012\n", "", None, "C00\x000001", "ñ"],
    "pais_cd": ["EC", " pe ", "XX", "gt", None, "SV"],
    "region_comercial_txt": ["COSTA", "lima", "PAMPA", None, "NORTE", "SUR"],
    "agencia_id": ["A1", None, ""],
    "ruta_id": ["R1", None],
    "tipo_cliente_cd": ["TIENDA", "kiosko", None, "MAYORISTA "],
    "madurez_digital_cd": ["ALTA", "nula", None],
    "estrellas_txt": ["3", "3.0", "2 estrellas", "4", "tres", None],
    "frecuencia_visitas_cd": ["L", "lmxjv", None],
    "fecha_pedido_dt": ["2024-05-31", "2014-12-31", "2015-01-01", "2100-01-02", "01/06/2024", None],
    "canal_pedido_cd": ["DIGITAL", "whatsapp", None],
    "facturacion_usd_val": [None, -0.01, 0.0, 2000.0, 2000.01],
    "materiales_distintos_val": [None, -1, 0, 500, 501],
    "cajas_fisicas": [None, -1e-9, 0.0, 500.0, 500.5],
}
HEALTHY = {name: values[0] for name, values in VALUES.items()}
ORDERS = st.lists(
    st.dictionaries(st.sampled_from(list(VALUES)), st.integers(0, 8), max_size=4).map(
        lambda picks: HEALTHY | {name: VALUES[name][place % len(VALUES[name])] for name, place in picks.items()}
    ),
    min_size=10,
    max_size=10,
)


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def validate(contract: Contract) -> Any:
    """Validate a frame by the suite for scoring, in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batch = context.data_sources.add_pandas("frames").add_dataframe_asset("score")
    definition = batch.add_batch_definition_whole_dataframe("batch")
    suite = context.suites.add(make_suite(contract, "score"))

    def run(table: pa.Table) -> Any:
        return definition.get_batch(batch_parameters={"dataframe": frame_of(contract, table)}).validate(
            suite, result_format="BOOLEAN_ONLY", expectation_parameters={"as_of": f"{AS_OF.isoformat()}T00:00:00"}
        )

    return run


def faults_of_file(
    con: duckdb.DuckDBPyConnection, contract: Contract, path: Path
) -> tuple[list[tuple[Faults, Faults]], pa.Table]:
    """Errors and warnings of each row by the row checks; and the normalised rows."""
    checks = compile_row_checks(contract, "score", pq.read_schema(path), AS_OF)
    names = ", ".join(checks.source)
    source = f"SELECT *, file_row_number AS {ROW_NR} FROM read_parquet({literal(str(path))}) AS file({names})"
    staged = f"WITH source AS ({source}), staged AS ({checks.staged})"
    tests = ", ".join(f"coalesce({reason.condition}, false)" for reason in checks.reasons)
    rows = con.execute(f"{staged} SELECT {tests} FROM staged ORDER BY {ROW_NR}").fetchall()
    results = []
    for row in rows:
        faults: tuple[Faults, Faults] = ({}, {})
        for reason, broken in zip(checks.reasons, row, strict=True):
            if broken:
                of_kind = faults[0 if reason.severity == "error" else 1]
                earlier = of_kind.get(reason.column)
                of_kind[reason.column] = f"{earlier}; {reason.rule}" if earlier else reason.rule
        results.append(faults)
    query = f"{staged} SELECT {identifiers(checks.columns)} FROM staged ORDER BY {ROW_NR}"
    return results, con.sql(query).to_arrow_table()


def faults_of_request(reader: RequestReader, order: dict[str, Any]) -> tuple[Faults, Faults | None]:
    """Errors of an order, or without any its warnings."""
    try:
        read = reader.read(json.dumps({"rows": [order]}).encode())
    except RefusedError as error:
        return {fault.path.removeprefix("rows[0]."): fault.rule for fault in error.faults}, None
    texts = [re.sub(r" \(found .*\)$", "", text) for text in read.warnings.get(0, [])]
    return {}, dict(text.split(": ", 1) for text in texts)


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(orders=ORDERS)
def test_files_requests_and_expectations_find_the_same_faults_with_the_same_texts(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    validate: Any,
    tmp_path_factory: pytest.TempPathFactory,
    orders: list[dict[str, Any]],
) -> None:
    path = tmp_path_factory.mktemp("orders") / "orders.parquet"
    types = {name: TYPES[column.type] for name, column in contract.columns.items()}
    pq.write_table(pa.table({n: pa.array([o[n] for o in orders], kind) for n, kind in types.items()}), path)
    by_file, normalised = faults_of_file(con, contract, path)
    reader = RequestReader(contract)
    in_requests = {rule.name for rule in contract.rules if rule.rule == "pairs"}
    in_requests |= {"domain", "pattern", "range", "not_null"}

    def comparable(faults: Faults) -> Faults:
        return {label: text for label, text in faults.items() if text.split(":")[0] in in_requests}

    for order, (errors, warned) in zip(orders, by_file, strict=True):
        refused, noted = faults_of_request(reader, order)
        assert refused == errors, order
        assert noted is None or noted == comparable(warned), order

    of_rules = {(e.type, json.dumps(e.kwargs, sort_keys=True)): e.rule for e in expectations(contract, "score")}
    failed = [r.expectation_config for r in validate(normalised).results if not r.success]
    by_expectations = set()
    for config in failed:
        kwargs = {name: value for name, value in config.kwargs.items() if name != "batch_id"}
        if isinstance(condition := kwargs.get("row_condition"), dict):
            kwargs["row_condition"] = condition["pass_through_filter"]
        if kwargs.get("strict_max"):
            kwargs["max_value"] = {"$PARAMETER": "as_of"}
        by_expectations.add(
            of_rules[config.type, json.dumps(kwargs, sort_keys=True, default=lambda day: day.isoformat())].replace(
                "as_of", str(AS_OF), 2
            )
        )
    texts = {f"{label}: {text}" for faults in by_file for kind in faults for label, text in kind.items()}
    assert by_expectations == {text.replace("not_after_as_of", f"not_after_{AS_OF}") for text in texts}


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(
        st.none()
        | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
        | st.from_regex(r"\AC[0-9]{5,10}\Z"),
        max_size=8,
    ),
    numbers=st.lists(st.none() | st.floats(-3000, 3000), max_size=8),
    days=st.lists(st.none() | st.dates(date(1900, 1, 1), date(2200, 1, 1)), max_size=8),
)
def test_a_condition_is_true_of_the_same_values_in_sql_and_in_python(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    texts: list[str | None],
    numbers: list[float | None],
    days: list[date | None],
) -> None:
    for name, values, kind in (
        ("cliente_id", texts, pa.string()),
        ("pais_cd", texts, pa.string()),
        ("facturacion_usd_val", numbers, pa.float64()),
        ("fecha_pedido_dt", days, pa.date32()),
    ):
        con.register("given", pa.table({name: pa.array(values, kind)}))
        for rule in column_rules(contract.columns[name], "train"):
            sql = condition_sql(rule.broken, {name: identifier(name)})
            by_sql = [bool(row[0]) for row in con.execute(f"SELECT {sql} FROM given").fetchall()]
            assert by_sql == [predicate(rule.broken)(value) for value in values], (rule.text, values)
        con.unregister("given")
