"""The result of every quirk at every rate, as a literal table. No accepted row ever violates the contract.

Rates are one row or file, 0.5 % and all. The earlier run was healthy, so that rules of the batch have something to
compare with. night.py asserts that no row is lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from night import Night, Nights
from reference_rules import violations

from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.contract.model import Contract
from apex_ml.simulate.files import part_files
from apex_ml.simulate.process import Process
from apex_ml.simulate.quirks.apply import apply_quirk
from apex_ml.simulate.quirks.catalog import QUIRKS
from apex_ml.simulate.quirks.interface import Rate

ROWS = 4_000
RATES: tuple[Rate, ...] = ("one", 0.005, 1.0)


@dataclass(frozen=True)
class Gets:
    """The result of a run with a quirk: rows by rule, where a rule is given by the beginning of its text."""

    accepted: int = ROWS
    normalised: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    warned: dict[str, int] = field(default_factory=dict)
    fails: tuple[str, ...] = ()
    unusable: int = 0
    redelivered: int = 0
    cast: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def normalised(*rules: str, cast: tuple[str, ...] = ()) -> list[Gets]:
    return [Gets(normalised=dict.fromkeys(rules, n), cast=cast) for n in (1, 20, ROWS)]


def quarantined(*rules: str, cast: tuple[str, ...] = ()) -> list[Gets]:
    """One row and 0.5 % are below the limit of 1 %; all rows are not."""
    few = [Gets(accepted=ROWS - n, quarantined=dict.fromkeys(rules, n), cast=cast) for n in (1, 20)]
    words = ("4000 of 4000 rows (100.00%) would be quarantined, more than the limit of 1.00%",)
    return [*few, Gets(accepted=0, quarantined=dict.fromkeys(rules, ROWS), fails=words, cast=cast)]


def cannot_be_used(words: str) -> list[Gets]:
    one = Gets(accepted=3_000, unusable=1, fails=("1 of 4 raw files cannot be used", words))
    return [one, one, Gets(accepted=0, unusable=4, fails=("4 of 4 raw files cannot be used", words))]


STARS = "estrellas_txt: trim + upper + strip_suffix"
LEVELS = tuple(f"{c}: trim + upper" for c in ("pais_cd", "tipo_cliente_cd", "madurez_digital_cd", "canal_pedido_cd"))
UNIQUE = "all columns: unique_row"
DAY = ("fecha_pedido_dt",)
MOVED = ("category_share: tipo_cliente_cd = TIENDA", "category_share: madurez_digital_cd = BAJA")

# quirk: results for one row or file, for 0.5 %, and for all
TABLE: dict[str, list[Gets]] = {
    "nulls": [
        Gets(),
        Gets(),
        Gets(fails=("null_rate: tipo_cliente_cd: 100.0% nulls", "null_rate: cajas_fisicas: 100.0% nulls")),
    ],
    "estrellas_suffix": normalised(STARS),
    "estrellas_decimal": normalised(STARS),
    "case": normalised(*LEVELS),
    "white_space": normalised(*LEVELS),
    # a column is text in the whole file: the days of a changed file are read from text in any form
    "date_strings": [
        Gets(normalised={"fecha_pedido_dt: date_formats": 1_000}, cast=DAY),
        Gets(normalised={"fecha_pedido_dt: date_formats": ROWS}, cast=DAY),
        Gets(normalised={"fecha_pedido_dt: date_formats": ROWS}, cast=DAY),
    ],
    "unknown_country": quarantined("pais_cd: domain"),
    "new_channel": quarantined("canal_pedido_cd: domain"),
    "negative_amounts": quarantined("facturacion_usd_val: range: >= 0", "cajas_fisicas: range: >= 0"),
    # 10 amounts are so small that a thousand times as much is not unusual
    "outlier_amounts": [Gets(warned={"facturacion_usd_val: range: <= 2000": n}) for n in (1, 20, 3_990)],
    "changing_attributes": [Gets(), Gets(), Gets(fails=MOVED)],
    # every chosen row occurs ten times
    "duplicated_rows": [
        Gets(quarantined={UNIQUE: 9}),
        Gets(quarantined={UNIQUE: 180}, fails=("180 of 4180 rows (4.31%) would be quarantined",)),
        Gets(quarantined={UNIQUE: 36_000}, fails=("36000 of 40000 rows (90.00%) would be quarantined",)),
    ],
    "int_as_fraction": quarantined("materiales_distintos_val: type", cast=("materiales_distintos_val",)),
    "int_as_double": [Gets(cast=("materiales_distintos_val",))] * 3,
    "double_as_int": [Gets(cast=("cajas_fisicas",))] * 3,
    "all_null_column": [
        Gets(fails=(f"null_rate: cajas_fisicas: {share} nulls, at most 0.0% before",), cast=("cajas_fisicas",))
        for share in ("25.0%", "25.0%", "100.0%")
    ],
    "missing_column": cannot_be_used("frecuencia_visitas_cd (string) → nothing"),
    "extra_column": [Gets(added=("promocion_txt",))] * 3,
    "reordered_columns": [Gets()] * 3,
    "dictionary_strings": [Gets()] * 3,
    "tz_aware": [Gets(cast=DAY)] * 3,
    # with all rows late, the four files are left without any, and equal
    "late_files": [Gets(), Gets(), Gets(redelivered=3)],
    "duplicated_file": [Gets(redelivered=1), Gets(redelivered=1), Gets(redelivered=4)],
    # the step elt uses a row in two files once
    "redelivered_file": [Gets(accepted=5_000), Gets(accepted=5_000), Gets(accepted=8_000)],
    "truncated_file": cannot_be_used("a truncated parquet file"),
    "empty_file": [Gets(), Gets(), Gets(redelivered=3)],
    "zero_byte_file": [
        Gets(unusable=n, fails=("1 of 5 raw files cannot be used", "not a parquet file (0 bytes)")) for n in (1, 1, 4)
    ],
}


def test_the_table_knows_every_quirk() -> None:
    assert sorted(TABLE) == sorted(QUIRKS)
    assert {len(row) for row in TABLE.values()} == {len(RATES)}


def assert_rules(counts: dict[str, int], expected: dict[str, int]) -> None:
    assert len(counts) == len(expected), counts
    for begin, rows in expected.items():
        assert [n for rule, n in counts.items() if rule.startswith(begin)] == [rows], counts


def assert_valid(night: Night, contract: Contract) -> None:
    assert [v for table in night.accepted.values() for v in violations(table, contract, "train")] == []


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("quirk", list(TABLE))
def test_the_result_of_a_quirk(
    nights: Nights, folder: Path, process: Process, contract: Contract, quirk: str, rate: Rate
) -> None:
    gets = TABLE[quirk][RATES.index(rate)]
    apply_quirk(folder, quirk, rate, 1, process)
    night = nights.run(folder, "night")
    assert_valid(night, contract)
    assert sum(t.num_rows for t in night.accepted.values()) == gets.accepted
    assert_rules(night.total("normalised"), gets.normalised)
    assert_rules(night.total("reasons"), gets.quarantined)
    assert_rules(night.total("warnings"), gets.warned)
    assert len(night.unusable) == gets.unusable
    reports = night.reports.values()
    assert {c for r in reports for c, _, _ in r.cast} == set(gets.cast)
    assert {c for r in reports for c in r.added} == set(gets.added)
    assert not any(r.filled for r in reports)
    assert bool(night.error) == bool(gets.fails), night.error
    for words in gets.fails:
        assert words in night.error
    if not gets.fails:
        assert len(night.result["redelivered"]) == gets.redelivered
        warned = [w for w in night.result["batch_warnings"] if not w.startswith("freshness")]
        assert warned == []


def test_a_quirk_that_only_differs_in_form_gives_the_same_rows(
    nights: Nights, history: tuple[Path, Night], folder: Path, process: Process
) -> None:
    quirks = ("estrellas_suffix", "case", "white_space", "int_as_double", "dictionary_strings", "extra_column")
    for quirk in quirks:
        apply_quirk(folder, quirk, 0.3, 1, process)
    assert nights.run(folder, "night").rows.equals(history[1].rows)


def test_neither_the_order_of_files_nor_of_columns_matters(
    nights: Nights, folder: Path, process: Process, tmp_path: Path
) -> None:
    for quirk in ("unknown_country", "estrellas_suffix", "outlier_amounts", "int_as_double", "date_strings"):
        apply_quirk(folder, quirk, 0.002, 1, process)
    first = nights.run(folder, "first")
    other = tmp_path / "other"
    other.mkdir()
    for nr, path in enumerate(reversed(part_files(folder))):
        table = pq.read_table(path)
        pq.write_table(table.select(table.column_names[::-1]), other / f"{nr}.parquet")
    second = nights.run(other, "second")
    assert first.quarantined and first.rows.equals(second.rows)
    for kind in ("reasons", "warnings", "normalised"):
        assert first.total(kind) == second.total(kind)
    for figure in ("rows", "accepted", "quarantined", "as_of", "profile"):
        assert first.result[figure] == second.result[figure]


def test_a_column_of_whole_numbers_beside_one_of_doubles_in_either_order(
    nights: Nights, history: tuple[Path, Night], folder: Path, process: Process
) -> None:
    first, *_, last = part_files(folder)
    apply_quirk(first, "int_as_double", 1.0, 1, process)
    ahead = nights.run(folder, "ahead")
    first.rename(first.with_name("z.parquet"))  # now it is the last one, and its name has no meaning
    behind = nights.run(folder, "behind")
    assert ahead.rows.equals(behind.rows) and ahead.rows.equals(history[1].rows)
    assert last.exists() and ahead.result["profile"] == behind.result["profile"]


TIMES: dict[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {
    "INT96": lambda days: days.cast(pa.timestamp("ns")),
    "ms": lambda days: days.cast(pa.timestamp("ms")),
    "us": lambda days: days.cast(pa.timestamp("us")),
    "date32": lambda days: days.cast(pa.date32()),
    "date64": lambda days: days.cast(pa.date32()).cast(pa.date64()),
    "string": lambda days: pc.strftime(days.cast(pa.timestamp("s")), format="%d/%m/%Y"),
    "east": lambda days: pc.assume_timezone(days.cast(pa.timestamp("us")), "Asia/Kathmandu"),
    "west": lambda days: pc.assume_timezone(days.cast(pa.timestamp("us")), "America/Guatemala"),
    "dictionary": lambda days: pc.strftime(days.cast(pa.timestamp("s")), format="%Y-%m-%d").dictionary_encode(),
}


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Guatemala"])
def test_a_day_is_the_same_however_it_is_stored_and_wherever_it_is_read(
    con: duckdb.DuckDBPyConnection, healthy_orders: pa.Table, contract: Contract, tmp_path: Path, zone: str
) -> None:
    con.execute(f"SET TimeZone = '{zone}'")
    orders = healthy_orders.slice(0, 300)
    expected = orders.column("fecha_pedido_dt").cast(pa.date32()).to_pylist()
    place = orders.schema.get_field_index("fecha_pedido_dt")
    for form, store in TIMES.items():
        table = orders.set_column(place, "fecha_pedido_dt", store(orders.column("fecha_pedido_dt")))
        path, accepted = tmp_path / f"{form}.parquet", tmp_path / "accepted.parquet"
        pq.write_table(table, path, use_deprecated_int96_timestamps=form == "INT96", store_schema=form != "INT96")
        check_file(
            make_strict(con),
            path,
            contract,
            "train",
            as_of=None,
            accepted=accepted,
            quarantined=tmp_path / "bad.parquet",
        )
        assert pq.read_table(accepted).column("fecha_pedido_dt").to_pylist() == expected, form


def test_a_jump_to_eighty_percent_nulls_is_refused(nights: Nights, folder: Path, process: Process) -> None:
    apply_quirk(folder, "nulls", 0.8, 1, process, columns=["tipo_cliente_cd"])
    night = nights.run(folder, "night")
    assert night.error.endswith("null_rate: tipo_cliente_cd: 80.0% nulls, at most 0.0% before; 5.0% more is allowed")


def test_a_missing_measure_is_filled_and_reported(nights: Nights, folder: Path, process: Process) -> None:
    for path in part_files(folder):
        pq.write_table(pq.read_table(path).drop_columns(["cajas_fisicas"]), path)
    night = nights.run(folder, "night")
    assert {r.filled for r in night.reports.values()} == {("cajas_fisicas",)}
    assert "null_rate: cajas_fisicas: 100.0% nulls" in night.error


def test_a_file_delivered_ten_times_counts_once(nights: Nights, folder: Path, history: tuple[Path, Night]) -> None:
    first = part_files(folder)[0]
    for nr in range(9):
        shutil.copy(first, first.with_name(f"again-{nr}.parquet"))
    night = nights.run(folder, "night")
    assert len(night.result["redelivered"]) == 9
    assert night.rows.equals(history[1].rows)


def test_a_batch_of_a_quarter_of_the_rows_is_refused(nights: Nights, folder: Path) -> None:
    files = part_files(folder)
    for path in files[1:]:
        path.unlink()
    night = nights.run(folder, "night")
    assert "row_count: 1,000 rows; the median of 1 recent batch is 4,000; 2,000 to 8,000 are allowed" in night.error


IN_A_DROP = [
    # quirk, what train and score make of one row of it
    ("unknown_country", "pais_cd: domain"),
    ("new_channel", "canal_pedido_cd: domain"),
]


@pytest.mark.parametrize(("quirk", "rule"), IN_A_DROP)
def test_unknown_levels_are_quarantined_for_training_and_scored_in_a_drop(
    con: duckdb.DuckDBPyConnection, healthy_orders: pa.Table, contract: Contract, process: Process, tmp_path: Path,
    quirk: str, rule: str,
) -> None:  # fmt: skip
    path, accepted, bad = (tmp_path / f"{name}.parquet" for name in ("drop", "accepted", "bad"))
    pq.write_table(apply_quirk(healthy_orders, quirk, 0.5, 1, process), path)
    train = check_file(make_strict(con), path, contract, "train", as_of=None, accepted=accepted, quarantined=bad)
    assert (train.accepted, train.quarantined) == (2_000, 2_000)
    assert_rules(train.reasons, {rule: 2_000})
    bad.unlink()
    score = check_file(make_strict(con), path, contract, "score", as_of=None, accepted=accepted, quarantined=bad)
    assert (score.accepted, score.quarantined, score.reasons) == (ROWS, 0, {})
    assert_rules(score.warnings, {rule: 2_000})
    assert not bad.exists() and violations(pq.read_table(accepted), contract, "score") == []
    value = process.quirks[quirk].value
    column = process.quirks[quirk].columns[0]
    assert pc.sum(pc.equal(pq.read_table(accepted).column(column), value)).as_py() == 2_000


def test_equal_rows_of_a_drop_are_warned_about(
    con: duckdb.DuckDBPyConnection, healthy_orders: pa.Table, contract: Contract, tmp_path: Path
) -> None:
    path, accepted, bad = (tmp_path / f"{name}.parquet" for name in ("drop", "accepted", "bad"))
    rows = np.concatenate([np.arange(100), np.arange(30), np.arange(30)])
    pq.write_table(healthy_orders.take(pa.array(rows)), path)
    report = check_file(
        make_strict(con), path, contract, "score", as_of=None, accepted=accepted, quarantined=bad, with_row_nr=True
    )
    assert (report.accepted, report.quarantined) == (160, 0)
    assert_rules(report.warnings, {UNIQUE: 60})
    assert pq.read_table(accepted).column("row_nr").to_pylist() == list(range(160))
