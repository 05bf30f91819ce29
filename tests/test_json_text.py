"""There is one writer of JSON, and what it writes is JSON."""

from __future__ import annotations

import ast
import json

import numpy as np
import pytest

from apex_ml.json_text import json_text
from apex_ml.settings import CODE_ROOT

FILES = [path for folder in ("apex_ml", "dags", "plugins") for path in sorted((CODE_ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), np.float64("nan")])
def test_a_number_that_is_not_finite_is_null(number: float) -> None:
    text = json_text({"a": number, "b": [1.5, (number, "x")], "c": {"d": {number: 1}.keys().__len__()}})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [1.5, [None, "x"]], "c": {"d": 1}}


def test_finite_values_are_written_as_python_writes_them() -> None:
    value = {"ñ": [1, 2.5, None, True], "a": "x"}
    assert json_text(value, indent=1, sort_keys=True) == json.dumps(value, indent=1, sort_keys=True)
    assert json_text(value, ensure_ascii=False) == json.dumps(value, ensure_ascii=False)


def test_no_other_module_writes_json() -> None:
    results = []
    for path in FILES:
        if path == CODE_ROOT / "apex_ml" / "json_text.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps") and ast.unparse(node.value) == "json":
                results.append(f"{path}:{node.lineno}")
    assert results == []
