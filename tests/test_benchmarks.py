"""Rows of a report from any kind of number."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

import benchmarks
from benchmarks.registry import MEASUREMENTS, Beside, Row


def test_a_row_of_numpy_values_can_be_written() -> None:
    row = Row("a", np.float64(1.5), "s", np.float64(2.0), Beside("floor", np.float64(1.0)))
    assert row.ok is True
    assert json.loads(json.dumps(row.as_dict()))["ok"] is True
    assert Row("a", 3.0, "s", 2.0).ok is False and Row("a", 3.0, "s").ok is None


def test_every_measurement_is_offered_by_the_command() -> None:
    bench = importlib.import_module("benchmarks.__main__").bench
    [only] = [parameter for parameter in bench.params if parameter.name == "only"]
    files = list(Path(benchmarks.__path__[0]).glob("*.py"))
    measured = {f"benchmarks.{file.stem}" for file in files if "@measurement\n" in file.read_text("utf-8")}
    assert measured and {measure.__module__ for measure in MEASUREMENTS.values()} == measured
    assert set(only.type.choices) == set(MEASUREMENTS)


def test_a_public_table_is_compared_with_the_peers_on_the_same_rows(tmp_path: Path) -> None:
    from benchmarks.model_quality import compare, rows_of
    from benchmarks.public_tables import TABLES

    (tumours,) = (table for table in TABLES if table.name == "tumours")
    compared = compare(tumours, tmp_path)
    assert compared.rows == 569 and compared.history is None
    assert set(compared.scores) == {"Apex", "XGBoost", "HistGradientBoosting"}
    # each knows the class of nearly every tumour, so that each had the right rows and classes
    assert all(scores.log_loss < 0.3 and scores.auc > 0.97 for scores in compared.scores.values())
    rows = {row.name: row for row in rows_of(compared)}
    assert rows["tumours: Apex behind the better peer"].ok is True


def test_a_public_table_is_left_out_when_its_archive_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import public_tables
    from benchmarks.model_quality import model_quality
    from benchmarks.scene import Scene

    monkeypatch.setattr(public_tables, "ARCHIVES", Path("nowhere"))
    monkeypatch.setattr("benchmarks.model_quality.TABLES", [t for t in public_tables.TABLES if t.archive])
    rows = list(model_quality(Scene(None)))
    assert rows and all("make bench-quality" in row.note and row.ok is None for row in rows)
    with pytest.raises(FileNotFoundError, match="make bench-quality"):
        public_tables.weather()
