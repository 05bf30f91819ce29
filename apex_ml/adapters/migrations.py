"""Bring the apex database to the current schema: numbered SQL files first, then what the contract generates."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from apex_ml.contract.model import load_contract
from apex_ml.contract.tables import scored_orders_ddl
from apex_ml.errors import ConfigError
from apex_ml.settings import CODE_ROOT, Settings

logger = logging.getLogger(__name__)

FOLDER = CODE_ROOT / "deployment" / "migrations"
LOCK = 7_261_001
"""Key of the advisory lock under which one process at a time migrates."""


def migration_files(folder: Path = FOLDER) -> list[tuple[int, Path]]:
    """The numbered migrations in order."""
    return sorted((int(path.name.split("_")[0]), path) for path in folder.glob("[0-9]*.sql"))


def migrate(settings: Settings) -> None:
    """Apply what is missing; safe to run again and from several processes at once.

    Each migration is one transaction. Raises :class:`~apex_ml.errors.ConfigError` when an applied file was changed
    afterwards, as the database would then no longer be what the files say.
    """
    from apex_ml.adapters.warehouse import connect

    contract = load_contract(settings.contract)
    with connect(settings) as connection:
        apply(connection, migration_files(), scored_orders_ddl(contract))


def apply(connection: psycopg2.extensions.connection, files: list[tuple[int, Path]], generated: list[str]) -> None:
    """Apply numbered files and then generated statements on an open connection."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        cursor.execute("CREATE SCHEMA IF NOT EXISTS apex")
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS apex.migrations (number integer PRIMARY KEY, name text NOT NULL,"
            " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        cursor.execute("GRANT USAGE ON SCHEMA apex TO apex_reader")
        cursor.execute("SELECT number, sha256 FROM apex.migrations")
        applied = dict(cursor.fetchall())
    for number, path in files:
        text = path.read_text(encoding="utf-8")
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        if number in applied:
            if applied[number] != sha256:
                raise ConfigError(
                    f"{path.name}: changed after it was applied; restore it and add a new migration instead"
                )
            continue
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            cursor.execute("SELECT 1 FROM apex.migrations WHERE number = %s", (number,))
            if cursor.fetchone():  # another process was faster
                continue
            cursor.execute(text)
            cursor.execute(
                "INSERT INTO apex.migrations (number, name, sha256) VALUES (%s, %s, %s)", (number, path.name, sha256)
            )
        logger.info("migration_applied name=%s", path.name)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        for statement in generated:
            try:
                cursor.execute(statement)
            except psycopg2.errors.InvalidTableDefinition as error:
                what = " ".join(statement.split()[:6])
                raise ConfigError(
                    f"{what} …: {str(error).splitlines()[0]}; what the contract generates is changed only by adding:"
                    " drop the view, or give the changed one a new name"
                ) from error
