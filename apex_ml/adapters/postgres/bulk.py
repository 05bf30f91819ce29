"""Transactions of ADBC: bulk rows stream as Arrow into binary COPY, and small statements share the transaction."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from urllib.parse import quote

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from typing_extensions import override

from apex_ml.adapters.postgres.blockers import blockers
from apex_ml.adapters.postgres.connection import clock_option, search_path
from apex_ml.adapters.postgres.errors import as_apex_error
from apex_ml.adapters.postgres.session import BulkSession, Parameters, Row
from apex_ml.settings import Settings

CONNECT_SECONDS = 10
DriverError = adbc.Error
"""What ADBC raises outside of a transaction of this module."""
_PLACEHOLDER = re.compile(r"%(?:\((\w+)\)s|(s)|%)")


@lru_cache(256)
def numbered(statement: str) -> tuple[str, tuple[str, ...]]:
    """A statement with the placeholders of psycopg2 in the form that ADBC takes, and the names in their order.

    >>> numbered("SELECT %(a)s, %(b)s + %(a)s, 7 %% 2")
    ('SELECT $1, $2 + $1, 7 % 2', ('a', 'b'))
    >>> numbered("SELECT %s, %s")
    ('SELECT $1, $2', ())
    """
    names: dict[str, int] = {}
    count = 0

    def place(match: re.Match[str]) -> str:
        nonlocal count
        if match[1]:
            return f"${names.setdefault(match[1], len(names) + 1)}"
        if not match[2]:
            return "%"
        count += 1
        return f"${count}"

    return _PLACEHOLDER.sub(place, statement), tuple(names)


class AdbcSession(BulkSession):
    """A session on a cursor of ADBC, whose connection names the tables of a schema."""

    def __init__(self, cursor: adbc.Cursor, schema: str) -> None:
        self._cursor = cursor
        self._schema = schema

    @override
    def execute(self, statement: str, parameters: Parameters = ()) -> None:
        if not parameters:
            self._cursor.execute(statement)
            return
        text, names = numbered(statement)
        values = [parameters[name] for name in names] if isinstance(parameters, dict) else list(parameters)
        self._cursor.execute(text, values)

    @override
    def fetch(self, statement: str, parameters: Parameters = ()) -> list[Row]:
        self.execute(statement, parameters)
        rows: list[Row] = self._cursor.fetchall()
        return rows

    @override
    def ingest(
        self, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, temporary: bool = False
    ) -> int:
        failures: list[Exception] = []

        def remembered() -> Iterator[pa.RecordBatch]:
            try:
                for batch in batches:
                    if batch.schema != schema:  # else the driver reports it as a fault of the server
                        raise TypeError(f"rows for {table} have the columns {batch.schema}, not {schema}")
                    yield batch
            except Exception as error:
                failures.append(error)
                raise

        reader = pa.RecordBatchReader.from_batches(schema, remembered())
        place = {"temporary": True} if temporary else {"db_schema_name": self._schema}
        try:
            return int(self._cursor.adbc_ingest(table, reader, mode="append", **place))
        except adbc.Error:
            if failures:  # the driver would report it as one of its own
                raise failures[0] from None
            raise

    @override
    def stream(self, statement: str, parameters: Parameters = ()) -> pa.RecordBatchReader:
        self.execute(statement, parameters)
        return self._cursor.fetch_record_batch()


@contextmanager
def _mapped_errors(url: str, schema: str, written: str = "nothing was written", other_url: str = "") -> Iterator[None]:
    try:
        yield
    except adbc.Error as error:
        if not error.sqlstate and isinstance(error, adbc.ProgrammingError):
            raise  # it never reached the server: a fault of the caller
        text = str(error) or type(error).__name__
        code = error.sqlstate or None
        raise as_apex_error(url, text, code, written, blockers(url, text, code, other_url, schema)) from error


@contextmanager
def bulk_transactions(settings: Settings, schema: str) -> Iterator[Callable[[], AbstractContextManager[BulkSession]]]:
    """Connect, and yield a function that begins one transaction after the other, each as :func:`bulk_transaction`."""
    url = settings.writer_url
    with _mapped_errors(url, schema, other_url=settings.reader_url):
        # without a timeout a server that accepts and never answers would block the step forever
        options = quote(f"{search_path(schema)} {clock_option(settings)}")
        options = f"connect_timeout={CONNECT_SECONDS}&options={options}"
        connection = adbc.connect(f"{url}{'&' if '?' in url else '?'}{options}")

    @contextmanager
    def begin() -> Iterator[BulkSession]:
        with _mapped_errors(url, schema), connection.cursor() as cursor:
            try:
                yield AdbcSession(cursor, schema)
            except BaseException:
                connection.rollback()
                raise
            # a server that is lost here may have written all of it or nothing
            with _mapped_errors(url, schema, "the next run asks the ledger whether it was written"):
                connection.commit()

    try:
        yield begin
    finally:
        with suppress(adbc.Error):  # a lost connection was reported where it was needed
            connection.close()


@contextmanager
def bulk_transaction(settings: Settings, schema: str) -> Iterator[BulkSession]:
    """Connect as the writer and run the block as one transaction on the tables of a schema.

    It is committed at the end of the block, and rolled back when the block raises.

    Raises :class:`~apex_ml.errors.TransientError` when Postgres does not answer or goes away half way.
    """
    with bulk_transactions(settings, schema) as begin, begin() as session:
        yield session
