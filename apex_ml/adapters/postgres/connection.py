"""Connections of psycopg2 as the roles apex_writer and apex_reader, and the transactions on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from typing_extensions import override

from apex_ml.adapters.postgres.blockers import blockers
from apex_ml.adapters.postgres.errors import as_apex_error, is_full
from apex_ml.adapters.postgres.session import Parameters, Row, Session
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier

Connection = psycopg2.extensions.connection
DriverError = psycopg2.Error
"""What psycopg2 raises outside of :func:`map_driver_errors`."""
PLATFORM_SCHEMA = "apex"
"""The schema of what is about several pipelines; each pipeline has one of its own."""


class PsycopgSession(Session):
    """A session on a cursor of psycopg2."""

    def __init__(self, cursor: psycopg2.extensions.cursor) -> None:
        self._cursor = cursor

    @override
    def execute(self, statement: str, parameters: Parameters = ()) -> None:
        # psycopg2 looks for placeholders only when it is given parameters
        self._cursor.execute(statement, parameters or None)

    @override
    def fetch(self, statement: str, parameters: Parameters = ()) -> list[Row]:
        self.execute(statement, parameters)
        return self._cursor.fetchall()

    def fetch_dicts(self, statement: str, parameters: Parameters = ()) -> list[dict[str, Any]]:
        """Run a statement and return its rows by column name: for what becomes JSON or a page as it is."""
        rows = self.fetch(statement, parameters)
        names = [column.name for column in self._cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def execute_values(self, statement: str, rows: Iterable[Sequence[object]], template: str | None = None) -> None:
        """Run a statement whose ``VALUES %s`` stands for many rows, a thousand at a time."""
        psycopg2.extras.execute_values(self._cursor, statement, rows, template, page_size=1000)


@contextmanager
def map_driver_errors(url: str, other_url: str = "", schema: str = "") -> Iterator[None]:
    """Turn an error of psycopg2 into one of ours that names the server and the remedy.

    A call that never reached the server is a fault of the caller and raised as it is. `other_url` is of another role
    on the same server: by it the error finds out who holds the connections when none is left. `schema` is that of the
    tables whose locks the block waits for.
    """
    try:
        yield
    except psycopg2.Error as error:
        if error.pgcode is None and isinstance(error, psycopg2.ProgrammingError):
            raise
        text = str(error) or type(error).__name__
        others = blockers(url, text, error.pgcode, other_url, schema)
        raise as_apex_error(url, text, error.pgcode, others=others) from error


def clock_option(settings: Settings) -> str:
    """The option of libpq by which the ledger follows the clock of the settings; empty when that is the machine's."""
    offset = settings.clock_offset
    return f"-c apex.clock_offset={offset.total_seconds():.6f}s" if offset else ""


def search_path(schema: str) -> str:
    r"""The option of libpq by which statements find the tables of a schema alone, beside what Postgres brings itself.

    >>> print(search_path("claims"), search_path("my claims"))
    -c search_path="claims" -c search_path="my\ claims"
    """
    escaped = re.sub(r"([\\\s])", r"\\\1", identifier(schema))
    return f"-c search_path={escaped}"


@contextmanager
def connect(settings: Settings, schema: str) -> Iterator[Connection]:
    """Open a connection as the writer, whose statements name the tables of a schema; the caller owns its transactions.

    Raises :class:`~apex_ml.errors.TransientError` naming the address when Postgres does not answer, also half way, and
    as :func:`~apex_ml.adapters.postgres.errors.as_apex_error` does for what it refuses.
    """
    options = f"-c timezone=UTC {search_path(schema)} {clock_option(settings)}"
    with _connected(settings, options, schema) as connection:
        yield connection


@contextmanager
def _connected(settings: Settings, options: str = "", schema: str = "") -> Iterator[Connection]:
    url = settings.writer_url
    with map_driver_errors(url, settings.reader_url, schema):
        connection = psycopg2.connect(url, connect_timeout=10, application_name="apex", options=options)
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def begin(connection: Connection) -> Iterator[PsycopgSession]:
    """Run the block as one transaction of a connection: commit at its end, roll back when it raises."""
    with connection, connection.cursor() as cursor:
        yield PsycopgSession(cursor)


@contextmanager
def transaction(settings: Settings, schema: str) -> Iterator[PsycopgSession]:
    """Connect as the writer and run the block as one transaction on the tables of a schema."""
    with connect(settings, schema) as connection, begin(connection) as session:
        yield session


@contextmanager
def autocommitted(settings: Settings, schema: str) -> Iterator[PsycopgSession]:
    """Connect as the writer to the tables of a schema; each statement of the block is committed by itself."""
    with connect(settings, schema) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield PsycopgSession(cursor)


def ping(settings: Settings) -> None:
    """Ask Postgres for an answer. Raises as :func:`connect` does."""
    with _connected(settings) as connection, begin(connection) as session:
        session.execute("SELECT 1")


def ping_reader(settings: Settings) -> None:
    """Connect as the reader and leave again, for a program that does this next.

    Raises as :func:`connect` does, also when people hold all connections of that role.
    """
    with map_driver_errors(settings.reader_url, settings.writer_url):
        psycopg2.connect(settings.reader_url, connect_timeout=5, application_name="apex sql").close()


def connect_reader(settings: Settings, schema: str, options: str = "", **arguments: Any) -> Connection:
    """Connect as the reader to the views of a schema; when people hold all connections of that role, as the writer.

    The writer may only read then. Raises psycopg2's OperationalError.
    """
    options = f"{search_path(schema)} {options}".strip()
    try:
        connection: Connection = psycopg2.connect(settings.reader_url, options=options, **arguments)
    except psycopg2.OperationalError as error:
        if not is_full(str(error)):
            raise
        read_only = f"{options} -c default_transaction_read_only=on"
        connection = psycopg2.connect(settings.writer_url, options=read_only, **arguments)
    return connection


@contextmanager
def reading(settings: Settings, schema: str) -> Iterator[PsycopgSession]:
    """Connect as the reader and run the block as one transaction on the views of a schema.

    Raises as :func:`connect` does.
    """
    with map_driver_errors(settings.reader_url, settings.writer_url, schema):
        connection = connect_reader(settings, schema, connect_timeout=10, application_name="apex")
        try:
            with begin(connection) as session:
                yield session
        finally:
            connection.close()
