"""The row checks and Great Expectations find the same violations in broken orders, rule by rule.

Both come from the contract and share no code. Great Expectations gets the rows normalised and unfiltered, so that it
must find what the masks find; of the accepted rows it must find nothing.

Where they do not overlap:

- ``unique``: only a row check. It is about whole rows of one file; Great Expectations gets the files of a run as one
  batch, in which a row can occur twice until the step elt uses it once.
- ``type … without loss``: a row check alone, as it compares a value before and after the cast. Afterwards such a value
  is null, which Great Expectations takes for a null: a fault where the column may not be null.
- ``expect_table_row_count_to_be_between`` and ``expect_table_columns_to_match_set``: Great Expectations alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.expectations.project import frame_of, make_suite
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import USES, Severity, Use
from apex_ml.contract.rules import BeforeAsOfRule, PairsRule
from apex_ml.contract.suites import expectations
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifiers, literal
from apex_ml.sql.row_checks import ROW_NR, compile_row_checks

AS_OF = date(2024, 6, 1)
Broken = set[tuple[str, str, Severity]]  # what is broken: column (of pairs the second), kind of rule, severity

# values that a column may be given, good ones among them
VALUES: dict[str, list[Any]] = {
    "cliente_id": [None, "", "c000001", " C000001 ", "X000001", "C12345", "C1234567890", "C000001\n", "C000002"],
    "pais_cd": [None, "", " ec ", "XX", "PE", "gt", "SV"],
    "region_comercial_txt": [None, "LIMA", "costa", "PAMPA", "NORTE", "SUR"],
    "agencia_id": [None, "", " a1 ", "A2"],
    "tipo_cliente_cd": [None, "KIOSKO", "tienda", "MAYORISTA"],
    "madurez_digital_cd": [None, "NULA", " baja", "ALTA"],
    "estrellas_txt": [None, "3 estrellas", "3.0", "4", "", "tres", "1 ESTRELLA"],
    "frecuencia_visitas_cd": [None, "LMXJV", "lm", "L"],
    "fecha_pedido_dt": [
        None, datetime(2014, 12, 31), datetime(2015, 1, 1), datetime(2024, 5, 31, 23, 59), datetime(2024, 6, 1),
        datetime(2100, 1, 1), datetime(2100, 1, 2),
    ],
    "canal_pedido_cd": [None, "WHATSAPP", " digital ", "TELEFONO", ""],
    "facturacion_usd_val": [None, -0.01, 0.0, 2000.0, 2000.01, 1e12, float("nan"), float("inf")],
    "materiales_distintos_val": [None, -1, 0, 500, 501],
    "cajas_fisicas": [None, -1e-9, 0.0, 500.0, 500.5],
}  # fmt: skip
CHANGES = st.lists(
    st.sampled_from([(column, value) for column, values in VALUES.items() for value in values]).flatmap(
        lambda change: st.tuples(st.integers(0, 11), st.just(change))
    ),
    max_size=5,
)


@dataclass(frozen=True)
class SuiteRunner:
    """Great Expectations with the suite of a use, in memory."""

    contract: Contract
    batch: Any
    suite: Any

    def broken(self, table: pa.Table) -> tuple[Broken, bool]:
        """Rules that some row breaks, and whether the batch passes: no expectation of severity error has failed."""
        batch = self.batch.get_batch(batch_parameters={"dataframe": frame_of(self.contract, table)})
        result = batch.validate(
            self.suite, result_format="BOOLEAN_ONLY", expectation_parameters={"as_of": f"{AS_OF.isoformat()}T00:00:00"}
        )
        failed = [r.expectation_config for r in result.results if not r.success]
        grave = [config for config in failed if str(getattr(config.severity, "value", config.severity)) == "critical"]
        return {_broken_of(config) for config in failed}, not grave


def _broken_of(config: Any) -> tuple[str, str, Severity]:
    severity: Severity = "error" if str(getattr(config.severity, "value", config.severity)) == "critical" else "warning"
    column = config.kwargs.get("column", "the table")
    if config.kwargs.get("row_condition"):
        return column, "pairs", severity
    if config.kwargs.get("strict_max"):
        return column, "before_as_of", severity
    kinds = {
        "expect_column_values_to_not_be_null": "not_null",
        "expect_column_values_to_be_in_set": "domain",
        "expect_column_values_to_match_regex": "pattern",
        "expect_column_values_to_be_between": "range",
        "expect_column_min_to_be_between": "range",
        "expect_column_max_to_be_between": "range",
    }
    return column, kinds.get(config.type, config.type), severity


@pytest.fixture(scope="module")
def suite_runners(contract: Contract) -> dict[Use, SuiteRunner]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_pandas("frames")
    results: dict[Use, SuiteRunner] = {}
    for use in USES:
        batch = source.add_dataframe_asset(use).add_batch_definition_whole_dataframe("batch")
        results[use] = SuiteRunner(contract, batch, context.suites.add(make_suite(contract, use)))
    return results


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with engine.connect(Settings.load(home=tmp_path_factory.mktemp("home"))) as con:
        yield con


def normalised(con: duckdb.DuckDBPyConnection, path: Path, contract: Contract, use: Use) -> pa.Table:
    """All rows of a file as the row checks see them: normalised and cast, none left out."""
    checks = compile_row_checks(contract, use, pq.read_schema(path), AS_OF)
    names = ", ".join(checks.source)
    source = f"SELECT *, file_row_number AS {ROW_NR} FROM read_parquet({literal(str(path))}) AS file({names})"
    columns = identifiers(checks.columns)
    return con.sql(
        f"WITH source AS ({source}), staged AS ({checks.staged}) SELECT {columns} FROM staged"
    ).to_arrow_table()


def as_the_masks_say(contract: Contract, use: Use, reasons: set[tuple[str, str, Severity]]) -> Broken:
    """The rules that both know, in the words of :func:`_broken_of`."""
    names = {rule.name: rule for rule in contract.rules}
    result: Broken = set()
    for column, rule, severity in reasons:
        kind = rule.split(":")[0]
        if kind == "type":  # the value is null afterwards
            if not contract.columns[column].nullable.on(use):
                result.add((column, "not_null", severity))
        elif kind in names:
            if isinstance(names[kind], PairsRule):
                result.add((column.split(" + ")[1], "pairs", severity))
            elif isinstance(names[kind], BeforeAsOfRule):
                result.add((column, "before_as_of", severity))
        else:
            result.add((column, kind, severity))
    return result


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # an example takes a second: to shrink one would take minutes
)
@given(use=st.sampled_from(USES), changes=CHANGES)
def test_masks_and_expectations_agree(
    healthy_orders: pa.Table,
    suite_runners: dict[Use, SuiteRunner],
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    tmp_path_factory: pytest.TempPathFactory,
    use: Use,
    changes: list[tuple[int, tuple[str, Any]]],
) -> None:
    orders = healthy_orders.slice(0, 12)
    values = {name: orders.column(name).to_pylist() for name in orders.column_names}
    for row, (column, value) in changes:
        values[column][row] = value
    table = pa.table({n: pa.array(v, orders.schema.field(n).type) for n, v in values.items()})
    folder = tmp_path_factory.mktemp("example")
    path, accepted, bad = (folder / f"{name}.parquet" for name in ("file", "accepted", "bad"))
    pq.write_table(table, path)

    report = check_file(make_strict(connection), path, contract, use, as_of=AS_OF, accepted=accepted, quarantined=bad)
    expected = {(*label.split(": ", 1), "error") for label in report.reasons}
    expected |= {(*label.split(": ", 1), "warning") for label in report.warnings}
    by_masks = as_the_masks_say(contract, use, expected)
    by_expectations, passes = suite_runners[use].broken(normalised(connection, path, contract, use))

    assert by_expectations == by_masks
    assert passes == (not any(severity == "error" for _, _, severity in by_masks))
    lossy_only = {rule.split(":")[0] for _, rule, severity in expected if severity == "error"} <= {"type", "unique_row"}
    assert passes == (report.quarantined == 0) or lossy_only
    if report.accepted:
        broken, passes = suite_runners[use].broken(pq.read_table(accepted))
        assert passes and not any(severity == "error" for _, _, severity in broken)
    else:
        assert report.quarantined == report.rows


def test_both_find_every_kind_of_fault_together(
    healthy_orders: pa.Table,
    suite_runners: dict[Use, SuiteRunner],
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    tmp_path: Path,
) -> None:
    """All values above in one file: every expectation on a column fails, and the masks break every rule."""
    rows = [(column, value) for column, values in VALUES.items() for value in values]
    orders = healthy_orders.slice(0, len(rows))
    values = {name: orders.column(name).to_pylist() for name in orders.column_names}
    for row, (column, value) in enumerate(rows):
        values[column][row] = value
    path, accepted, bad = (tmp_path / f"{name}.parquet" for name in ("file", "accepted", "bad"))
    pq.write_table(pa.table({n: pa.array(v, orders.schema.field(n).type) for n, v in values.items()}), path)
    report = check_file(
        make_strict(connection), path, contract, "train", as_of=AS_OF, accepted=accepted, quarantined=bad
    )
    expected = {(*label.split(": ", 1), "error") for label in report.reasons}
    expected |= {(*label.split(": ", 1), "warning") for label in report.warnings}
    by_masks = as_the_masks_say(contract, "train", expected)
    by_expectations, _ = suite_runners["train"].broken(normalised(connection, path, contract, "train"))
    assert by_expectations == by_masks
    table_only = {"expect_table_row_count_to_be_between", "expect_table_columns_to_match_set"}
    every = {_broken_of(_Config(e.type, e.kwargs, e.severity)) for e in expectations(contract, "train")}
    assert by_expectations == {b for b in every if b[1] not in table_only}


@dataclass(frozen=True)
class _Config:
    type: str
    kwargs: dict[str, Any]
    name: Severity

    @property
    def severity(self) -> str:
        return "critical" if self.name == "error" else "warning"
