"""What an aggregate needs of Postgres: an open transaction in which it runs statements.

Two drivers implement it: psycopg2 (:mod:`~apex_ml.adapters.postgres.connection`) and ADBC, which also streams rows in
bulk (:mod:`~apex_ml.adapters.postgres.bulk`). An aggregate that only needs a :class:`Session` works in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # Airflow raises alerts through this package, and its image has no Arrow
    import pyarrow as pa

Parameters = Sequence[object] | Mapping[str, object]
Row = tuple[Any, ...]
"""The values of one row, as the driver reads them; an aggregate makes a typed row of them."""
SECOND_KEY = "hashtext(current_schema())"
"""Second key of an advisory lock that each schema has for itself: pipelines on one database do not wait for another."""


class Session(Protocol):
    """Runs statements in a transaction that its caller began and ends.

    Parameters are written as psycopg2 does: ``%s`` with a sequence, ``%(name)s`` with a mapping. A value whose type
    Postgres must not guess is cast in the statement.
    """

    def execute(self, statement: str, parameters: Parameters = ()) -> None:
        """Run a statement and ignore its rows."""

    def fetch(self, statement: str, parameters: Parameters = ()) -> list[Row]:
        """Run a statement and return its rows."""
        ...

    def fetch_one(self, statement: str, parameters: Parameters = ()) -> Row | None:
        """Run a statement and return its first row; None without one."""
        rows = self.fetch(statement, parameters)
        return rows[0] if rows else None


class BulkSession(Session, Protocol):
    """A session that also streams Arrow data to and from Postgres, in the same transaction."""

    def ingest(
        self, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, temporary: bool = False
    ) -> int:
        """Append batches to a table of the session's schema, or to a temporary table; return the number of rows.

        An error raised while a batch is made is raised as it is.
        """
        ...

    def stream(self, statement: str, parameters: Parameters = ()) -> pa.RecordBatchReader:
        """Run a query and return its rows as a stream of record batches."""
        ...
