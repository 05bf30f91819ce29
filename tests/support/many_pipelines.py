"""Pipelines beside orders, of the same contract: their files, their tables, and rows of some age."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import psycopg2

from apex_ml.adapters.postgres.migrations import migrate_schema
from apex_ml.contract.model import Contract
from apex_ml.settings import CODE_ROOT, Settings

FILE = CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml"


def write_files(folder: Path, names: Iterable[str]) -> None:
    """Write a file for each name, with the model of the pipeline orders."""
    text = FILE.read_text(encoding="utf-8")
    for name in names:
        path = folder / name / FILE.name
        path.parent.mkdir(parents=True)
        path.write_text(text.replace("name: orders\n", f"name: {name}\n", 1), encoding="utf-8")


def create_tables(settings: Settings, contract: Contract, names: Iterable[str]) -> None:
    """Create the tables of each pipeline."""
    for name in names:
        migrate_schema(settings, contract, name)


def write(settings: Settings, statement: str, *values: object) -> None:
    """Run a statement as the writer."""
    with closing(psycopg2.connect(settings.writer_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values or None)
