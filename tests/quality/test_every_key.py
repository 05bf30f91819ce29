"""Every key of the contract's schema at work: read from YAML, compiled, run on a file, in a request, in the suite.

A key, or a value of a key that takes few of them, that no test here exercises fails `test_every_key_is_exercised`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import SortedRows
from apex_ml.adapters.duckdb.derived_columns import request_reader
from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.profile import profile_batch
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.expectations.project import frame_of, make_suite
from apex_ml.adapters.storage.time_zones import on_own_clock
from apex_ml.contract.example import example_row
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import USES, Use
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.contract.suites import suite_name
from apex_ml.core.batch import Profile, check_batch
from apex_ml.core.estimator import Encoder
from apex_ml.core.evaluation import row_losses
from apex_ml.core.features import feature_columns
from apex_ml.core.leakage import SingleFeature, refuse_leaks
from apex_ml.core.promotion import Contender, Holdout, PromotionDecision, Serving, decide
from apex_ml.core.split import temporal
from apex_ml.core.strategies.legacy import legacy_identifiers
from apex_ml.errors import ConfigError, DataError
from apex_ml.services import score_file
from apex_ml.services.repeated_keys import settle_repeated_keys
from apex_ml.services.runs import FolderRuns
from apex_ml.settings import Settings
from apex_ml.sql.quarantine import select_drop_quarantine
from apex_ml.sql.quote import identifiers, literal
from apex_ml.sql.row_checks import ROW_NR, compile_row_checks
from apex_ml.steps import validate
from apex_ml.steps.elt import make_examples
from tests.support.schema import SCHEMA

AS_OF = date(2024, 6, 1)
DAY = date(2024, 3, 5)
NOON = datetime(2024, 3, 5, 12, 30)
COLUMNS = {
    "client": "{description: Who orders., type: string, role: entity}",
    "day": "{description: The day., type: date, role: timestamp}",
    "kind": "{description: Predicted., type: string, role: target, required: {train: true, score: false},"
    " nullable: {train: false, score: true}, domain: {levels: [A, B], closed: {train: true, score: false}}}",
}
PARTS = {
    "name": "shop",
    "version": "1",
    "description": "Orders of a shop.",
    "rules": "[]",
    "quarantine": "{limit: 0.5}",
    "batch": "{recent: 3}",
    "features": "{grain: every_row}",
    "split": "{fractions: {train: 0.6, validation: 0.2, test: 0.2}}",
    "promotion": "{margin: 0.001}",
}


def contract_of(folder: Path, columns: dict[str, str] | None = None, **parts: str) -> Contract:
    """A contract read from a file: the three required columns, the given ones, and parts by their keys."""
    lines = [f"{key}: {text}" for key, text in {**PARTS, **parts}.items()]
    lines += ["columns:", *(f"  {name}: {text}" for name, text in {**COLUMNS, **(columns or {})}.items())]
    path = folder / "contract.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return load_contract(path)


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with engine.connect(Settings.load(home=tmp_path_factory.mktemp("home"))) as connection:
        yield connection


def table_of(rows: int, columns: dict[str, Any]) -> pa.Table:
    """Rows in which nothing is wrong with client, day and kind, and the given columns."""
    plain: dict[str, Any] = {
        "client": pa.array([f"c{n}" for n in range(rows)]),
        "day": pa.array([DAY] * rows),
        "kind": pa.array(["A"] * rows),
    }
    return pa.table({**plain, **columns})


# the result for a value


@dataclass(frozen=True)
class Bad:
    """Quarantined, or refused in a request."""

    rule: str
    request: str = ""
    """The rule in a request, if its text differs."""


@dataclass(frozen=True)
class Warned:
    value: Any
    rule: str


ASIDE = object()
"""A value that JSON does not have."""


@dataclass(frozen=True)
class Case:
    """A column `x` as YAML, what is delivered of it, and the outcome: in training, in a drop and in a request."""

    keys: tuple[str, ...]
    column: str
    delivered: pa.Array
    train: list[Any]
    score: list[Any] | None = None
    request: list[Any] | None = None
    """Values of a request, where they are not those delivered."""

    def expected(self, use: Use) -> list[Any]:
        return self.train if use == "train" or self.score is None else self.score


def column(kind: str, role: str = "attribute", **more: str) -> str:
    return (
        f"{{description: A thing., type: {kind}, role: {role}" + "".join(f", {k}: {v}" for k, v in more.items()) + "}"
    )


NULL = "true"
CLOSED = "domain: one of a, b"
CASES = {
    "string": Case(
        ("Column.type=string", "Column.role=attribute"), column("string"), pa.array(["a", " b"]), ["a", " b"]
    ),
    "double": Case(
        ("Column.type=double",),
        column("double"),
        pa.array([1.5, 2.0, float("nan")]),
        [1.5, 2.0, Bad("type: not double")],
        request=[1.5, 2, ASIDE],
    ),
    "int64": Case(
        ("Column.type=int64",),
        column("int64"),
        pa.array([3.0, -4.0, 3.5]),
        [3, -4, Bad("type: not int64")],
        request=[3, -4, 3.5],
    ),
    "date": Case(
        ("Column.type=date",),
        column("date"),
        pa.array([datetime(2024, 2, 29), datetime(2024, 2, 29, 12)], pa.timestamp("us")),
        [date(2024, 2, 29), Bad("type: not date")],
        request=["2024-02-29", "2024-02-29 12:00"],
    ),
    "not nullable": Case(
        ("Column.nullable",), column("string", nullable="false"), pa.array(["a", None]), ["a", Bad("not_null")]
    ),
    "nullable": Case(("Column.nullable",), column("string", nullable="true"), pa.array(["a", None]), ["a", None]),
    "nullable in training": Case(
        ("_BoolPerUse.train", "_BoolPerUse.score"),
        column("string", nullable="{train: true, score: false}"),
        pa.array(["a", None]),
        ["a", None],
        ["a", Bad("not_null")],
    ),
    "trim": Case(
        ("Column.normalise=trim",),
        column("string", normalise="[trim]", nullable=NULL),
        pa.array([" a\t", "b", "\u00a0c ", "  "]),
        ["a", "b", "c", None],
    ),
    "upper": Case(
        ("Column.normalise=upper",), column("string", normalise="[upper]"), pa.array(["lmi ", "Ñ"]), ["LMI ", "Ñ"]
    ),
    "strip_suffix": Case(
        ("StripSuffix.strip_suffix",),
        column("string", normalise="[{strip_suffix: ' kg'}, {strip_suffix: \"'s\"}]"),
        pa.array(["3 kg", "3", " kg", "it's"]),
        ["3", "3", "", "it"],
    ),
    "map": Case(
        ("MapValues.map",),
        column("string", normalise="[{map: {N: Norte, \"O'Hara\": 'Ö \"x\"', 'NO': 'Norway'}}]"),
        pa.array(["N", "O'Hara", "NO", "n", "Norte"]),
        ["Norte", 'Ö "x"', "Norway", "n", "Norte"],
    ),
    "map into a domain": Case(
        ("MapValues.map", "Domain.levels", "Domain.closed"),
        column("string", normalise="[trim, {map: {alpha: a, BETA: b}}]", domain="{levels: [a, b], closed: true}"),
        pa.array([" alpha", "BETA ", "a", "c"]),
        ["a", "b", "a", Bad(CLOSED)],
    ),
    "map and a pattern": Case(
        ("MapValues.map", "PatternCheck.regex"),
        column("string", normalise="[upper, {map: {NONE: C0}}]", checks="[{rule: pattern, regex: 'C[0-9]'}]"),
        pa.array(["none", "c1", "x"]),
        ["C0", "C1", Bad("pattern: C[0-9]")],
    ),
    "date_formats": Case(
        ("DateFormats.date_formats",),
        column("date", normalise="[{date_formats: ['%d/%m/%Y', '%Y%m%d']}]"),
        pa.array(["05/03/2024", "20240305", "2024-03-05"]),
        [DAY, DAY, Bad("type: not date")],
    ),
    "day_of_timestamp": Case(
        ("Column.normalise=day_of_timestamp",),
        column("date", normalise="[day_of_timestamp]"),
        pa.array([datetime(2024, 3, 5, 23, 59), datetime(2024, 3, 5)], pa.timestamp("ms")),
        [DAY, DAY],
        request=["2024-03-05", "2024-03-05"],
    ),
    "timezone": Case(
        ("Column.timezone",),
        column("date", timezone="Europe/Madrid"),
        pa.array([datetime(2024, 3, 4, 23), datetime(2024, 7, 4, 22)], pa.timestamp("us", "UTC")),
        [DAY, date(2024, 7, 5)],
        request=["2024-03-05", "2024-07-05"],
    ),
    "a closed domain": Case(
        ("Domain.levels", "Domain.closed", "Column.domain"),
        column("string", domain="{levels: [a, b], closed: true}"),
        pa.array(["a", "b", "A"]),
        ["a", "b", Bad(CLOSED)],
    ),
    "a domain open in a drop": Case(
        ("Domain.closed", "_BoolPerUse.train", "_BoolPerUse.score"),
        column("string", domain="{levels: [a, b], closed: {train: true, score: false}}"),
        pa.array(["a", "c"]),
        ["a", Bad(CLOSED)],
        ["a", Warned("c", CLOSED)],
    ),
    "levels with quotes": Case(
        ("Domain.levels",),
        column("string", domain="{levels: [\"it's\", 'a \"b\"', ' x '], closed: true}"),
        pa.array(["it's", 'a "b"', " x ", "x"]),
        ["it's", 'a "b"', " x ", Bad("domain")],
    ),
    "range of a double": Case(
        ("RangeCheck.rule=range", "RangeCheck.min", "RangeCheck.max", "Column.checks", "RangeCheck.severity=error"),
        column("double", checks="[{rule: range, min: -0.5, max: 1.0e+3, severity: error}]"),
        pa.array([-0.5, 1000.0, -0.51, 1000.5]),
        [-0.5, 1000.0, Bad("range: >= -0.5"), Bad("range: >= -0.5 and <= 1000")],
    ),
    "range of an integer": Case(
        ("RangeCheck.min", "RangeCheck.max"),
        column("int64", checks="[{rule: range, min: 2}, {rule: range, max: 9007199254740992}]"),
        pa.array([2, 2**53, 1, 2**53 + 1]),
        [2, 2**53, Bad("range: >= 2"), Bad("range: <= 9007199254740992")],
    ),
    "range of a date": Case(
        ("RangeCheck.min", "RangeCheck.max"),
        column("date", checks="[{rule: range, min: 2020-01-01, max: 2024-12-31}]"),
        pa.array([date(2020, 1, 1), date(2024, 12, 31), date(2019, 12, 31)]),
        [date(2020, 1, 1), date(2024, 12, 31), Bad("range: >= 2020-01-01 and <= 2024-12-31")],
    ),
    "a range that warns": Case(
        ("RangeCheck.severity=warning",),
        column("int64", checks="[{rule: range, max: 5, severity: warning}]"),
        pa.array([5, 6]),
        [5, Warned(6, "range: <= 5")],
    ),
    "a range that warns in a drop": Case(
        ("_SeverityPerUse.train=error", "_SeverityPerUse.score=warning"),
        column("double", checks="[{rule: range, max: 5, severity: {train: error, score: warning}}]"),
        pa.array([5.0, 6.0]),
        [5.0, Bad("range: <= 5")],
        [5.0, Warned(6.0, "range: <= 5")],
    ),
    "a pattern that warns in training": Case(
        ("_SeverityPerUse.train=warning", "_SeverityPerUse.score=error", "PatternCheck.rule=pattern"),
        column("string", checks="[{rule: pattern, regex: 'C[0-9]+', severity: {train: warning, score: error}}]"),
        pa.array(["C1", "D1"]),
        ["C1", Warned("D1", "pattern: C[0-9]+")],
        ["C1", Bad("pattern: C[0-9]+")],
    ),
    "a pattern": Case(
        ("PatternCheck.regex", "PatternCheck.severity=error"),
        column("string", checks="[{rule: pattern, regex: 'a|bc', severity: error}]"),
        pa.array(["a", "bc", "ab", "a\n", "xa"]),
        ["a", "bc", Bad("pattern"), Bad("pattern"), Bad("pattern")],
    ),
    "a pattern with anchors": Case(
        ("PatternCheck.regex", "PatternCheck.severity=warning"),
        column("string", checks="[{rule: pattern, regex: '^[A-Z]{2}$', severity: warning}]"),
        pa.array(["PE", "PE\n", "pe", "XPE"]),
        ["PE", *(Warned(v, "pattern") for v in ("PE\n", "pe", "XPE"))],
    ),
    "a pattern with flags": Case(
        ("PatternCheck.regex",),
        column("string", checks=r"[{rule: pattern, regex: '(?i)c\d+'}]"),
        pa.array(["c1", "C22", "c", "c٣"]),
        ["c1", "C22", Bad("pattern"), Bad("pattern")],
    ),
    "boolean": Case(
        ("Column.type=boolean",),
        column("boolean", nullable=NULL),
        pa.array([True, False, None]),
        [True, False, None],
    ),
    "a boolean as text": Case(
        ("Column.type=boolean",),
        column("boolean"),
        pa.array(["true", " FALSE", "yes"]),
        [True, False, Bad("type: not boolean")],
        request=[True, False, "true"],
    ),
    "a boolean as a number": Case(
        ("Column.type=boolean",),
        column("boolean"),
        pa.array([1.0, 0.0, 2.0]),
        [True, False, Bad("type: not boolean")],
        request=[True, False, 1],
    ),
    "decimal": Case(
        ("Column.type=decimal", "Column.decimals"),
        column("decimal", decimals="2"),
        pa.array([Decimal("1.500"), Decimal("-0.010"), Decimal("1.234")]),
        [Decimal("1.50"), Decimal("-0.01"), Bad("type: not decimal")],
        request=["1.500", -0.01, "1.234"],
    ),
    "a decimal as a float": Case(
        ("Column.type=decimal",),
        column("decimal", decimals="1"),
        pa.array([0.1, 1e15, 0.25, float("nan"), 1e300]),
        [Decimal("0.1"), Decimal("1000000000000000.0"), *[Bad("type: not decimal")] * 3],
        request=[0.1, 1e15, 0.25, ASIDE, 1e300],
    ),
    "a decimal as text": Case(
        ("Column.type=decimal",),
        column("decimal", decimals="1"),
        pa.array([" 7", "+7.50", "-0.0", "7.55", "seven", "1e3"]),
        [Decimal("7.0"), Decimal("7.5"), Decimal("0.0"), *[Bad("type: not decimal")] * 3],
    ),
    "range of a decimal": Case(
        ("RangeCheck.min", "RangeCheck.max"),
        column("decimal", decimals="1", checks="[{rule: range, min: 0.1, max: 3}]"),
        pa.array([Decimal("0.1"), Decimal("3.0"), Decimal("0.0"), Decimal("3.1")]),
        [Decimal("0.1"), Decimal("3.0"), Bad("range: >= 0.1 and <= 3"), Bad("range: >= 0.1 and <= 3")],
        request=[0.1, 3, 0, "3.1"],
    ),
    "timestamp": Case(
        ("Column.type=timestamp",),
        column("timestamp"),
        pa.array([NOON, NOON.replace(microsecond=7)], pa.timestamp("us")),
        [NOON, NOON.replace(microsecond=7)],
    ),
    "a timestamp of nanoseconds": Case(
        ("Column.type=timestamp",),
        column("timestamp"),
        pa.array([1709641800_000_001_000, 1709641800_000_000_001], pa.timestamp("ns")),
        [NOON.replace(microsecond=1), Bad("type: not timestamp")],
        request=["2024-03-05T12:30:00.000001", "2024-03-05T12:30:00.000000001"],
    ),
    "a timestamp from days": Case(
        ("Column.type=timestamp",),
        column("timestamp"),
        pa.array([DAY]),
        [datetime(2024, 3, 5)],
    ),
    "an instant": Case(
        ("Column.type=timestamp", "Column.timezone"),
        column("timestamp", timezone="Europe/Madrid", nullable=NULL),
        pa.array([NOON, None], pa.timestamp("us", "America/Lima")),
        [NOON.replace(tzinfo=UTC), None],
        request=["2024-03-05T07:30:00-05:00", None],
    ),
    "a time on the clock of a zone": Case(
        ("Column.type=timestamp", "Column.timezone"),
        column("timestamp", timezone="Europe/Madrid"),
        # in the night of 31 March the clock skips 02:30; in that of 27 October it shows 02:30 twice
        pa.array([NOON, datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30)], pa.timestamp("ms")),
        [
            datetime(2024, 3, 5, 11, 30, tzinfo=UTC),
            Bad("type: not timestamp"),
            datetime(2024, 10, 27, 1, 30, tzinfo=UTC),
        ],
    ),
    "a timestamp as text": Case(
        ("Column.type=timestamp", "DateFormats.date_formats"),
        column("timestamp", normalise="[{date_formats: ['%d/%m/%Y %H:%M']}]"),
        pa.array(["05/03/2024 12:30", "2024-03-05 12:30"]),
        [NOON, Bad("type: not timestamp")],
    ),
    "times with offsets": Case(
        ("Column.type=timestamp", "DateFormats.date_formats", "Column.timezone"),
        column(
            "timestamp",
            timezone="Europe/Madrid",
            normalise="[{date_formats: ['%Y-%m-%dT%H:%M:%S%z', '%Y-%m-%d %H:%M']}]",
        ),
        # in the night of 31 March the clock of Madrid skips 02:30, but not with an offset
        pa.array(
            [
                "2024-03-05T13:30:00+02:00",
                "2024-03-05T11:30:00Z",
                "2024-03-05T04:00:00-0730",
                "2024-03-05 12:30",
                "2024-03-31 02:30",
                "2024-03-05T11:30:00+02:60",
                "2024-03-05T11:30:00+16",
            ]
        ),
        [
            *[datetime(2024, 3, 5, 11, 30, tzinfo=UTC)] * 4,
            Bad("type: not timestamp; the clock of Europe/Madrid skips this time (daylight saving)"),
            *[Bad("type: not timestamp")] * 2,
        ],
    ),
    "days of instants as text": Case(
        ("DateFormats.date_formats", "Column.timezone"),
        column("date", timezone="Europe/Madrid", normalise="[{date_formats: ['%Y-%m-%dT%H:%M:%S%z']}]"),
        pa.array(["2024-03-04T23:00:00Z", "2024-03-05T23:59:59+01:00", "2024-03-05T00:00:00"]),
        [DAY, DAY, Bad("type: not date")],
    ),
    "nanoseconds": Case(
        ("Column.type=timestamp",),
        column("timestamp"),
        pa.array([1_709_641_800_000_000_000, 1_709_641_800_000_000_001], pa.timestamp("ns")),
        [NOON, Bad("type: not timestamp without loss; it has nanoseconds")],
        request=["2024-03-05T12:30:00.000000000", "2024-03-05T12:30:00.000000001"],
    ),
    "microsecond_of_timestamp": Case(
        ("Column.normalise=microsecond_of_timestamp",),
        column("timestamp", normalise="[microsecond_of_timestamp]"),
        pa.array([1_709_641_800_000_000_999, -1], pa.timestamp("ns")),
        [NOON, datetime(1969, 12, 31, 23, 59, 59, 999_999)],
        request=["2024-03-05T12:30:00.000000999", "1969-12-31 23:59:59.999999999"],
    ),
    "microsecond_of_timestamp of texts": Case(
        ("Column.normalise=microsecond_of_timestamp", "DateFormats.date_formats"),
        column(
            "timestamp",
            timezone="UTC",
            normalise="[microsecond_of_timestamp, {date_formats: ['%Y-%m-%dT%H:%M:%S.%f%z']}]",
        ),
        pa.array(["2024-03-05T12:30:00.1234567Z", "2024-03-05T12:30:00.5Z", "2024-03-05T12:30:00.Z"]),
        [
            datetime(2024, 3, 5, 12, 30, 0, 123_456, tzinfo=UTC),
            datetime(2024, 3, 5, 12, 30, 0, 500_000, tzinfo=UTC),
            Bad("type: not timestamp"),
        ],
    ),
    "range of a timestamp": Case(
        ("RangeCheck.min", "RangeCheck.max"),
        column("timestamp", timezone="Europe/Madrid", checks="[{rule: range, min: 2024-01-01, max: 2024-12-31}]"),
        pa.array([datetime(2023, 12, 31, 23), datetime(2024, 12, 30, 23, 0, 1)], pa.timestamp("us", "UTC")),
        [
            datetime(2023, 12, 31, 23, tzinfo=UTC),
            Bad("range: >= 2024-01-01 and <= 2024-12-31"),
        ],
    ),
    "range to a time of day": Case(
        ("RangeCheck.min", "RangeCheck.max"),
        column("timestamp", checks="[{rule: range, max: 2024-03-05 12:30:00}]"),
        pa.array([NOON, NOON.replace(second=1)], pa.timestamp("us")),
        [NOON, Bad("range: <= 2024-03-05 12:30:00")],
    ),
    "levels of an integer": Case(
        ("Domain.levels",),
        column("int64", domain="{levels: [0, 1, -3], closed: true}", nullable=NULL),
        pa.array([0, -3, None, 2]),
        [0, -3, None, Bad("domain: one of 0, 1, -3")],
    ),
    "levels of a boolean": Case(
        ("Domain.levels",),
        column("boolean", domain="{levels: [true], closed: true}", nullable=NULL),
        pa.array([True, None, False]),
        [True, None, Bad("domain: one of true")],
    ),
    "levels of a decimal": Case(
        ("Domain.levels",),
        column("decimal", decimals="2", domain="{levels: [0.5, 1], closed: {train: true, score: false}}"),
        pa.array([Decimal("0.50"), Decimal("1.00"), Decimal("2.00")]),
        [Decimal("0.50"), Decimal("1.00"), Bad("domain: one of 0.50, 1.00")],
        [Decimal("0.50"), Decimal("1.00"), Warned(Decimal("2.00"), "domain: one of 0.50, 1.00")],
        request=["0.5", 1, "2"],
    ),
    "levels of a day that is fine": Case(
        ("Domain.levels",),
        column("date", domain="{levels: [2024-03-05], closed: true}", checks="[{rule: range, min: 2024-03-05}]"),
        pa.array([DAY, DAY]),
        [DAY, DAY],
    ),
    "levels of a date": Case(
        ("Domain.levels",),
        column("date", domain="{levels: [2024-03-05], closed: true}"),
        pa.array([DAY, date(2024, 3, 6)]),
        [DAY, Bad("domain: one of 2024-03-05")],
    ),
    "a key": Case(("Column.role=key",), column("int64", "key"), pa.array([7, 7, None]), [7, 7, Bad("not_null")]),
    "passed through": Case(
        ("Column.role=passthrough",),
        column("boolean", "passthrough", nullable=NULL),
        pa.array([True, None]),
        [True, None],
    ),
    "a measure": Case(
        ("Column.role=measure", "Column.decimals", "Column.unit"),
        column("double", "measure", decimals="2", unit="USD"),
        pa.array([1.25, 2.0]),
        [1.25, 2.0],
    ),
}


def checked(
    con: duckdb.DuckDBPyConnection, folder: Path, contract: Contract, use: Use, table: pa.Table
) -> tuple[FileReport, list[dict[str, Any] | list[str]]]:
    """The report, and of each row its accepted values, or its reasons."""
    path, accepted, bad = (folder / f"{name}.parquet" for name in ("file", "accepted", "bad"))
    bad.unlink(missing_ok=True)
    pq.write_table(table, path)
    report = check_file(
        make_strict(con), path, contract, use, as_of=AS_OF, accepted=accepted, quarantined=bad, with_row_nr=True
    )  # fmt: skip
    rows: dict[int, Any] = {row.pop(ROW_NR): row for row in pq.read_table(accepted).to_pylist()}
    for row in pq.read_table(bad).to_pylist() if bad.exists() else ():
        rows[row["row_nr"]] = [f"{r['column']}: {r['rule']}" for r in json.loads(row["reasons"])]
    return report, [rows[nr] for nr in sorted(rows)]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", CASES)
def test_a_key_of_a_column_in_a_file(con: duckdb.DuckDBPyConnection, tmp_path: Path, name: str, use: Use) -> None:
    case = CASES[name]
    contract = contract_of(tmp_path, {"x": case.column})
    report, rows = checked(con, tmp_path, contract, use, table_of(len(case.delivered), {"x": case.delivered}))
    expected = case.expected(use)
    for result, requested in zip(rows, expected, strict=True):
        if isinstance(requested, Bad):
            assert isinstance(result, list) and result[0].startswith(f"x: {requested.rule.split(' >')[0]}"), result
        else:
            assert isinstance(result, dict), result
            assert result["x"] == (requested.value if isinstance(requested, Warned) else requested)
    assert sum(report.warnings.values()) == sum(isinstance(e, Warned) for e in expected)


@pytest.mark.parametrize("name", CASES)
def test_a_key_of_a_column_in_a_request(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    reader = RequestReader(contract_of(tmp_path, {"x": case.column}))
    inputs = case.delivered.to_pylist() if case.request is None else case.request
    for value, expected in zip(inputs, case.expected("score"), strict=True):
        if value is ASIDE:
            continue
        value = value.isoformat() if isinstance(value, date) else value
        body = json.dumps({"rows": [{"client": "c", "day": "2024-03-05", "x": value}]}).encode()
        if isinstance(expected, Bad):
            with pytest.raises(RefusedError) as raised:
                reader.read(body)
            (fault,) = raised.value.faults
            assert fault.path == "rows[0].x" and fault.rule.startswith(
                (expected.request or expected.rule).split(" >")[0]
            )
            continue
        orders = reader.read(body)
        assert orders.columns["x"] == [expected.value if isinstance(expected, Warned) else expected]
        assert [w.startswith(f"x: {expected.rule}") for w in orders.warnings.get(0, [])] == (
            [True] if isinstance(expected, Warned) else []
        )


@pytest.mark.parametrize("name", CASES)
def test_the_example_of_the_documentation_is_accepted(tmp_path: Path, name: str) -> None:
    contract = contract_of(tmp_path, {"x": CASES[name].column})
    reader = RequestReader(contract)
    for since in (date(2024, 3, 5), date(2999, 1, 1)):
        order = example_row(contract, reader, since, date(2026, 1, 1))
        assert order is not None
        orders = reader.read(json.dumps({"rows": [order]}).encode(), since)
        assert len(orders) == 1 and orders.warnings == {}


# the suite: one wide contract with a column per case, checked once for each use


def _padded(case: Case, rows: int) -> pa.Array:
    """The delivered values, and the first one, which is good, as often as it takes."""
    return pa.concat_arrays(
        [case.delivered, pa.array([case.delivered[0].as_py()] * (rows - len(case.delivered)), case.delivered.type)]
    )


@pytest.mark.parametrize("use", USES)
def test_every_key_in_the_suite_finds_what_the_row_checks_find(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, use: Use
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
    names = {f"x{nr}": case for nr, case in enumerate(CASES.values())}
    rules = (
        "[{name: fits, description: y fits z., rule: pairs, columns: ['odd name', z],"
        ' allowed: {"it\'s": [z], \'a "b"\': [y]}},'
        " {name: past, description: In the past., rule: before_as_of, columns: [day],"
        " severity: {train: error, score: warning}}]"
    )
    more = {"odd name": column("string"), "z": column("string")}
    contract = contract_of(tmp_path, {**{n: c.column for n, c in names.items()}, **more}, rules=rules)
    rows = max(len(case.delivered) for case in names.values())
    columns = {name: _padded(case, rows) for name, case in names.items()}
    columns["odd name"] = pa.array((["it's", 'a "b"', "else"] * rows)[:rows])
    columns["z"] = pa.array((["z", "z", "z"] * rows)[:rows])
    columns["day"] = pa.array([AS_OF, *[DAY] * (rows - 1)])
    path = tmp_path / "wide.parquet"
    pq.write_table(table_of(rows, columns), path)
    checks = compile_row_checks(contract, use, on_own_clock(con, path, contract, pq.read_schema(path)), AS_OF)
    file = f"read_parquet({literal(str(path))}) AS file({', '.join(checks.source)})"
    source = f"SELECT *, file_row_number AS {ROW_NR} FROM {file}"
    values = identifiers(checks.columns)
    staged = con.sql(
        f"WITH source AS ({source}), staged AS ({checks.staged}) SELECT {values} FROM staged"
    ).to_arrow_table()

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batch = context.data_sources.add_pandas("frames").add_dataframe_asset("rows")
    definition = batch.add_batch_definition_whole_dataframe("batch")
    result = definition.get_batch(batch_parameters={"dataframe": frame_of(contract, staged)}).validate(
        context.suites.add(make_suite(contract, use)),
        result_format="BOOLEAN_ONLY",
        expectation_parameters={"as_of": f"{AS_OF.isoformat()}T00:00:00"},
    )
    raised = [info for r in result.results for info in [r.exception_info or {}, *(r.exception_info or {}).values()]]
    assert not [info for info in raised if isinstance(info, dict) and info.get("raised_exception")]
    failed: dict[str, set[str]] = {}
    for r in result.results:
        if not r.success:
            kind = str(getattr(r.expectation_config.severity, "value", r.expectation_config.severity))
            failed.setdefault(r.expectation_config.kwargs["column"], set()).add(kind)
    expected: dict[str, set[str]] = {"z": {"critical"}, "day": {"critical" if use == "train" else "warning"}}
    for name, case in names.items():
        reported = [e for e in case.expected(use) if isinstance(e, Bad | Warned)]
        # what is lost in the cast is null afterwards: a fault, as none of these columns may be null
        kinds = {"warning" if isinstance(e, Warned) else "critical" for e in reported}
        if kinds:
            expected[name] = kinds
    assert failed == expected


# rules over columns


PAIR = {"x": column("string", nullable=NULL), "y": column("string", nullable=NULL)}
PAIRS = pa.table({"x": ["A", "A", "B", "C", None, "A"], "y": ["a", "b", "b", "z", "z", None]})


@pytest.mark.parametrize(
    ("severity", "use", "bad"),
    [
        ("error", "train", True),
        ("warning", "train", False),
        ("{train: error, score: warning}", "train", True),
        ("{train: error, score: warning}", "score", False),
    ],
)
def test_pairs(con: duckdb.DuckDBPyConnection, tmp_path: Path, severity: str, use: Use, bad: bool) -> None:
    rule = (
        "[{name: fits, description: y fits x., rule: pairs, columns: [x, y],"
        f" allowed: {{A: [a], B: [a, b]}}, severity: {severity}}}]"
    )
    contract = contract_of(tmp_path, PAIR, rules=rule)
    report, rows = checked(con, tmp_path, contract, use, table_of(6, {n: PAIRS.column(n) for n in ("x", "y")}))
    expected = {"x + y: fits: y fits x.": 1}
    assert (report.reasons, report.warnings) == ((expected, {}) if bad else ({}, expected))
    assert [isinstance(row, list) for row in rows] == [False, bad, False, False, False, False]
    orders = [
        {"client": "c", "day": "2024-03-05", "x": x, "y": y} for x, y in zip(*PAIRS.to_pydict().values(), strict=True)
    ]
    reader = RequestReader(contract)
    if contract.rules[0].severity.score == "error":
        with pytest.raises(RefusedError) as refused:
            reader.read(json.dumps({"rows": orders}).encode())
        assert [(f.path, f.rule) for f in refused.value.faults] == [("rows[1].x + y", "fits: y fits x.")]
    else:
        assert reader.read(json.dumps({"rows": orders}).encode()).warnings == {1: ["x + y: fits: y fits x."]}


@pytest.mark.parametrize(("severity", "bad"), [("error", True), ("warning", False)])
def test_before_as_of(con: duckdb.DuckDBPyConnection, tmp_path: Path, severity: str, bad: bool) -> None:
    rule = f"[{{name: past, description: x., rule: before_as_of, columns: [day], severity: {severity}}}]"
    days = pa.array([date(2024, 5, 31), AS_OF])
    contract = contract_of(tmp_path, rules=rule)
    report, rows = checked(con, tmp_path, contract, "train", table_of(2, {"day": days}))
    expected = {"day: past: before 2024-06-01": 1}
    assert (report.reasons, report.warnings) == ((expected, {}) if bad else ({}, expected))
    assert [isinstance(row, list) for row in rows] == [False, bad]


@pytest.mark.parametrize(
    ("columns", "severity", "bad"),
    [("all", "error", [3]), ("[x]", "error", [1, 3, 4]), ("[x, y]", "error", [1, 3]), ("[x]", "warning", [])],
)
def test_unique(con: duckdb.DuckDBPyConnection, tmp_path: Path, columns: str, severity: str, bad: list[int]) -> None:
    rule = f"[{{name: once, description: x., rule: unique, columns: {columns}, severity: {severity}}}]"
    contract = contract_of(tmp_path, PAIR, rules=rule)
    values = {"client": ["a", "b", "c", "a", "d"], "x": ["1", "1", "2", "1", "1"], "y": ["1", "1", "2", "1", "2"]}
    report, rows = checked(con, tmp_path, contract, "train", table_of(5, {n: pa.array(v) for n, v in values.items()}))
    assert [nr for nr, row in enumerate(rows) if isinstance(row, list)] == bad
    assert sum(report.warnings.values()) == (3 if severity == "warning" else 0)
    assert all("once: must be unique in a file" in label for label in [*report.reasons, *report.warnings])


# missing columns, and the descriptions of a column


@pytest.mark.parametrize(
    ("required", "use", "missing"),
    [("true", "train", True), ("false", "train", False), ("{train: false, score: true}", "score", True)],
)
def test_required(con: duckdb.DuckDBPyConnection, tmp_path: Path, required: str, use: Use, missing: bool) -> None:
    contract = contract_of(tmp_path, {"x": column("string", nullable="true", required=required)})
    if missing:
        with pytest.raises(
            DataError, match=r"required columns are missing; expected → found\n  x \(string\) → nothing"
        ):
            checked(con, tmp_path, contract, use, table_of(1, {}))
    else:
        report, rows = checked(con, tmp_path, contract, use, table_of(1, {}))
        assert report.filled == ("x",) and rows[0]["x"] is None  # type: ignore[call-overload]
    needed = contract.columns["x"].required.score
    body = json.dumps({"rows": [{"client": "c", "day": "2024-03-05"}]}).encode()
    if needed:
        with pytest.raises(RefusedError, match=r"rows\[0\]\.x: required"):
            RequestReader(contract).read(body)
    else:
        assert RequestReader(contract).read(body).columns["x"] == [None]


def test_descriptions_of_columns_rules_and_the_contract(tmp_path: Path) -> None:
    more = {
        "x": "{description: A mass., type: double, role: measure, unit: kg, decimals: 1, nullable: true}",
        "y": "{description: A number., type: string, role: attribute, identifier: true}",
        "z": column("string", identifier="false"),
    }
    contract = contract_of(tmp_path, more)
    schema = RequestReader(contract).model.model_json_schema()["$defs"]["Row"]["properties"]
    assert schema["x"]["description"].startswith("A mass. In kg.")
    assert [schema[n]["x-role"] for n in contract.columns] == [c.role for c in contract.columns.values()]
    assert (contract.entity, contract.timestamp, contract.target) == ("client", "day", "kind")
    assert legacy_identifiers(contract) == ("client", "y")
    assert suite_name(contract, "train") == "shop_train"
    assert contract.description == "Orders of a shop."
    assert contract.rows == "rows" and contract_of(tmp_path, more, rows="parcels").rows == "parcels"
    later = contract_of(tmp_path, more, version="2")
    assert later.version == 2 and later.digest() != contract.digest()


@pytest.mark.parametrize("limit", ["0.25", "{train: 0.25, score: 0.25}"])
def test_limit_of_the_quarantine(tmp_path: Path, limit: str) -> None:
    contract = contract_of(tmp_path, quarantine=f"{{limit: {limit}}}")
    context: Any = SimpleNamespace(contract=contract, schema=SCHEMA, runs=FolderRuns(tmp_path), run="r")
    report = FileReport("f", 100, 75, 25, {"x: r": 25}, {}, {}, (), (), ())
    validate._refuse_too_many(context, [report])
    bad_rows = tmp_path / "quarantined.parquet"
    pq.write_table(pa.table({"row_nr": range(26)}), bad_rows)
    query = select_drop_quarantine(SCHEMA, "ab" * 32)
    score_file._refuse(report, contract, bad_rows, 3, query)
    more = replace(report, accepted=74, quarantined=26)
    with pytest.raises(DataError, match=r"26 of 100 rows .* more than the limit of 25"):
        validate._refuse_too_many(context, [more])
    with pytest.raises(DataError, match="f: 26 of 100 rows .* more than the limit of 25") as refused:
        score_file._refuse(more, contract, bad_rows, 3, query)
    assert "deliver it again; `apex sql -c" in str(refused.value) and "= 'abababababab'" in str(refused.value)


# batches


def profile(rows: int = 100, nulls: int = 0, a: int = 50, newest: date = DAY, nearly: date = DAY) -> Profile:
    return Profile(rows, {"kind": nulls}, {"kind": {"A": a, "B": rows - nulls - a}}, newest, nearly)


@pytest.mark.parametrize("severity", ["error", "warning"])
@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("rule: row_count, low: 0.5, high: 1.0", profile(50, a=25), profile(49, a=24)),
        ("rule: row_count, low: 0.01, high: 1.5", profile(150, a=75), profile(151, a=75)),
        ("rule: null_rate, max_rise: 0.1", profile(nulls=10), profile(nulls=11)),
        ("rule: category_share, max_change: 0.1", profile(a=60), profile(a=61)),
        (
            "rule: future_date_outlier, max_days: 3, share: 0.9",
            profile(nearly=date(2024, 3, 2)),
            profile(nearly=date(2024, 3, 1)),
        ),
        ("rule: freshness, max_days: 2", profile(), profile(newest=date(2024, 3, 4))),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_rules_of_a_batch(tmp_path: Path, rule: str, good: Profile, bad: Profile, severity: str) -> None:
    if "freshness" in rule:
        severity = "warning"
    contract = contract_of(tmp_path, batch=f"{{recent: 1, rules: [{{{rule}, severity: {severity}}}]}}")
    today = date(2024, 3, 7)
    # of the recent batches the newest one counts
    assert check_batch(contract.batch, good, [profile(), profile(10_000, a=1)], today) == []
    result = check_batch(contract.batch, bad, [profile(), profile(10_000, a=1)], today)
    assert {(f.severity, f.rule) for f in result} == {(severity, rule.split(",")[0].removeprefix("rule: "))}


def test_a_future_date_outlier_uses_the_share_of_the_rule(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    rules = "{recent: 1, rules: [{rule: future_date_outlier, max_days: 3, share: 0.6}]}"
    contract = contract_of(tmp_path, batch=rules)
    folder = tmp_path / "accepted"
    folder.mkdir()
    days = [date(2024, 1, 1)] * 6 + [date(2024, 2, 1)] * 4
    pq.write_table(table_of(10, {"day": pa.array(days)}), folder / "a.parquet")
    result = profile_batch(con, contract, folder)
    assert (result.newest, result.nearly_newest) == (date(2024, 2, 1), date(2024, 1, 1))
    assert result.levels == {"kind": {"A": 10, "B": 0}}


# features


def features_of(folder: Path, contract: Contract, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The examples that `elt` makes of rows, as it reads them from a file."""
    path = folder / "accepted.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=contract.arrow_schema()), path)
    with duckdb.connect() as connection:
        created = pa.concat_tables(make_examples(SortedRows(connection, contract, [path]), 1))
    names = [c.name for c in feature_columns(contract)]
    assert set(names) <= set(created.column_names)
    # every feature of a contract can be encoded
    encoder = Encoder.fit(feature_columns(contract), created)
    assert encoder.encode(created).shape == (created.num_rows, len(names))
    return created.to_pylist()


ORDERS = [
    # Friday, Saturday, Saturday of client a; Sunday of client b
    {
        "client": "a",
        "day": date(2024, 3, 1),
        "city": "u",
        "kind": "A",
        "amount": 1.25,
        "units": 2,
        "shop": "x",
        "since": None,
    },
    {
        "client": "a",
        "day": date(2024, 3, 9),
        "city": "u",
        "kind": "B",
        "amount": 2.75,
        "units": None,
        "shop": "y",
        "since": None,
    },
    {
        "client": "a",
        "day": date(2024, 11, 30),
        "city": "u",
        "kind": "B",
        "amount": 9.0,
        "units": 4,
        "shop": "z",
        "since": date(2024, 10, 31),
    },
    {
        "client": "b",
        "day": date(2024, 6, 30),
        "city": "u",
        "kind": "A",
        "amount": None,
        "units": None,
        "shop": None,
        "since": None,
    },
]
MEASURES = {
    "amount": column("double", "measure", decimals="2", nullable=NULL),
    "units": column("int64", "measure", nullable=NULL),
    "shop": column("string", nullable=NULL),
    "since": column("date", nullable=NULL),
    "city": column("string"),
}


def slope(shrinkage: float) -> float:
    """Of the indicator of B, 0 then 1, eight days apart: by least squares with the shrinkage added."""
    half = 4 / 365.25
    return half / (2 * half * half + shrinkage)


RECIPES_OF_COLUMNS = {
    "CountDistinctRecipe": "count_distinct",
    "MinRecipe": "min",
    "MaxRecipe": "max",
    "LastRecipe": "last",
}
LAST = {
    # recipe or calendar part: name of the feature, values of the last orders of a and b
    "calendar: [day_of_week]": {"day_day_of_week": (5, 6)},
    "calendar: [day_of_month]": {"day_day_of_month": (30, 30)},
    "calendar: [month]": {"day_month": (11, 6)},
    "calendar: [quarter]": {"day_quarter": (4, 2)},
    "calendar: [weekend]": {"day_weekend": (1, 1)},
    "days_since: [since]": {"days_since_since": (30, None)},
    "history: [{recipe: count}]": {"history_orders": (2, 0)},
    "history: [{recipe: count, name: history_rows}]": {"history_rows": (2, 0)},
    "history: [{recipe: days_since_last}]": {"history_days_since_last": (266, None)},
    "history: [{recipe: last_target}]": {"history_last_kind": ("B", None)},
    "history: [{recipe: target_share, smoothing: 2}]": {"history_share_A": (0.5, 0.5), "history_share_B": (0.5, 0.5)},
    "history: [{recipe: target_share, smoothing: 6}]": {"history_share_A": ((1 + 3) / 8, 0.5)},
    "history: [{recipe: mean, columns: [amount, units]}]": {
        "history_mean_amount": (2.0, None),
        "history_mean_units": (2.0, None),
    },
    "history: [{recipe: target_trend, level: B, shrinkage: 4}]": {"history_trend_B": (slope(4), 0.0)},
    "history: [{recipe: target_trend, level: A, shrinkage: 0.5}]": {"history_trend_A": (-slope(0.5), 0.0)},
    "history: [{recipe: count, window: 266d}]": {"history_count_266d": (1, 0)},
    "history: [{recipe: count, window: 300d, name: history_rows}]": {"history_rows_300d": (2, 0)},
    "history: [{recipe: target_share, smoothing: 2, window: 266d}]": {"history_share_A_266d": (1 / 3, 0.5)},
    "history: [{recipe: mean, columns: [amount], window: 266d}]": {"history_mean_amount_266d": (2.75, None)},
    "history: [{recipe: count_distinct, columns: [shop]}]": {"history_distinct_shop": (2, 0)},
    "history: [{recipe: count_distinct, columns: [shop], window: 266d}]": {"history_distinct_shop_266d": (1, 0)},
    "history: [{recipe: min, columns: [amount, units]}]": {
        "history_min_amount": (1.25, None),
        "history_min_units": (2.0, None),
    },
    "history: [{recipe: min, columns: [amount], window: 266d}]": {"history_min_amount_266d": (2.75, None)},
    "history: [{recipe: max, columns: [amount, units]}]": {
        "history_max_amount": (2.75, None),
        "history_max_units": (2.0, None),
    },
    "history: [{recipe: max, columns: [amount], window: 266d}]": {"history_max_amount_266d": (2.75, None)},
    "history: [{recipe: last, columns: [amount, units]}]": {
        "history_last_amount": (2.75, None),
        "history_last_units": (2.0, None),
    },
    "history: [{recipe: count, by: shop}]": {"shop_count": (0, 0)},
    "history: [{recipe: count, by: [shop]}]": {"shop_count": (0, 0)},
    "history: [{recipe: count, window: 266d, by: city}]": {"city_count_266d": (2, 2)},
    "history: [{recipe: days_since_last, by: city}]": {"city_days_since_last": (153, 113)},
    "history: [{recipe: last_target, by: city}]": {"city_last_kind": ("A", "B")},
    "history: [{recipe: target_share, smoothing: 2, by: city}]": {"city_share_A": (0.6, 0.5)},
    "history: [{recipe: target_trend, level: B, shrinkage: 4, by: [city, shop]}]": {"city_shop_trend_B": (0.0, 0.0)},
    "history: [{recipe: mean, columns: [amount], by: city}]": {"city_mean_amount": (2.0, 2.0)},
    "history: [{recipe: count_distinct, columns: [shop], by: city}]": {"city_distinct_shop": (2, 2)},
    "history: [{recipe: min, columns: [amount], by: city}]": {"city_min_amount": (1.25, 1.25)},
    "history: [{recipe: max, columns: [amount], by: city}]": {"city_max_amount": (2.75, 2.75)},
    "history: [{recipe: last, columns: [amount], by: city}]": {"city_last_amount": (2.75, 2.75)},
    "history_lag_days: 266, history: [{recipe: count}]": {"history_orders": (1, 0)},
    "history_lag_days: 265, history: [{recipe: count}]": {"history_orders": (2, 0)},
}


@pytest.mark.parametrize("features", LAST)
def test_recipes(tmp_path: Path, features: str) -> None:
    contract = contract_of(tmp_path, MEASURES, features=f"{{grain: last_row_per_entity, {features}}}")
    created = {row["client"]: row for row in features_of(tmp_path, contract, ORDERS)}
    assert sorted(created) == ["a", "b"] and created["a"]["day"] == date(2024, 11, 30)
    for name, values in LAST[features].items():
        result = [created[client][name] for client in ("a", "b")]
        assert result == pytest.approx(values) if not isinstance(values[0], str) else result == list(values)


def test_every_order_is_an_example(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, MEASURES, features="{grain: every_row, history: [{recipe: count}]}")
    created = sorted((r["client"], r["day"], r["history_orders"]) for r in features_of(tmp_path, contract, ORDERS))
    assert created == [
        ("a", date(2024, 3, 1), 0),
        ("a", date(2024, 3, 9), 1),
        ("a", date(2024, 11, 30), 2),
        ("b", date(2024, 6, 30), 0),
    ]


def test_rows_with_a_time_of_day(tmp_path: Path) -> None:
    """The hour, on the clock of the zone, and a history that counts an earlier row of the same day."""
    when = "{description: The time., type: timestamp, role: timestamp, timezone: America/Lima}"
    features = "{grain: every_row, calendar: [hour], days_since: [at], history: [{recipe: count}]}"
    at = {"at": column("timestamp", nullable=NULL, timezone="America/Lima")}
    contract = contract_of(tmp_path, at | {"day": when}, features=features)
    times = [datetime(2024, 3, 5, 3, 30, tzinfo=UTC), datetime(2024, 3, 5, 15, tzinfo=UTC)]
    rows = [{"client": "a", "day": t, "kind": "A", "at": times[0]} for t in times]
    created = [(r["day_hour"], r["history_orders"], r["days_since_at"]) for r in features_of(tmp_path, contract, rows)]
    assert sorted(created, key=lambda row: row[1]) == [(22, 0, 0.0), (10, 1, 11.5 / 24)]
    for hours, count in ((11, 1), (12, 0)):  # the rows are eleven and a half hours apart
        lagged = contract_of(tmp_path, at | {"day": when}, features=f"{features[:-1]}, history_lag_hours: {hours}}}")
        assert sorted(r["history_orders"] for r in features_of(tmp_path, lagged, rows)) == [0, count]


def test_attributes_of_every_type_are_features(tmp_path: Path) -> None:
    """Numbers as float64, a date as days since 1970-01-01, in training as in scoring."""
    kinds = {"s": "string", "f": "double", "i": "int64", "d": "date"}
    contract = contract_of(
        tmp_path,
        {name: column(kind, nullable=NULL) for name, kind in kinds.items()},
        features="{grain: every_row, attributes: [s, f, i, d]}",
    )
    row = {"client": "a", "day": DAY, "kind": "A", "s": "x", "f": 1.5, "i": 7, "d": date(1970, 1, 11)}
    (created,) = features_of(tmp_path, contract, [row])
    assert [created[name] for name in kinds] == ["x", 1.5, 7.0, 10.0]
    assert [type(created[name]) for name in kinds] == [str, float, float, float]
    assert [c.kind for c in feature_columns(contract)] == ["categorical", "numeric", "numeric", "numeric"]


def test_encodings_of_learned_levels(tmp_path: Path) -> None:
    attributes = {
        "learned": column("string", encoding="levels", min_level_rows="2"),
        "frequent": column("string", encoding="frequency"),
    }
    contract = contract_of(tmp_path, attributes, features="{grain: every_row, attributes: [learned, frequent]}")
    table = pa.table({name: ["x", "x", "y", "x"] for name in attributes})
    encoder = Encoder.fit(feature_columns(contract), table)
    assert encoder.encode(table).tolist() == [[1, 0.75], [1, 0.75], [0, 0.25], [1, 0.75]]


@pytest.mark.parametrize("key", ["encoding: frequency", "min_level_rows: 5"])
def test_encodings_are_of_learned_levels(tmp_path: Path, key: str) -> None:
    name, value = key.split(": ")
    for kind, more in (("double", {}), ("string", {"domain": "{levels: [a], closed: true}"})):
        with pytest.raises(ConfigError, match=f"{name} is for .*(remove it|remove one of both)"):
            contract_of(tmp_path, {"x": column(kind, **more, **{name: value})})


def test_suspicious_gain(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, features="{grain: every_row, suspicious_gain: 0.3}")
    refuse_leaks([SingleFeature("x", 0.3, 0.29)], contract.features.suspicious_gain)
    with pytest.raises(DataError, match="x .* alone removes at least 30%"):
        refuse_leaks([SingleFeature("x", 0.31, 0.3)], contract.features.suspicious_gain)


def test_split(tmp_path: Path) -> None:
    days = np.arange(10)
    contract = contract_of(tmp_path, split="{fractions: {train: 0.5, validation: 0.3, test: 0.2}}")
    parts, bounds = temporal(days, contract.split)
    assert parts.tolist() == [0] * 5 + [1] * 3 + [2] * 2 and bounds["test"] == (8, 9)
    contract = contract_of(tmp_path, split="{fractions: {train: 0.5, validation: 0.3, test: 0.2}, gap_days: 1}")
    assert temporal(days, contract.split)[0].tolist() == [0] * 5 + [-1, 1, 1, -1, 2]


# the gate: each key of the policy with a value under which a challenger is promoted, and one under which it is not


N = 4000
# outcomes in the very shares that the probabilities say
Y = np.concatenate([np.where(np.arange(N // 2) % 5 == 0, 1, 0), np.where(np.arange(N // 2) % 5 < 2, 0, 1)])
TRUTH = np.concatenate([np.tile([0.8, 0.2], (N // 2, 1)), np.tile([0.4, 0.6], (N // 2, 1))])
PRIOR = np.array([0.6, 0.4])
HOLDOUT = Holdout(Y, PRIOR, None, None, {"half": np.where(np.arange(N) < N // 2, "one", "two")})
PRIOR_LOSS = float(row_losses(np.tile(PRIOR, (N, 1)), Y).mean())
TRUE_LOSS = float(row_losses(TRUTH, Y).mean())


def towards_prior(weight: float) -> np.ndarray:
    return (1 - weight) * TRUTH + weight * PRIOR


def off_by(bias: float) -> np.ndarray:
    return TRUTH + np.array([bias, -bias])


def contender(p: np.ndarray, **about: Any) -> Contender:
    return Contender(p, ("A", "B"), ("client", "x"), **about)


def decided(
    policy: str, folder: Path, challenger: Contender, champion: Contender | None, looks: int = 1
) -> PromotionDecision:
    contract = contract_of(folder, {"x": column("string")}, promotion=f"{{{policy}}}")
    serving = Serving(contract.classes, ("client", "x"))
    return decide(challenger, champion, HOLDOUT, contract.promotion, serving, looks=looks)


CHALLENGER, WORSE = contender(TRUTH), contender(towards_prior(0.4))
GAIN = float((row_losses(WORSE.p, Y) - row_losses(TRUTH, Y)).mean())
SHARP = np.where(TRUTH > 0.5, 0.96, 0.04)
GATE: dict[str, tuple[str, str, str, Callable[[], tuple[Contender, Contender | None]]]] = {
    # key: (promoted under, not under, word of the reason, challenger and champion)
    "margin": ("margin: 0.001", f"margin: {GAIN:.4f}", "not above the margin", lambda: (CHALLENGER, WORSE)),
    "alpha": (
        "margin: 0.0023, alpha: 0.4, mode: single",
        "margin: 0.0023, alpha: 0.0001, mode: single",
        "not above the margin",
        lambda: (CHALLENGER, contender(towards_prior(0.25))),
    ),
    "mode": (
        "margin: 0.0028, mode: single",
        "margin: 0.0028, mode: sequential",
        "not above the margin",
        lambda: (CHALLENGER, contender(towards_prior(0.25))),
    ),
    "looks_a_year": (
        "margin: 0.0026, looks_a_year: 1",
        "margin: 0.0026, looks_a_year: 100000",
        "not above the margin",
        lambda: (CHALLENGER, contender(towards_prior(0.25))),
    ),
    "max_ece": (
        "margin: 0, max_ece: 0.5, max_bias: 1",
        "margin: 0, max_ece: 0.05, max_bias: 1",
        "promotion.max_ece",
        lambda: (contender(off_by(0.1)), None),
    ),
    "max_bias": (
        "margin: 0, max_ece: 0.5, max_bias: 0.2",
        "margin: 0, max_ece: 0.5, max_bias: 0.05",
        "is off by",
        lambda: (contender(off_by(0.1)), None),
    ),
    "collapse": (
        "margin: 0, collapse: 0.1, max_ece: 1, max_bias: 1",
        "margin: 0, collapse: 0.9, max_ece: 1, max_bias: 1",
        "has collapsed",
        lambda: (contender(off_by(0.08)), None),
    ),
    "max_recall_drop": (
        "margin: 0, max_recall_drop: 1",
        "margin: 0, max_recall_drop: 0.05",
        "finds fewer rows of B",
        lambda: (CHALLENGER, replace(WORSE, weights=(1.0, 99.0))),
    ),
    "segment_rows": (
        "margin: 0, segment_rows: 5000, max_ece: 1, max_bias: 1",
        "margin: 0, segment_rows: 500, max_ece: 1, max_bias: 1",
        "rows with half two lose beyond chance",
        lambda: (
            contender(np.where(HOLDOUT.segments["half"][:, None] == "two", towards_prior(0.4), TRUTH)),
            contender(np.where(HOLDOUT.segments["half"][:, None] == "two", TRUTH, towards_prior(1.0))),
        ),
    ),
    "max_us_per_row": (
        "margin: 0, max_us_per_row: 100",
        "margin: 0, max_us_per_row: 99",
        "µs a row",
        lambda: (contender(TRUTH, us_per_row=100.0), None),
    ),
    "forbidden_features": (
        "margin: 0, forbidden_features: [day]",
        "margin: 0, forbidden_features: [x, history_orders]",
        "forbidden features: x",
        lambda: (CHALLENGER, None),
    ),
    "stale_after_days": (
        "margin: 0.001, stale_after_days: 9",
        "margin: 0.001, stale_after_days: 10",
        "not above the margin",
        lambda: (contender(TRUTH, as_of=110), contender(TRUTH, as_of=100)),
    ),
    "non_inferiority": (
        "margin: 0.001, stale_after_days: 9, non_inferiority: 0.1",
        "margin: 0.001, stale_after_days: 9, non_inferiority: 0.0001",
        "not above the margin",
        lambda: (contender(towards_prior(0.2), as_of=110), contender(TRUTH, as_of=100)),
    ),
    "floor": (
        f"margin: 0, floor: {TRUE_LOSS / PRIOR_LOSS - 0.01:.4f}",
        f"margin: 0, floor: {TRUE_LOSS / PRIOR_LOSS + 0.06:.4f}",
        "promotion.floor",
        lambda: (CHALLENGER, None),
    ),
}


@pytest.mark.parametrize("key", GATE)
def test_keys_of_the_policy(tmp_path: Path, key: str) -> None:
    good, bad, words, models = GATE[key]
    assert decided(good, tmp_path, *models()).promote, decided(good, tmp_path, *models()).reasons
    result = decided(bad, tmp_path, *models())
    assert not result.promote and any(words in reason for reason in result.reasons), result.reasons


# nothing is left out


def rule(name: str, *keys: str, warnings: bool = True) -> tuple[str, ...]:
    severities = ("severity=error", "severity=warning") if warnings else ()
    return tuple(f"{name}.{key}" for key in (*keys, *severities))


def test_match(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    table, order = (
        table_of(1, {}).rename_columns({"client": "Client "}),
        b'{"rows": [{"CLIENT": "c", "day": "2024-03-05"}]}',
    )
    pq.write_table(table, tmp_path / "file.parquet")
    for match in ("exact", "insensitive"):
        own = contract_of(tmp_path, match=match)
        out = {"accepted": tmp_path / "accepted.parquet", "quarantined": tmp_path / "bad.parquet"}
        if match == "insensitive":
            check_file(make_strict(con), tmp_path / "file.parquet", own, "train", as_of=None, **out)
            assert pq.read_table(out["accepted"]).column("client").to_pylist() == ["c0"]
            assert RequestReader(own).read(order).columns["client"] == ["c"]
            continue
        with pytest.raises(DataError, match=r"client \(string\) → Client  \(rename it\)"):
            check_file(make_strict(con), tmp_path / "file.parquet", own, "train", as_of=None, **out)
        with pytest.raises(RefusedError, match="it is nearly client"):
            RequestReader(own).read(order)


def test_extra(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    table = table_of(2, {"x": pa.array([1, 2]), "y": pa.array([1, 2])})
    for extra in ("ignore", "report", "refuse"):
        contract = contract_of(tmp_path, extra=extra, ignored="[y]")
        if extra == "refuse":
            with pytest.raises(DataError, match="columns that the contract does not mention: 'x' "):
                checked(con, tmp_path, contract, "train", table)
            checked(con, tmp_path, contract, "train", table.drop_columns(["x"]))
            continue
        report, rows = checked(con, tmp_path, contract, "train", table)
        assert [set(row) for row in rows] == [{"client", "day", "kind"}] * 2 and report.added == ("x",)
        assert list(report.warnings.values()) == ([2] if extra == "report" else [])


def test_ignored_columns_are_not_read(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    row = {"client": "c", "day": "2024-03-05", "x": ["any", 1]}
    for parts in ({"ignored": "[x]"}, {"columns": {"x": "{description: A thing., role: ignore}"}}):
        contract = contract_of(tmp_path, parts.get("columns"), **{k: v for k, v in parts.items() if k != "columns"})
        report, rows = checked(con, tmp_path, contract, "score", table_of(1, {"x": pa.array([[1, 2]])}))
        assert "x" not in rows[0] and report.added == ()
        assert list(RequestReader(contract).read(json.dumps({"rows": [row]}).encode()).columns) == [
            "client",
            "day",
            "kind",
        ]


def test_derived_columns(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    columns = {
        "year": "{description: Y., type: int64, role: ignore}",
        "day": "{description: The day., type: date, role: timestamp, derive: 'make_date(year, 3, 5)'}",
    }
    contract = contract_of(tmp_path, columns)
    table = table_of(2, {"year": pa.array([2024, 99_999_999])}).drop_columns(["day"])
    _, rows = checked(con, tmp_path, contract, "train", table)
    assert rows[0]["day"] == DAY and rows[1][0].startswith("day: derive: make_date(year, 3, 5) fails")
    order = json.dumps({"rows": [{"client": "c", "year": 2024}]}).encode()
    assert request_reader(contract).read(order).columns["day"] == [DAY]


def test_repeated_keys(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    days = [DAY, DAY.replace(day=9), DAY.replace(day=7), DAY, DAY]
    table = table_of(5, {"day": pa.array(days), "number": pa.array([1, 1, 1, 2, 3])})
    for rule, kept in (("latest", [(1, days[1]), (2, DAY), (3, DAY)]), ("refuse", None)):
        accepted = tmp_path / rule
        accepted.mkdir()
        pq.write_table(table, accepted / "a.parquet")
        pq.write_table(table.slice(4), accepted / "b.parquet")  # the same row again is no other row of its key
        contract = contract_of(tmp_path, {"number": column("int64", "key")}, repeated_keys=rule)
        if kept is None:
            with pytest.raises(DataError, match=r"1 key of number with several rows that differ, as '1' \(3 rows\)"):
                settle_repeated_keys(con, contract, accepted, 6)
            continue
        assert settle_repeated_keys(con, contract, accepted, 6) == 3
        rows = [row for file in sorted(accepted.iterdir()) for row in pq.read_table(file).to_pylist()]
        assert sorted((row["number"], row["day"]) for row in rows) == kept


FORMATS = {
    "{format: csv}": b'client,day,kind,x\nc0,2024-03-05,A,"1.5"\n',
    '{format: csv, delimiter: ";", quote: "\'", decimal: ","}': b"client;day;kind;x\n'c0';2024-03-05;A;1,5\n",
    "{format: jsonl}": b'{"client": "c0", "day": "2024-03-05", "kind": "A", "x": 1.5}\n',
    '{format: csv, escape: "\\\\", encoding: cp1252}': 'client,day,kind,x,ñ\nc0,2024-03-05,A,1.5,"\\""\n'.encode(
        "cp1252"
    ),
    "{format: csv, names: [x, kind, day, client]}": b"1.5,A,2024-03-05,c0\n",
    '{format: csv, nulls: ["", NA], decimal: "."}': b"client,day,kind,x,y\nc0,2024-03-05,A,1.5,NA\n",
}


@pytest.mark.parametrize("files", FORMATS)
def test_files(con: duckdb.DuckDBPyConnection, tmp_path: Path, files: str) -> None:
    columns = {
        "day": COLUMNS["day"].replace("}", ", normalise: [{date_formats: ['%Y-%m-%d']}]}"),
        "x": column("double"),
        "y": column("double", required="false", nullable="true"),
    }
    contract = contract_of(tmp_path, columns, files=files)
    (tmp_path / "a.csv").write_bytes(FORMATS[files])
    out = {"accepted": tmp_path / "accepted.parquet", "quarantined": tmp_path / "bad.parquet"}
    report = check_file(make_strict(con), tmp_path / "a.csv", contract, "train", as_of=AS_OF, **out)
    expected = {"client": "c0", "day": DAY, "kind": "A", "x": 1.5, "y": None}
    assert pq.read_table(out["accepted"]).to_pylist() == [expected]
    assert (report.accepted, report.quarantined, report.cast) == (1, 0, ())
    parquet = contract_of(tmp_path, columns, files="{format: parquet}")
    assert parquet.digest() == contract_of(tmp_path, columns).digest() != contract.digest()
    with pytest.raises(DataError, match=r"a\.csv: not a parquet file .*format: csv"):
        check_file(make_strict(con), tmp_path / "a.csv", parquet, "train", as_of=AS_OF, **out)


ELSEWHERE: dict[Callable[..., None], tuple[str, ...]] = {
    test_pairs: ("Contract.rules", *rule("PairsRule", "rule=pairs", "columns", "allowed", "name", "description")),
    test_before_as_of: rule("BeforeAsOfRule", "rule=before_as_of", "columns", "name", "description"),
    test_unique: rule("UniqueRule", "rule=unique", "columns=all", "name", "description"),
    test_required: ("Column.required",),
    test_descriptions_of_columns_rules_and_the_contract: (
        "Contract.name", "Contract.version", "Contract.description", "Contract.rows", "Contract.columns", "Column.name",
        "Column.description", "Column.unit", "Column.identifier", "Column.role=entity", "Column.role=timestamp",
        "Column.role=target",
    ),
    test_limit_of_the_quarantine: (
        "Contract.quarantine", "Quarantine.limit", "_FloatPerUse.train", "_FloatPerUse.score",
    ),
    test_rules_of_a_batch: (
        "Contract.batch", "Batch.recent", "Batch.rules",
        *rule("RowCountRule", "rule=row_count", "low", "high"),
        *rule("NullRateRule", "rule=null_rate", "max_rise"),
        *rule("CategoryShareRule", "rule=category_share", "max_change"),
        *rule("FutureDateOutlierRule", "rule=future_date_outlier", "max_days", "share"),
        *rule("FreshnessRule", "rule=freshness", "max_days", "severity=warning", warnings=False),
    ),
    test_recipes: (
        "Contract.features", "Features.history", "Features.history_lag_days", "Features.days_since",
        "Features.grain=last_row_per_entity",
        *(f"Features.calendar={part}" for part in ("day_of_week", "day_of_month", "month", "quarter", "weekend")),
        "CountRecipe.recipe=count", "CountRecipe.name=history_rows",
        "DaysSinceLastRecipe.recipe=days_since_last", "LastTargetRecipe.recipe=last_target",
        "TargetShareRecipe.recipe=target_share", "TargetShareRecipe.smoothing", "MeanRecipe.recipe=mean",
        "MeanRecipe.columns", "TargetTrendRecipe.recipe=target_trend", "TargetTrendRecipe.level",
        "TargetTrendRecipe.shrinkage", "CountRecipe.window", "TargetShareRecipe.window", "MeanRecipe.window",
        *(f"{name}.{key}" for name, recipe in RECIPES_OF_COLUMNS.items() for key in (f"recipe={recipe}", "columns")),
        *(f"{name}.window" for name in RECIPES_OF_COLUMNS if name != "LastRecipe"),
        *(f"{name}.by" for name in (*RECIPES_OF_COLUMNS, "CountRecipe", "DaysSinceLastRecipe", "LastTargetRecipe")),
        *(f"{name}.by" for name in ("TargetShareRecipe", "TargetTrendRecipe", "MeanRecipe")),
    ),
    test_extra: ("Contract.extra=ignore", "Contract.extra=report", "Contract.extra=refuse"),
    test_ignored_columns_are_not_read: ("Contract.ignored", "Column.role=ignore"),
    test_derived_columns: ("Column.derive",),
    test_repeated_keys: ("Contract.repeated_keys=latest", "Contract.repeated_keys=refuse"),
    test_files: (
        "Contract.files", "FileFormat.format=parquet", "FileFormat.format=csv", "FileFormat.format=jsonl",
        "FileFormat.decimal=.",
        "FileFormat.decimal=,", *(f"FileFormat.{key}" for key in ("delimiter", "quote", "escape", "names", "encoding")),
        "FileFormat.nulls",
    ),
    test_match: ("Contract.match=exact", "Contract.match=insensitive"),
    test_every_order_is_an_example: ("Features.grain=every_row",),
    test_attributes_of_every_type_are_features: ("Features.attributes",),
    test_encodings_of_learned_levels: (
        "Column.encoding=levels", "Column.encoding=frequency", "Column.min_level_rows",
    ),
    test_rows_with_a_time_of_day: ("Features.calendar=hour", "Features.history_lag_hours"),
    test_suspicious_gain: ("Features.suspicious_gain",),
    test_split: (
        "Contract.split", "Split.fractions", "Split.gap_days", "Fractions.train", "Fractions.validation",
        "Fractions.test",
    ),
    test_keys_of_the_policy: (
        "Contract.promotion", "Promotion.mode=sequential", "Promotion.mode=single",
        *(f"Promotion.{key}" for key in GATE if key != "mode"),
    ),
}  # fmt: skip


def _values(schema: dict[str, Any]) -> list[str]:
    """The values of a key that takes a few of them only."""
    below = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    below += [schema["items"]] if isinstance(schema.get("items"), dict) else []
    own = [schema["const"]] if "const" in schema else list(schema.get("enum", ()))
    return own + [value for part in below for value in _values(part)]


def test_every_key_is_exercised() -> None:
    schema = Contract.model_json_schema(mode="validation")
    keys = {
        key
        for model, of_model in {"Contract": schema, **schema["$defs"]}.items()
        for name, of_key in of_model.get("properties", {}).items()
        for key in [f"{model}.{name}={value}" for value in _values(of_key)] or [f"{model}.{name}"]
    }
    exercised = [key for case in CASES.values() for key in case.keys] + [k for ks in ELSEWHERE.values() for k in ks]
    assert keys - set(exercised) == set(), "exercise these keys of the contract above"
    assert set(exercised) - keys == set(), "no such keys"
