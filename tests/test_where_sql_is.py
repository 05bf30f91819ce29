"""SQL is written in apex_ml/sql and apex_ml/adapters/postgres alone, that of DuckDB in apex_ml/sql alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_ml.settings import CODE_ROOT

SQL, POSTGRES = Path("apex_ml/sql"), Path("apex_ml/adapters/postgres")
KEYWORD = re.compile(
    r"\b(?:SELECT|FROM|WHERE|JOIN|UNION|HAVING|QUALIFY|USING|LIMIT|OVER|FILTER|VALUES|DESCRIBE|PRAGMA|ATTACH|RESET|SET"
    r"|(?:GROUP|ORDER|PARTITION) BY|(?:INSERT|MERGE) INTO|DELETE FROM|UPDATE \S+ SET|COPY|TRUNCATE|GRANT|REVOKE"
    r"|(?:CREATE|DROP|ALTER) [A-Z]+|IS (?:NOT )?NULL|AS|AND|OR|NOT|IN|CASE|WHEN|BETWEEN|INTERVAL)(?:\s|\()",
)
"""Keywords in capitals, as all SQL of Apex has them."""
FUNCTION = re.compile(
    r"\b(?:CAST|TRY_CAST|TRY|read_parquet|parquet_\w+|coalesce|date_trunc|date_diff|count|hash|epoch|unnest|any_value"
    r"|struct_pack|row_number|isfinite|nextval|pg_\w+|current_setting)\("
)
DUCKDB = re.compile(
    r"\b(?:read_parquet|parquet_\w+|QUALIFY|TRY_CAST|TRY\(|(?:SEMI|ANTI|POSITIONAL) JOIN|struct_pack|approx_top_k"
    r"|file_row_number|file_index|disabled_optimizers|BY ALL|USING SAMPLE|list_\w+\()"
)
"""What Postgres does not know."""
SCHEMA = re.compile(
    r"(?:\b(?:FROM|JOIN|INTO|UPDATE|TABLE|VIEW|INDEX|FUNCTION|ON|IN|EXISTS|SELECT|REFERENCES|SCHEMA|ANALYZE)|[(,=']|::)"
    r"\s*\"?apex\b\"?(?:\s*\.\s*(?!clock_offset)[\w{\"]|\s*$|\s+TO\b)"
)
"""A statement that names the schema of one pipeline."""
DRIVERS = ("psycopg2", "adbc_driver_postgresql", "sqlalchemy", "asyncpg", "psycopg")
DRIVERS_OF_DUCKDB = ("duckdb",)


def modules(*without: Path) -> list[Path]:
    """The modules outside of some folders."""
    paths = [
        path.relative_to(CODE_ROOT)
        for folder in ("apex_ml", "plugins", "dags")
        for path in sorted((CODE_ROOT / folder).rglob("*.py"))
    ]
    return [path for path in paths if not any(path.is_relative_to(folder) for folder in without)]


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The strings of a module except its docstrings, with the parts of an f-string joined."""
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


def tree_of(path: Path) -> ast.Module:
    return ast.parse((CODE_ROOT / path).read_text(encoding="utf-8"))


def lines_with(path: Path, *patterns: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{line}: {text}"
        for line, text in texts(tree_of(path))
        if any(pattern.search(text) for pattern in patterns)
    ]


def imports_of(path: Path, packages: tuple[str, ...]) -> list[str]:
    imports = []
    for node in ast.walk(tree_of(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        imports += [f"{path}: import {name}" for name in names if name.split(".")[0] in packages]
    return imports


@pytest.mark.parametrize("path", modules(SQL, POSTGRES), ids=str)
def test_no_sql_and_no_driver_of_postgres(path: Path) -> None:
    assert lines_with(path, KEYWORD, FUNCTION) == [] and imports_of(path, DRIVERS) == []


@pytest.mark.parametrize("path", [p for p in modules() if p.is_relative_to(POSTGRES)], ids=str)
def test_no_sql_of_duckdb_beside_that_of_postgres(path: Path) -> None:
    assert lines_with(path, DUCKDB) == [] and imports_of(path, DRIVERS_OF_DUCKDB) == []


@pytest.mark.parametrize("path", [p for p in modules() if p.is_relative_to(SQL)], ids=str)
def test_modules_of_sql_only_make_text(path: Path) -> None:
    assert imports_of(path, (*DRIVERS, *DRIVERS_OF_DUCKDB)) == []


@pytest.mark.parametrize("path", modules(), ids=str)
def test_no_statement_names_the_schema_of_a_pipeline(path: Path) -> None:
    assert lines_with(path, SCHEMA) == []


@pytest.mark.parametrize(
    ("text", "names_one"),
    [
        ("SELECT * FROM apex.drops", True),
        ("x JOIN apex.drops AS d", True),
        ('ANALYZE "apex".drops', True),
        ("to_regclass('apex.drops')", True),
        ("SELECT apex.clock()", True),
        ("received_at = apex.clock()", True),
        ("GRANT USAGE ON SCHEMA apex TO apex_reader", True),
        ("CREATE SCHEMA IF NOT EXISTS apex", True),
        ("-c search_path=apex", True),
        ("SELECT * FROM drops", False),
        ("-c apex.clock_offset=x", False),
        ("apex.scoring_runs", False),
        ("see: apex sql", False),
    ],
)
def test_a_named_schema_is_recognised(text: str, names_one: bool) -> None:
    assert bool(SCHEMA.search(text)) == names_one


@pytest.mark.parametrize(
    "text",
    [
        "SELECT x FROM x",
        "x AS x",
        "x IN (x)",
        "count(*) - count(x)",
        "WHERE NOT x",
        " OR ",
        "read_parquet(x)",
        "SET threads = 2",
        "CREATE TEMP TABLE x AS x",
        "DROP TABLE x",
        "TRY_CAST(x AS x)",
        "FROM information_schema.tables WHERE table_name = ?",
        "COPY (x) TO x (FORMAT parquet)",
    ],
)
def test_pieces_of_sql_are_recognised(text: str) -> None:
    assert KEYWORD.search(text) or FUNCTION.search(text)
