"""Comments, docstrings, texts and names of the code are in plain English, as the documents are."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.language import avoided_name, avoided_texts

ROOT = Path(__file__).parents[1]
FOLDERS = ("apex_ml", "plugins", "dags", "benchmarks", "deployment", "docs/scripts", "tests")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
OTHERS = sorted(
    path
    for folder in FOLDERS
    for pattern in ("*.sql", "*.yaml", "*.yml", "*.sh", "*.js", "*.css", "*.j2", "*.toml")
    for path in (ROOT / folder).rglob(pattern)
    if path.parent.name != "migrations"  # an applied migration never changes
)
TEXTS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def _defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a module defines: functions, classes, arguments, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_code_is_in_plain_english(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    problems = [
        f"{path.name}:{token.start[0]}: {problem}"
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type in TEXTS
        for problem in avoided_texts(token.string)
    ]
    problems += [
        f"{path.name}:{line}: {problem}"
        for line, name in _defined_names(ast.parse(source))
        if (problem := avoided_name(name)) is not None
    ]
    assert problems == []


@pytest.mark.parametrize("path", OTHERS, ids=[str(path.relative_to(ROOT)) for path in OTHERS])
def test_other_files_are_in_plain_english(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [f"{path.name}:{nr}: {p}" for nr, line in enumerate(lines, 1) for p in avoided_texts(line)] == []
