"""Rows of a report from any kind of number."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np

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
