"""The schema apex: which pipelines the platform has or had, and views across them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import psycopg2.extensions

from apex_ml.adapters.postgres.blockers import LOCK_TIMEOUT, with_lock_retries
from apex_ml.adapters.postgres.connection import PLATFORM_SCHEMA, Connection, reading
from apex_ml.adapters.postgres.session import Session
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier, literal

logger = logging.getLogger(__name__)

_CHAMPIONS = (
    "SELECT DISTINCT ON (model_name) model_name, to_version AS version, decided_at AS since, action, who"
    " FROM {schema}.model_history WHERE state = 'done' AND action <> 'reject'"
    " ORDER BY model_name, promotion_id DESC"
)
ACROSS = {
    "all_drops": ("drop_summary", "", "One row for each drop of every pipeline, as in the pipeline's drop_summary."),
    "all_open_alerts": ("open_alerts", "", "One row for each alert of every pipeline that is not resolved."),
    "all_champions": ("model_history", _CHAMPIONS, "One row for each pipeline and model: its champion, since when."),
}
"""Views across pipelines: the view of each pipeline that it reads, its query (empty: all columns), its comment."""


@dataclass(frozen=True)
class KnownPipeline:
    """A pipeline that has, or had, tables on this platform."""

    name: str
    schema: str
    model_name: str
    removed_at: datetime | None
    """When its file was first missing; its tables stay. None: it is there."""


def record_pipelines(
    connection: Connection, pipelines: Sequence[PipelineSettings], present: Collection[str], lock: int
) -> None:
    """Note which pipelines there are, and make the views across all that have tables; no lock when nothing changed.

    `present` has also the names of pipelines whose file cannot be read: they are not removed.
    """
    with_lock_retries(
        connection,
        PLATFORM_SCHEMA,
        f"the schema {PLATFORM_SCHEMA} cannot be brought to its present state",
        partial(_record, pipelines, present, lock),
    )


def known_pipelines(settings: Settings) -> list[KnownPipeline]:
    """Every pipeline that has tables, by name. Raises as :func:`~apex_ml.adapters.postgres.connection.reading`."""
    with reading(settings, PLATFORM_SCHEMA) as session:
        rows = session.fetch("SELECT name, schema_name, model_name, removed_at FROM pipelines ORDER BY name")
    return [KnownPipeline(*row) for row in rows]


def recorded_model(session: Session, schema: str) -> str | None:
    """The registered model of the pipeline that has a schema, by the last `apex up`; None before the first one."""
    if session.fetch_one("SELECT to_regclass(%s) IS NULL", (f"{PLATFORM_SCHEMA}.pipelines",)) == (True,):
        return None
    row = session.fetch_one(f"SELECT model_name FROM {PLATFORM_SCHEMA}.pipelines WHERE schema_name = %s", (schema,))
    return row[0] if row else None


def _record(
    pipelines: Sequence[PipelineSettings],
    present: Collection[str],
    lock: int,
    cursor: psycopg2.extensions.cursor,
) -> None:
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (lock,))
    cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    _create(cursor)
    for pipeline in pipelines:
        digest = hashlib.sha256(pipeline.file.read_bytes()).hexdigest()
        cursor.execute(
            "INSERT INTO known_pipelines AS k (name, schema_name, model_name, file_sha256) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (name) DO UPDATE SET schema_name = EXCLUDED.schema_name, model_name = EXCLUDED.model_name,"
            " file_sha256 = EXCLUDED.file_sha256, removed_at = NULL, changed_at = now()"
            " WHERE (k.schema_name, k.model_name, k.file_sha256) IS DISTINCT FROM"
            " (EXCLUDED.schema_name, EXCLUDED.model_name, EXCLUDED.file_sha256) OR k.removed_at IS NOT NULL",
            (pipeline.name, pipeline.schema, pipeline.model_name, digest),
        )
    cursor.execute(
        "UPDATE known_pipelines SET removed_at = now() WHERE removed_at IS NULL AND name <> ALL(%s)", (list(present),)
    )
    _make_views(cursor)


def _create(cursor: psycopg2.extensions.cursor) -> None:
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{PLATFORM_SCHEMA}.pipelines",))
    if cursor.fetchone() == (True,):
        return
    for statement in (
        f"CREATE SCHEMA IF NOT EXISTS {PLATFORM_SCHEMA}",
        f"GRANT USAGE ON SCHEMA {PLATFORM_SCHEMA} TO apex_reader",
        "CREATE TABLE known_pipelines (name text PRIMARY KEY, schema_name text NOT NULL, model_name text NOT NULL,"
        " file_sha256 text NOT NULL, first_seen timestamptz NOT NULL DEFAULT now(),"
        " changed_at timestamptz NOT NULL DEFAULT now(), removed_at timestamptz)",
        "COMMENT ON TABLE known_pipelines IS 'One row for each pipeline that has, or had, tables on this platform.'",
        "CREATE VIEW pipelines AS SELECT * FROM known_pipelines",
        "COMMENT ON VIEW pipelines IS 'One row for each pipeline that has, or had, tables on this platform."
        " file_sha256: digest of its file, as of changed_at. removed_at: when `apex up` first missed its file; its"
        " tables stay.'",
        "GRANT SELECT ON pipelines TO apex_reader",
    ):
        cursor.execute(statement)


def _make_views(cursor: psycopg2.extensions.cursor) -> None:
    """Make each view across the pipelines again, unless it is there for these pipelines with these columns."""
    for view, (source, query, about) in ACROSS.items():
        columns = _columns(cursor, source)
        if not columns:
            cursor.execute(f"DROP VIEW IF EXISTS {view}")
            continue
        common = [c for c in next(iter(columns.values())) if all(c in names for names in columns.values())]
        branches = [
            f"SELECT {literal(schema)}::text AS pipeline, one.* FROM ("
            + (query.format(schema=identifier(schema)) or _all_columns(schema, source, common))
            + ") AS one"
            for schema in columns
        ]
        statement = f"CREATE VIEW {view} AS {' UNION ALL '.join(branches)}"
        digest = hashlib.sha256(statement.encode()).hexdigest()[:16]
        comment = f"{about} Made for {', '.join(columns)} ({digest})."
        cursor.execute("SELECT obj_description(to_regclass(%s))", (f"{PLATFORM_SCHEMA}.{view}",))
        if cursor.fetchone() == (comment,):
            continue
        cursor.execute(f"DROP VIEW IF EXISTS {view}")
        cursor.execute(statement)
        cursor.execute(f"COMMENT ON VIEW {view} IS {literal(comment)}")
        cursor.execute(f"GRANT SELECT ON {view} TO apex_reader")
        logger.info("view_across_pipelines name=%s pipelines=%s", view, ",".join(columns))


def _all_columns(schema: str, source: str, columns: Sequence[str]) -> str:
    return f"SELECT {', '.join(map(identifier, columns))} FROM {identifier(schema)}.{source}"


def _columns(cursor: psycopg2.extensions.cursor, view: str) -> dict[str, list[str]]:
    """The columns of a view of every known pipeline that has it, by schema."""
    cursor.execute(
        "SELECT k.schema_name, array_agg(a.attname::text ORDER BY a.attnum) FROM known_pipelines AS k"
        " JOIN pg_namespace AS n ON n.nspname = k.schema_name"
        " JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = %s AND c.relkind = 'v'"
        " JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " GROUP BY 1 ORDER BY 1",
        (view,),
    )
    return dict(cursor.fetchall())
