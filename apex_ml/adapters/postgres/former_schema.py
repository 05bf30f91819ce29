"""Move the tables of the first edition, which has them in the schema apex, into the schema of their pipeline.

No row is copied: the schema is renamed. The views that people read keep their old names in a new schema apex.
"""

from __future__ import annotations

import logging
from functools import partial

import psycopg2.extensions

from apex_ml.adapters.postgres.blockers import LOCK_TIMEOUT, with_lock_retries
from apex_ml.adapters.postgres.connection import PLATFORM_SCHEMA, Connection
from apex_ml.adapters.postgres.schema_names import for_schema
from apex_ml.errors import ConfigError
from apex_ml.faults import reach
from apex_ml.sql.quote import identifier, literal

logger = logging.getLogger(__name__)

_FIRST_TABLE = f"{PLATFORM_SCHEMA}.migrations"
"""The table that every database of the first edition has there."""
_TABLES = """
SELECT c.relname::text FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1
"""
_READABLE_VIEWS = """
SELECT c.relname::text FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'v' AND has_table_privilege('apex_reader', c.oid, 'SELECT')
ORDER BY 1
"""
RENAMED = {"scored_orders_current": "scored_current", "channel_mix_daily": "class_mix_daily"}
"""Views that a migration renames after the move, old name: present name."""
_FUNCTIONS = "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = to_regnamespace(%s) ORDER BY oid"


def move_former_schema(connection: Connection, pipeline: str | None, lock: int) -> bool:
    """Move the first edition's tables, if there are any, into the schema of a pipeline that has none; return whether.

    It is one transaction, under the advisory lock of the migrations. Raises
    :class:`~apex_ml.errors.ConfigError` when the pipeline is unclear (None), and
    :class:`~apex_ml.errors.TransientError` when other sessions hold the tables.
    """
    if not _has_former_tables(connection):
        return False
    if pipeline is None:
        raise ConfigError(
            "the tables in the schema apex are of the first edition, and there are several pipelines: write the name of"
            " the pipeline that they belong to into .env, APEX_PIPELINE=NAME"
        )
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace(%s) IS NOT NULL", (identifier(pipeline),))
        if cursor.fetchone() == (True,):
            logger.warning("former_tables_stay schema=%s reason=pipeline %s has a schema", PLATFORM_SCHEMA, pipeline)
            return False
    with_lock_retries(
        connection,
        PLATFORM_SCHEMA,
        f"the tables of the first edition cannot be moved into the schema {pipeline}",
        partial(_move, pipeline, lock),
    )
    reach("former_schema_committed")
    return True


def _has_former_tables(connection: Connection) -> bool:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (_FIRST_TABLE,))
        return bool(cursor.fetchone() == (True,))


def _move(pipeline: str, lock: int, cursor: psycopg2.extensions.cursor) -> None:
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (lock,))
    cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    name = identifier(pipeline)
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL AND to_regnamespace(%s) IS NULL", (_FIRST_TABLE, name))
    if cursor.fetchone() != (True,):  # another process was faster
        return
    cursor.execute(_TABLES, (PLATFORM_SCHEMA,))
    tables = ", ".join(f"{PLATFORM_SCHEMA}.{identifier(table)}" for (table,) in cursor.fetchall())
    # renaming a schema waits for nobody: a step of the first edition must not find half of its tables elsewhere
    cursor.execute(f"LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE")
    cursor.execute(f"ALTER SCHEMA {PLATFORM_SCHEMA} RENAME TO {name}")
    cursor.execute(_FUNCTIONS, (name,))
    for (definition,) in cursor.fetchall():
        cursor.execute(for_schema(definition, pipeline))  # the body is text and still names the schema apex
    cursor.execute(f"CREATE SCHEMA {PLATFORM_SCHEMA}")
    cursor.execute(f"GRANT USAGE ON SCHEMA {PLATFORM_SCHEMA} TO apex_reader")
    cursor.execute(_READABLE_VIEWS, (name,))
    for (view,) in cursor.fetchall():
        _keep_old_name(cursor, identifier(view), f"{name}.{identifier(view)}", f"{pipeline}.{RENAMED.get(view, view)}")
    reach("former_schema_moved")
    logger.info("former_tables_moved from=%s to=%s", PLATFORM_SCHEMA, pipeline)


def _keep_old_name(cursor: psycopg2.extensions.cursor, view: str, present: str, label: str) -> None:
    """A view under an old name. It keeps its columns' names when those of the present view are renamed."""
    cursor.execute(f"CREATE VIEW {PLATFORM_SCHEMA}.{view} AS SELECT * FROM {present}")
    comment = literal(f"Old name of {label}, kept for one version.")
    cursor.execute(f"COMMENT ON VIEW {PLATFORM_SCHEMA}.{view} IS {comment}")
    cursor.execute(f"GRANT SELECT ON {PLATFORM_SCHEMA}.{view} TO apex_reader")
