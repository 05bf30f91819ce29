"""Rows of a report, whatever kind of number they were made from."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.registry import Beside, Row


def test_a_row_of_numpy_values_can_be_written() -> None:
    row = Row("a", np.float64(1.5), "s", np.float64(2.0), Beside("floor", np.float64(1.0)))
    assert row.ok is True
    assert json.loads(json.dumps(row.as_dict()))["ok"] is True
    assert Row("a", 3.0, "s", 2.0).ok is False and Row("a", 3.0, "s").ok is None
