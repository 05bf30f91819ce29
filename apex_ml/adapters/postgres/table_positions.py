"""How far the commits of a table that is a source of drops were handled."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.session import Session
from apex_ml.adapters.storage.table_log import Position


class TablePositions(Protocol):
    """The positions in tables, by location and id of the table."""

    def position(self, place: str, table_id: str) -> Position | None:
        """How far a table was handled; None before the first look at it."""
        ...

    def begin(self, place: str, table_id: str, position: Position) -> None:
        """Begin behind a position, unless the table was begun before.

        At a place where another table was before, or none, every commit is new.
        """

    def advance(self, place: str, table_id: str, position: Position) -> None:
        """Note how far a table was handled."""


class PostgresTablePositions(TablePositions):
    """The table table_positions."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @override
    def position(self, place: str, table_id: str) -> Position | None:
        row = self._session.fetch_one(
            "SELECT version, committed_at, sequence FROM table_positions WHERE place = %s AND table_id = %s",
            (place, table_id),
        )
        return None if row is None else Position(*row)

    @override
    def begin(self, place: str, table_id: str, position: Position) -> None:
        self._session.execute(
            "INSERT INTO table_positions (place, table_id, version, committed_at, sequence)"
            " SELECT %(place)s, %(table_id)s, CASE WHEN is_first THEN %(version)s::bigint END,"
            " CASE WHEN is_first THEN %(committed_at)s::timestamptz END,"
            " CASE WHEN is_first THEN %(sequence)s::bigint END"
            " FROM (SELECT NOT EXISTS (SELECT FROM table_positions WHERE place = %(place)s) AS is_first) AS other"
            " ON CONFLICT (place, table_id) DO NOTHING",
            {
                "place": place,
                "table_id": table_id,
                "version": position.version,
                "committed_at": position.committed_at,
                "sequence": position.sequence,
            },
        )

    @override
    def advance(self, place: str, table_id: str, position: Position) -> None:
        self._session.execute(
            "UPDATE table_positions SET version = %s, committed_at = %s, sequence = %s"
            " WHERE place = %s AND table_id = %s",
            (position.version, position.committed_at, position.sequence, place, table_id),
        )
