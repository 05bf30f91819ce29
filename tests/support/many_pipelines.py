"""Pipelines beside orders, of the same contract: their tables, and rows of some age."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

import psycopg2

from apex_ml.adapters.postgres.migrations import migrate_schema
from apex_ml.contract.model import Contract
from apex_ml.settings import Settings


def create_tables(settings: Settings, contract: Contract, names: Iterable[str]) -> None:
    """Create the tables of each pipeline."""
    for name in names:
        migrate_schema(settings, contract, name)


def write(settings: Settings, statement: str, *values: object) -> None:
    """Run a statement as the writer."""
    with closing(psycopg2.connect(settings.writer_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values or None)
