"""The result for every kind of value: accepted unchanged, normalised, warned about or quarantined with its reasons."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import USES, Use
from apex_ml.errors import DataError
from tests.support.order_files import order_table, write_orders

AS_OF = date(2024, 4, 1)
REJECTED = "REJECTED"
INT96 = {"use_deprecated_int96_timestamps": True}


@dataclass(frozen=True)
class Checked:
    report: FileReport
    accepted: pa.Table
    quarantined: list[dict[str, Any]]

    def reasons(self, row_nr: int) -> list[dict[str, str]]:
        results: list[dict[str, str]] = next(r["reasons"] for r in self.quarantined if r["row_nr"] == row_nr)
        return results


Check = Callable[..., Checked]


@pytest.fixture
def con(home: Any) -> Iterator[duckdb.DuckDBPyConnection]:
    with engine.connect(home()) as connection:
        yield connection


@pytest.fixture
def check(con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path) -> Check:
    def run(table: pa.Table, use: Use = "train", as_of: date | None = AS_OF, **options: Any) -> Checked:
        path = write_orders(tmp_path / "file.parquet", table, **options)
        accepted, quarantined = tmp_path / "accepted.parquet", tmp_path / "quarantined.parquet"
        report = check_file(
            make_strict(con),
            path,
            contract,
            use,
            as_of=as_of,
            accepted=accepted,
            quarantined=quarantined,
            with_row_nr=True,
        )
        bad = pq.read_table(quarantined).to_pylist() if quarantined.exists() else []
        rows = [{**r, "reasons": json.loads(r["reasons"]), "row": json.loads(r["row"])} for r in bad]
        return Checked(report, pq.read_table(accepted), rows)

    return run


def values_of(checked: Checked, column: str, rows: int) -> list[Any]:
    """The column's accepted values by position in the file; REJECTED for a quarantined row."""
    kept = dict(zip(checked.accepted["row_nr"].to_pylist(), checked.accepted[column].to_pylist(), strict=True))
    return [kept.get(nr, REJECTED) for nr in range(rows)]


@pytest.mark.parametrize("use", USES)
def test_good_orders_pass_untouched(check: Check, contract: Contract, use: Use) -> None:
    table = order_table(rows=50)
    checked = check(table, use, **INT96)
    assert (checked.report.rows, checked.report.accepted, checked.report.quarantined) == (50, 50, 0)
    assert checked.report.reasons == checked.report.warnings == checked.report.normalised == {}
    assert checked.accepted.drop_columns("row_nr").schema.names == list(contract.columns)
    assert checked.accepted.drop_columns("row_nr").cast(contract.arrow_schema()).num_rows == 50
    assert checked.quarantined == []


D, S, T = date(2024, 3, 5), "fecha_pedido_dt", "estrellas_txt"
MIDNIGHT = datetime.combine(D, time())
COUNT, AMOUNT, CLIENT, COUNTRY = "materiales_distintos_val", "facturacion_usd_val", "cliente_id", "pais_cd"
VALUES = [
    # column, delivered, what is accepted
    (T, pa.array(["1", "3 estrellas", "3 ESTRELLAS", "1 estrella", "3.0"]), ["1", "3", "3", "1", "3"]),
    (T, pa.array([" 2 ", "2\t", "\u00a02", "", "  "]), ["2", "2", "2", None, None]),
    (T, pa.array(["4", "0", "tres", "3.5", "33"]), [REJECTED] * 5),
    (T, pa.array([1, 2, 3], pa.int64()), ["1", "2", "3"]),
    (T, pa.array([1.0, 2.0, 2.5]), ["1", "2", REJECTED]),
    (T, pa.array([Decimal("1.0"), Decimal("2.0")]), ["1", "2"]),
    (T, pa.array(["1", "3 estrellas"]).dictionary_encode(), ["1", "3"]),
    (T, pa.array(["1", None], pa.large_string()), ["1", None]),
    (T, pa.nulls(3), [None] * 3),
    (T, pa.array([True, False]), [REJECTED] * 2),
    (T, pa.array([["1"], ["2"]]), [REJECTED] * 2),
    (COUNTRY, pa.array(["ec", " Ec", "GT ", "XX", None]), ["EC", "EC", "GT", REJECTED, None]),
    (CLIENT, pa.array(["c000001", " C000002 ", "C123456789"]), ["C000001", "C000002", "C123456789"]),
    (CLIENT, pa.array(["C00001", "X000001", "C000001x", "C1234567890", "", None]), [REJECTED] * 6),
    (CLIENT, pa.array([1, 2]), [REJECTED] * 2),
    (CLIENT, pa.nulls(2), [REJECTED] * 2),
    (CLIENT, pa.array(["C000001", "C000002"]).dictionary_encode(), ["C000001", "C000002"]),
    (S, pa.array([MIDNIGHT], pa.timestamp("us")), [D]),
    (S, pa.array([MIDNIGHT], pa.timestamp("ms")), [D]),
    (S, pa.array([datetime(2024, 3, 5, 17, 45, 1)], pa.timestamp("ns")), [D]),
    (S, pa.array([D], pa.date32()), [D]),
    (S, pa.array(["2024-03-05", "05/03/2024", " 2024-03-05 ", "2024-03-05 10:11:12"]), [D] * 4),
    (S, pa.array(["31/02/2024", "2024/03/05", "yesterday", "", None]), [REJECTED] * 5),
    (S, pa.array(["05/03/2024"]).dictionary_encode(), [D]),
    (S, pa.array([datetime(2024, 3, 5, 6, tzinfo=UTC)], pa.timestamp("us", "America/Guatemala")), [D]),
    (S, pa.array([datetime(2024, 3, 5, tzinfo=UTC)], pa.timestamp("us", "UTC")), [D]),
    (S, pa.array([datetime(2024, 3, 5, 5, tzinfo=UTC)], pa.timestamp("us", "-05:00")), [D]),
    (S, pa.array([datetime(2024, 3, 4, 18, 30, tzinfo=UTC)], pa.timestamp("us", "+05:30")), [D]),
    (S, pa.array([datetime(2014, 12, 31), datetime(2015, 1, 1)], pa.timestamp("us")), [REJECTED, date(2015, 1, 1)]),
    (S, pa.array([None, MIDNIGHT], pa.timestamp("us")), [REJECTED, D]),
    (S, pa.array([20240305, 19787], pa.int64()), [REJECTED] * 2),
    (S, pa.array([time(1), time(2)], pa.time64("us")), [REJECTED] * 2),
    (S, pa.nulls(2), [REJECTED] * 2),
    (COUNT, pa.array([3.0, 3.5, float("nan"), float("inf"), None]), [3, REJECTED, REJECTED, REJECTED, None]),
    (COUNT, pa.array([2.0**53, 2.0**60, -1.0]), [2**53, REJECTED, REJECTED]),
    (COUNT, pa.array([3, 7], pa.int8()), [3, 7]),
    (COUNT, pa.array([3, 2**63], pa.uint64()), [3, REJECTED]),
    (COUNT, pa.array(["3", " 4 ", "4.0", "4.5", "four", ""]), [3, 4, 4, REJECTED, REJECTED, REJECTED]),
    (COUNT, pa.array([Decimal("3.0"), Decimal("3.5")]), [3, REJECTED]),
    (COUNT, pa.array([True, None]), [REJECTED, None]),
    (COUNT, pa.nulls(2), [None, None]),
    (AMOUNT, pa.array([1, 2], pa.int64()), [1.0, 2.0]),
    (AMOUNT, pa.array([1.5, None], pa.float32()), [1.5, None]),
    (AMOUNT, pa.array([float("nan"), float("inf"), float("-inf"), 0.0]), [REJECTED] * 3 + [0.0]),
    (AMOUNT, pa.array(["1.5", " 2 ", "1e2", "1,5", "nan"]), [1.5, 2.0, 100.0, REJECTED, REJECTED]),
    (AMOUNT, pa.array([Decimal("1.25"), Decimal("-0.01")]), [1.25, REJECTED]),
    (AMOUNT, pa.array([-0.01, -1e9, 1e6]), [REJECTED, REJECTED, 1e6]),
    (AMOUNT, pa.array([MIDNIGHT, None], pa.timestamp("us")), [REJECTED, None]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "delivered", "accepted"), VALUES, ids=[f"{c}-{d.type}-{nr}" for nr, (c, d, _) in enumerate(VALUES)]
)
def test_values_of_every_delivered_type(check: Check, column: str, delivered: pa.Array, accepted: list[Any]) -> None:
    rows = len(delivered)
    # a file of nothing but another country has no region that belongs to it
    changed = {column: delivered} | ({"region_comercial_txt": pa.nulls(rows)} if column == COUNTRY else {})
    checked = check(order_table(changed, rows=rows))
    assert values_of(checked, column, rows) == accepted
    assert checked.report.quarantined == accepted.count(REJECTED)
    for row in checked.quarantined:
        assert [r["column"] for r in row["reasons"]].count(column) >= 1


LEVELS = [
    # column, unknown level
    (COUNTRY, "AR"), ("region_comercial_txt", "PAMPA"), ("tipo_cliente_cd", "KIOSKO"), ("madurez_digital_cd", "NULA"),
    (T, "5"), ("frecuencia_visitas_cd", "LMXJV"), ("canal_pedido_cd", "WHATSAPP"),
]  # fmt: skip


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("column", "level"), LEVELS)
def test_an_unknown_level_is_quarantined_for_training_only(check: Check, column: str, level: str, use: Use) -> None:
    checked = check(order_table({column: ["EC" if column == COUNTRY else level, level]}, rows=2), use)
    rule = next(k for k in {**checked.report.reasons, **checked.report.warnings} if k.startswith(f"{column}: domain"))
    if use == "train":
        assert rule in checked.report.reasons and checked.report.quarantined >= 1
    else:
        assert rule in checked.report.warnings and checked.report.quarantined == 0
        assert level in checked.accepted[column].to_pylist()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("column", ["canal_pedido_cd", COUNT, AMOUNT, "cajas_fisicas", COUNTRY, CLIENT, S])
def test_optional_columns_can_be_absent(check: Check, contract: Contract, column: str, use: Use) -> None:
    table = order_table(rows=2, drop=[column])
    if contract.columns[column].required.on(use):
        with pytest.raises(
            DataError, match=rf"file\.parquet: required columns are missing(?s:.*)  {column} \(.*nothing"
        ):
            check(table, use)
        return
    checked = check(table, use)
    assert checked.report.filled == (column,)
    assert checked.accepted[column].to_pylist() == [None, None]


def test_all_missing_columns_are_reported_with_similar_names(check: Check) -> None:
    table = order_table(rows=1).rename_columns({CLIENT: "Cliente_ID", COUNTRY: "country"})
    with pytest.raises(DataError) as raised:
        check(table)
    assert "cliente_id (string) → Cliente_ID (rename it)" in str(raised.value)
    assert "pais_cd (string) → nothing" in str(raised.value)
    assert "unknown to the contract: Cliente_ID, country" in str(raised.value)


@pytest.mark.parametrize("use", USES)
def test_a_null_target_is_bad_in_training_only(check: Check, use: Use) -> None:
    checked = check(order_table({"canal_pedido_cd": ["DIGITAL", None, " "]}, rows=3), use)
    assert checked.report.quarantined == (2 if use == "train" else 0)
    assert not checked.report.warnings


@pytest.mark.parametrize("use", USES)
def test_a_region_belongs_to_its_country(check: Check, use: Use) -> None:
    changed = {COUNTRY: ["EC", "EC", None, "GT"], "region_comercial_txt": ["COSTA", "LIMA", "LIMA", None]}
    checked = check(order_table(changed), use)
    rule = "pais_cd + region_comercial_txt: region_in_country: A region belongs to its country."
    if use == "score":
        assert checked.report.warnings == {rule: 1} and not checked.quarantined
        return
    assert checked.report.reasons == {rule: 1}
    assert checked.reasons(1)[0]["value"] == "EC / LIMA"


def test_an_unknown_country_is_reported_once(check: Check) -> None:
    checked = check(order_table({COUNTRY: ["XX", "EC"]}, rows=2))
    assert [r["column"] for r in checked.reasons(0)] == [COUNTRY]


@pytest.mark.parametrize(("use", "as_of", "bad"), [("train", AS_OF, 2), ("train", None, 0), ("score", AS_OF, 0)])
def test_orders_on_or_after_the_point_in_time_are_quarantined(check: Check, use: Use, as_of: date, bad: int) -> None:
    days = [datetime(2024, 3, 31), datetime(2024, 4, 1), datetime(2024, 5, 1)]
    checked = check(order_table({S: pa.array(days, pa.timestamp("us"))}, rows=3), use, as_of)
    assert checked.report.quarantined == bad


def test_of_equal_rows_the_first_is_kept(check: Check) -> None:
    first = order_table(rows=3)
    second = pa.concat_tables([first, first.slice(1, 1), first.slice(0, 1), first.slice(0, 1)])
    checked = check(second)
    assert checked.accepted["row_nr"].to_pylist() == [0, 1, 2]
    assert [r["row_nr"] for r in checked.quarantined] == [3, 4, 5]
    assert "unique_row" in checked.reasons(3)[0]["rule"]


def test_equal_orders_of_a_drop_are_accepted(check: Check) -> None:
    checked = check(order_table(rows=1).take([0, 0, 0]), "score")
    assert checked.accepted["row_nr"].to_pylist() == [0, 1, 2]


def test_rows_equal_after_normalisation_are_equal(check: Check) -> None:
    one = order_table({T: ["3"]}, rows=1)
    checked = check(pa.concat_tables([one, order_table({T: ["3 estrellas"]}, rows=1)]))
    assert [r["row_nr"] for r in checked.quarantined] == [1]


def test_a_row_is_quarantined_with_all_its_reasons_and_its_own_values(check: Check) -> None:
    changed = {CLIENT: ["C000001", "bad"], T: ["3 estrellas", "9 estrellas"], AMOUNT: [1.0, -5.0], "note": ["a", "b"]}
    checked = check(order_table(changed, rows=2))
    reasons = {(r["column"], r["value"]) for r in checked.reasons(1)}
    assert reasons == {(CLIENT, "bad"), (T, "9 estrellas"), (AMOUNT, "-5.0")}
    (row,) = checked.quarantined
    assert row["row"][CLIENT] == "bad" and row["row"]["note"] == "b" and row["row"][T] == "9 estrellas"
    assert checked.report.added == ("note",)
    assert checked.report.quarantined == 1 and sum(checked.report.reasons.values()) == 3


def test_large_amounts_only_warn(check: Check) -> None:
    checked = check(order_table({AMOUNT: [2000.0, 2000.01]}, rows=2))
    ((rule, rows),) = checked.report.warnings.items()
    assert rule.startswith("facturacion_usd_val: range: <= 2000") and rows == 1
    assert checked.report.accepted == 2


def test_changes_of_values_and_types_are_reported(check: Check) -> None:
    changed = {
        T: ["3", "3 estrellas", "3.0", None],
        COUNT: [1.0, 2.0, 3.0, 4.0],
        S: ["2024-03-05", "05/03/2024", "06/03/2024", "07/03/2024"],
    }
    checked = check(order_table(changed))
    changed_stars = {k: n for k, n in checked.report.normalised.items() if k.startswith(T)}
    assert list(changed_stars.values()) == [2]
    assert {c for c, _, _ in checked.report.cast} == {COUNT, S}
    assert (COUNT, "double", "int64") in checked.report.cast


def test_order_of_columns_and_additional_columns_do_not_matter(check: Check, contract: Contract) -> None:
    table = order_table({"extra": ["x", "y"]}, rows=2)
    checked = check(table.select(list(reversed(table.column_names))))
    assert checked.report.added == ("extra",)
    assert checked.accepted.drop_columns("row_nr").schema.names == list(contract.columns)


@pytest.mark.parametrize("use", USES)
def test_a_file_without_rows_is_no_fault(check: Check, use: Use) -> None:
    checked = check(order_table(rows=4).slice(0, 0), use)
    assert (checked.report.rows, checked.report.accepted, checked.report.quarantined) == (0, 0, 0)


@pytest.mark.parametrize("text", ["O'Hara", 'a"b', "a;b--", "{x}", "ñandú", "\\", "%s", "a\nb"])
def test_unusual_characters_are_accepted_as_values(check: Check, text: str) -> None:
    checked = check(order_table({"ruta_id": [text, text], CLIENT: ["C000001", text]}, rows=2))
    assert checked.accepted["ruta_id"].to_pylist() == [text.upper()]
    assert checked.reasons(1)[0]["value"] == text
