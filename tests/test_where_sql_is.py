"""SQL of Postgres is written in apex_ml/sql and apex_ml/adapters/postgres alone, and so are imports of its drivers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_ml.settings import CODE_ROOT

POSTGRES = (Path("apex_ml/sql"), Path("apex_ml/adapters/postgres"))
TABLE = re.compile(
    r"\b(?:FROM|JOIN|INTO|UPDATE|TABLE|VIEW|INDEX ON|TRUNCATE|COPY)\s+(?:IF (?:NOT )?EXISTS\s+)?"
    r"(?:apex\.\w|pg_(?!timezone_names)\w|slot_pool|alembic_version)",
)
STATEMENT = re.compile(
    r"\b(?:SELECT\s+(?:1$|current_|pg_)|DELETE FROM|UPDATE \S+ SET|ALTER ROLE|(?:CREATE|DROP) (?:ROLE|DATABASE)|GRANT "
    r"|SET LOCAL )",
)
DRIVERS = ("psycopg2", "adbc_driver_postgresql", "sqlalchemy", "asyncpg", "psycopg")
ADVICE = "or SELECT * FROM apex.quarantine WHERE source_kind = 'raw'"
"""A query that a message advises people to run."""


def modules() -> Iterator[Path]:
    for folder in ("apex_ml", "plugins", "dags"):
        for path in sorted((CODE_ROOT / folder).rglob("*.py")):
            inside = path.relative_to(CODE_ROOT)
            if not any(inside.is_relative_to(place) for place in POSTGRES):
                yield inside


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The strings of a module but for its docstrings, those of an f-string put together."""
    skipped = {
        id(node.value)
        for parent in ast.walk(tree)
        if isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for node in parent.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", list(modules()), ids=str)
def test_no_sql_of_postgres_and_no_driver(path: Path) -> None:
    tree = ast.parse((CODE_ROOT / path).read_text(encoding="utf-8"))
    result = [
        f"{path}:{line}: {text}"
        for line, text in texts(tree)
        if ADVICE not in text and (TABLE.search(text) or STATEMENT.search(text))
    ]
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        result += [f"{path}:{node.lineno}: import {name}" for name in names if name.split(".")[0] in DRIVERS]  # type: ignore[attr-defined]
    assert result == []
