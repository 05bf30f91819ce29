"""Other sessions in Postgres: who stands in the way, who holds the connections, and how to read all the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from apex_ml.adapters.postgres.errors import LOCKED, is_full
from apex_ml.errors import TransientError
from apex_ml.settings import Settings

SHOWN = 5
"""So many sessions are named in a message."""
LOCK_TIMEOUT = "5s"
"""How long a change of a table or view waits for those who use it; who comes meanwhile waits behind it."""
TRIES = 3
_IN_THE_WAY = """
SELECT a.pid, a.usename, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'the socket'),
       coalesce(a.state, ''), a.xact_start, left(coalesce(a.query, ''), 120), string_agg(DISTINCT c.relname, ', ')
FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND c.relnamespace = to_regnamespace('apex') AND c.relkind IN ('r', 'p', 'v') AND l.pid <> pg_backend_pid()
GROUP BY a.pid, a.usename, a.application_name, a.client_addr, a.state, a.xact_start, a.query
ORDER BY a.xact_start NULLS LAST, a.pid
"""
_HOLDERS = """
SELECT usename, coalesce(application_name, ''), count(*) FROM pg_stat_activity WHERE usename IS NOT NULL
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""


def in_the_way(cursor: Any) -> str:
    """The sessions that hold tables or views of Apex, the oldest transaction first, in words; empty when there is none.

    With the remedy for the first one. Applications and queries of others are told to whom has pg_read_all_stats.
    """
    cursor.execute(_IN_THE_WAY)
    found = cursor.fetchall()
    lines = []
    for pid, user, application, address, state, since, query, relations in found[:SHOWN]:
        began = f" in a transaction since {since.astimezone(UTC):%F %T} UTC" if isinstance(since, datetime) else ""
        by = f" ({application})" if application else ""
        lines.append(f"session {pid} of {user}{by} from {address}, {state}{began}, holds {relations}; query: {query}")
    if len(found) > SHOWN:
        lines.append(f"and {len(found) - SHOWN} more")
    return "\n  ".join(lines)


def held_up(connection: psycopg2.extensions.connection, what: str) -> TransientError:
    """The error that something waits for other sessions, naming them. The connection's transaction is rolled back."""
    connection.rollback()
    with connection.cursor() as cursor:
        told = in_the_way(cursor)
    connection.rollback()
    return TransientError(
        f"{what}: other sessions use the tables or views that must be changed:\n  {told or 'none any more'}\nWait for"
        " them, or end one: apex sql -c 'SELECT pg_terminate_backend(PID)'; then run again"
    )


def patiently(connection: psycopg2.extensions.connection, what: str, change: Callable[[Any], None]) -> None:
    """Run a change in a transaction that does not wait for ever for the locks of others.

    Between the tries those who waited behind it get their turn. Raises :class:`~apex_ml.errors.TransientError` that
    names the sessions in the way.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with connection, connection.cursor() as cursor:
                change(cursor)
            return
        except psycopg2.errors.LockNotAvailable as error:
            if attempt == TRIES:
                raise held_up(connection, what) from error


def holders(url: str) -> str:
    """Who holds how many connections of a server, in words; empty when it does not answer."""
    try:
        connection = psycopg2.connect(url, connect_timeout=3, application_name="apex")
    except psycopg2.Error:
        return ""
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(_HOLDERS)
            return ", ".join(f"{user} {n}" + (f" ({a})" if a else "") for user, a, n in cursor.fetchmany(10))
    except psycopg2.Error:
        return ""
    finally:
        connection.close()


def others(url: str, text: str, code: str | None, ask: str = "") -> str:
    """Who is to be named with an error: those who hold the connections, or what was waited for; mostly empty.

    `ask` is another URL of the same server: by `url` itself no connection is left.
    """
    if is_full(text):
        return holders(ask) if ask else ""
    if code != LOCKED:
        return ""
    try:
        connection = psycopg2.connect(url, connect_timeout=3, application_name="apex")
    except psycopg2.Error:
        return ""
    try:
        with connection, connection.cursor() as cursor:
            return in_the_way(cursor)
    finally:
        connection.close()


def connect_reader(settings: Settings, options: str = "", **arguments: Any) -> psycopg2.extensions.connection:
    """Connect as the reader; when people hold all connections of that role, as the writer who may only read.

    Raises psycopg2's OperationalError.
    """
    try:
        connection: psycopg2.extensions.connection = psycopg2.connect(settings.reader_url, options=options, **arguments)
    except psycopg2.OperationalError as error:
        if not is_full(str(error)):
            raise
        read_only = f"{options} -c default_transaction_read_only=on".strip()
        connection = psycopg2.connect(settings.writer_url, options=read_only, **arguments)
    return connection
