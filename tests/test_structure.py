"""Modules and functions stay short enough to read in one go. The complexity of functions is checked by ruff (C901)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_ml.settings import CODE_ROOT

FOLDERS = ("apex_ml", "plugins", "dags", "benchmarks")
MAX_MODULE_LINES = 330
MAX_FUNCTION_LINES = 50
"""Without its decorators and docstring."""


def modules() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (path.relative_to(CODE_ROOT) for path in sorted((CODE_ROOT / folder).rglob("*.py")))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    is_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


@pytest.mark.parametrize("path", list(modules()), ids=str)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = (CODE_ROOT / path).read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MAX_MODULE_LINES, f"{path} has {lines} lines: split it by subject"
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f"{path}:{f.lineno} {f.name}: {length(f)} lines" for f in functions if length(f) > MAX_FUNCTION_LINES]
    assert long == []
