"""Bring a schema of the apex database to its current state: numbered SQL files first, then what the contract makes.

The files name the schema apex. For another one their SQL is rewritten; the digests kept are those of the files.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from apex_ml.adapters.postgres.blockers import LOCK_TIMEOUT, with_lock_retries
from apex_ml.adapters.postgres.champions import champions
from apex_ml.adapters.postgres.connection import PLATFORM_SCHEMA, Connection, begin, connect
from apex_ml.adapters.postgres.contracts import PostgresContracts, refuse_other_contract
from apex_ml.adapters.postgres.foreign_model import refuse_foreign_model
from apex_ml.adapters.postgres.former_schema import move_former_schema
from apex_ml.adapters.postgres.platform_schema import record_pipelines
from apex_ml.adapters.postgres.schema_names import for_schema
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline import Pipeline
from apex_ml.errors import ConfigError
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.sql.quote import identifier
from apex_ml.sql.roles import reader_role
from apex_ml.sql.tables import pipeline_ddl

logger = logging.getLogger(__name__)

FOLDER = CODE_ROOT / "deployment" / "migrations"
_CREATED = re.compile(r'^CREATE (?:TABLE IF NOT EXISTS|OR REPLACE VIEW) ("(?:[^"]|"")+"\.\w+)')
LOCK = 7_261_001
"""Key of the advisory lock under which one process at a time migrates."""
MAX_NAME_BYTES = 63
"""Postgres cuts a longer name: the tables of two pipelines could come into one schema."""


def migration_files(folder: Path = FOLDER) -> list[tuple[int, Path]]:
    """The numbered migrations in row."""
    return sorted((int(path.name.split("_")[0]), path) for path in folder.glob("[0-9]*.sql"))


def migrate(settings: Settings, pipeline: Pipeline) -> None:
    """Apply what the schema of a pipeline lacks; safe to run again and from several processes at once.

    Each migration is one transaction. Raises :class:`~apex_ml.errors.ConfigError` when an applied file was changed
    afterwards, as the database would then no longer be what the files say, when the name of the schema is too long, and
    when the registered model is that of another pipeline.
    """
    with champions(settings, pipeline.schema, pipeline.model_name) as ledger:
        refuse_foreign_model(ledger, pipeline.name, pipeline.model_name)
    migrate_schema(settings, pipeline.contract, pipeline.schema)


def migrate_all(
    settings: Settings, pipelines: Sequence[Pipeline], former: str | None, unreadable: Collection[str] = ()
) -> dict[str, ConfigError]:
    """Apply what the schemas of several pipelines lack, one after the other; returns the refused ones, with the reason.

    The tables of the first edition become those of the pipeline `former` before. Pipelines whose file is `unreadable`
    keep the tables they have, and so does one whose contract the tables cannot hold: it stops no other. Raises as
    :func:`~apex_ml.adapters.postgres.former_schema.move_former_schema`, and as :func:`migrate` when all are refused.
    """
    refused: dict[str, ConfigError] = {}
    with connect(settings, PLATFORM_SCHEMA) as connection:
        move_former_schema(connection, former, LOCK)
    for pipeline in pipelines:
        try:
            migrate(settings, pipeline)
        except ConfigError as error:
            refused[pipeline.name] = error
    if pipelines and len(refused) == len(pipelines):
        raise next(iter(refused.values()))
    migrated = [pipeline for pipeline in pipelines if pipeline.name not in refused]
    with connect(settings, PLATFORM_SCHEMA) as connection:
        record_pipelines(connection, migrated, {*unreadable, *(pipeline.name for pipeline in pipelines)}, LOCK)
    return refused


def migrate_schema(settings: Settings, contract: Contract, schema: str) -> None:
    """Apply what a schema of any name lacks. Raises as :func:`migrate`.

    A contract that the tables cannot hold beside the one they have is refused before anything is applied: another
    target, entity or timestamp, lost classes, an attribute of another type.
    """
    if len(schema.encode()) > MAX_NAME_BYTES:
        raise ConfigError(
            f"schema {schema}: a name in Postgres has at most {MAX_NAME_BYTES} bytes; choose a shorter one"
        )
    with connect(settings, schema) as connection:
        with begin(connection) as session:
            refuse_other_contract(session, contract)
        apply(connection, schema, migration_files(), pipeline_ddl(contract, schema))
        with begin(connection) as session:
            PostgresContracts(session).record(contract.identity())


def apply(connection: Connection, schema: str, files: list[tuple[int, Path]], generated: list[str]) -> None:
    """Apply numbered files and then generated statements on an open connection whose search path is the schema."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        own = [f"{identifier(schema)}.{name}" for name in ("migrations", "generated")]
        cursor.execute("SELECT to_regclass(%s) IS NULL OR to_regclass(%s) IS NULL", own)
        if cursor.fetchone() == (True,):
            _create_schema(cursor, identifier(schema))
        cursor.execute("SELECT number, sha256 FROM migrations")
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
        with_lock_retries(
            connection,
            schema,
            f"{path.name} cannot be applied",
            partial(_apply_file, number, path.name, for_schema(text, schema), sha256),
        )
    with_lock_retries(
        connection, schema, "the views cannot be brought to the contract's state", partial(_apply_generated, generated)
    )
    with connection, connection.cursor() as cursor:
        _grant_to_own_reader(cursor, schema)


def _create_schema(cursor: psycopg2.extensions.cursor, name: str) -> None:
    """Create a schema, by its quoted name, with the two tables of this module."""
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")
    cursor.execute(
        f"CREATE TABLE IF NOT EXISTS {name}.migrations (number integer PRIMARY KEY, name text NOT NULL,"
        " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    cursor.execute(
        f"CREATE TABLE IF NOT EXISTS {name}.generated (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),"
        " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    cursor.execute(
        f"COMMENT ON TABLE {name}.generated IS 'One row: the sha256 of the statements that were last generated from the"
        " contract and applied.'"
    )
    cursor.execute(f"GRANT USAGE ON SCHEMA {name} TO apex_reader")


def _grant_to_own_reader(cursor: psycopg2.extensions.cursor, schema: str) -> None:
    """Let the role of the schema's own reader, where the server has it, read what apex_reader may read here."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))  # two grants at once on one view fail
    role = reader_role(schema)
    cursor.execute(
        "SELECT has_schema_privilege(r.oid, n.oid, 'USAGE') FROM pg_roles AS r, pg_namespace AS n"
        " WHERE r.rolname = %s AND n.nspname = %s",
        (role, schema),
    )
    usage = cursor.fetchone()
    if usage is None:
        return
    if usage == (False,):
        cursor.execute(f"GRANT USAGE ON SCHEMA {identifier(schema)} TO {identifier(role)}")
    cursor.execute(
        "SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relkind = 'v' AND has_table_privilege('apex_reader', c.oid, 'SELECT')"
        " AND NOT has_table_privilege(%s, c.oid, 'SELECT') ORDER BY 1",
        (schema, role),
    )
    if views := [f"{identifier(schema)}.{identifier(view)}" for (view,) in cursor.fetchall()]:
        cursor.execute(f"GRANT SELECT ON {', '.join(views)} TO {identifier(role)}")


def _lock(cursor: psycopg2.extensions.cursor) -> None:
    """Wait for another process that migrates; later, wait only LOCK_TIMEOUT for people who use the tables."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
    cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")


def _apply_file(number: int, name: str, text: str, sha256: str, cursor: psycopg2.extensions.cursor) -> None:
    _lock(cursor)
    cursor.execute("SELECT 1 FROM migrations WHERE number = %s", (number,))
    if cursor.fetchone():  # another process was faster
        return
    try:
        cursor.execute(text)
    except (psycopg2.DataError, psycopg2.IntegrityError, psycopg2.ProgrammingError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"{name} fails: {first}; nothing of it was applied; correct it") from error
    cursor.execute("INSERT INTO migrations (number, name, sha256) VALUES (%s, %s, %s)", (number, name, sha256))
    logger.info("migration_applied name=%s", name)


def _apply_generated(statements: list[str], cursor: psycopg2.extensions.cursor) -> None:
    """Run the statements, unless exactly these were run last and what they create exists."""
    _lock(cursor)
    sha256 = hashlib.sha256("\0".join(statements).encode()).hexdigest()
    cursor.execute("SELECT sha256 FROM generated")
    created = sorted({name for statement in statements for name in _CREATED.findall(statement)})
    if cursor.fetchone() == (sha256,):
        cursor.execute("SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest(%s::text[]) AS name", (created,))
        if cursor.fetchone() == (True,):
            return
    for statement in statements:
        try:
            cursor.execute(statement)
        except psycopg2.errors.InvalidTableDefinition as error:
            what = " ".join(statement.split()[:6])
            raise ConfigError(
                f"{what} …: {str(error).splitlines()[0]}; what the contract generates is changed only by adding:"
                " drop the view, or give the changed one a new name"
            ) from error
    cursor.execute(
        "INSERT INTO generated (sha256) VALUES (%s)"
        " ON CONFLICT (only_row) DO UPDATE SET sha256 = EXCLUDED.sha256, applied_at = now()",
        (sha256,),
    )
