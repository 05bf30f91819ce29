"""Other sessions in Postgres: which hold the locks, which hold the connections, and how to wait for them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from apex_ml.adapters.postgres.errors import LOCKED, is_full
from apex_ml.errors import TransientError

MAX_LISTED = 5
"""Sessions that a message names."""
LOCK_TIMEOUT = "5s"
"""Timeout of a change of a table or view that waits for other sessions; later sessions wait behind it."""
MAX_TRIES = 3
_LOCK_HOLDERS = """
SELECT a.pid, a.usename, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'the socket'),
       coalesce(a.state, ''), a.xact_start, left(coalesce(a.query, ''), 120), string_agg(DISTINCT c.relname, ', ')
FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s) AND c.relkind IN ('r', 'p', 'v')
  AND l.pid <> pg_backend_pid()
GROUP BY a.pid, a.usename, a.application_name, a.client_addr, a.state, a.xact_start, a.query
ORDER BY a.xact_start NULLS LAST, a.pid
"""
_CONNECTION_HOLDERS = """
SELECT usename, coalesce(application_name, ''), count(*) FROM pg_stat_activity WHERE usename IS NOT NULL
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 10
"""


def with_lock_retries(
    connection: psycopg2.extensions.connection,
    schema: str,
    failure: str,
    change: Callable[[psycopg2.extensions.cursor], None],
) -> None:
    """Run a change in a transaction that waits for the locks of others only for the time that it sets itself.

    Between the tries, those who queue behind it get their turn. After the last one it raises
    :class:`~apex_ml.errors.TransientError` that begins with `failure` and names the sessions that hold the locks
    of the schema's tables and views.
    """
    for attempt in range(1, MAX_TRIES + 1):
        try:
            with connection, connection.cursor() as cursor:
                change(cursor)
            return
        except psycopg2.errors.LockNotAvailable as error:
            if attempt == MAX_TRIES:
                raise _locked(connection, schema, failure) from error


def _locked(connection: psycopg2.extensions.connection, schema: str, failure: str) -> TransientError:
    connection.rollback()
    with connection.cursor() as cursor:
        sessions = _lock_holders(schema, cursor)
    connection.rollback()
    return TransientError(
        f"{failure}: other sessions use the tables or views that must be changed:\n  {sessions or 'none any more'}\n"
        "Wait for them, or end one: apex sql -c 'SELECT pg_terminate_backend(PID)'; then run again"
    )


def _lock_holders(schema: str, cursor: psycopg2.extensions.cursor) -> str:
    """The sessions that hold tables or views of a schema, the oldest transaction first; empty when there is none.

    A role without pg_read_all_stats does not see the applications and queries of others.
    """
    cursor.execute(_LOCK_HOLDERS, (schema,))
    holders = cursor.fetchall()
    lines = []
    for pid, user, application, address, state, since, query, relations in holders[:MAX_LISTED]:
        began = f" in a transaction since {since.astimezone(UTC):%F %T} UTC" if isinstance(since, datetime) else ""
        program = f" ({application})" if application else ""
        lines.append(
            f"session {pid} of {user}{program} from {address}, {state}{began}, holds {relations}; query: {query}"
        )
    if len(holders) > MAX_LISTED:
        lines.append(f"and {len(holders) - MAX_LISTED} more")
    return "\n  ".join(lines)


def _connection_holders(cursor: psycopg2.extensions.cursor) -> str:
    """How many connections each role and application holds."""
    cursor.execute(_CONNECTION_HOLDERS)
    return ", ".join(f"{user} {n}" + (f" ({program})" if program else "") for user, program, n in cursor.fetchall())


def blockers(url: str, text: str, code: str | None, other_url: str = "", schema: str = "") -> str:
    """The sessions that caused an error: the holders of connections, or of locks in a schema; mostly empty.

    `other_url` is of another role on the same server: by `url` itself no connection is left.
    """
    if is_full(text):
        return _ask(other_url, _connection_holders) if other_url else ""
    return _ask(url, partial(_lock_holders, schema)) if code == LOCKED else ""


def _ask(url: str, question: Callable[[psycopg2.extensions.cursor], str]) -> str:
    """The answer of a server; empty when it does not give one."""
    try:
        connection = psycopg2.connect(url, connect_timeout=3, application_name="apex")
    except psycopg2.Error:
        return ""
    try:
        with connection, connection.cursor() as cursor:
            return question(cursor)
    except psycopg2.Error:
        return ""
    finally:
        connection.close()
