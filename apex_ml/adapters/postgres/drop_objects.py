"""Which objects of an object store are known: they are neither downloaded nor listed as waiting again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.session import Session
from apex_ml.adapters.storage.storage import StoredFile
from apex_ml.adapters.storage.waiting import KnownObject

BATCH = 10_000
"""Objects that one query looks up."""


class DropObjects(Protocol):
    """The objects whose content is known. An object is its URL, its version and the time of its last change."""

    def known(self, places: Sequence[tuple[str, StoredFile]]) -> dict[str, KnownObject]:
        """Of these URLs and files the known ones, by URL."""
        ...

    def note(self, places: Sequence[tuple[str, StoredFile]], sha256: str) -> None:
        """Note the content of the objects of a drop."""

    def mark(self, place: str) -> tuple[str, datetime] | None:
        """The key up to which every object of a location is known, and when all were listed last; None at first."""
        ...

    def set_mark(self, place: str, mark: str, full_at: datetime) -> None:
        """Note the key up to which every object of a location is known."""


class PostgresDropObjects(DropObjects):
    """The table drop_objects."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @override
    def known(self, places: Sequence[tuple[str, StoredFile]]) -> dict[str, KnownObject]:
        known: dict[str, KnownObject] = {}
        remaining = iter(places)
        while batch := dict(islice(remaining, BATCH)):
            rows = self._session.fetch(
                "SELECT o.place, o.version, o.modified, o.sha256, coalesce(d.state, 'removed') FROM drop_objects o"
                " LEFT JOIN drops d USING (sha256) WHERE o.place = ANY(%s)",
                (list(batch),),
            )
            for place, version, modified, sha256, state in rows:
                file = batch[place]
                if file.version == version and modified == _moment(file):
                    known[place] = KnownObject(sha256, state)
        return known

    @override
    def note(self, places: Sequence[tuple[str, StoredFile]], sha256: str) -> None:
        urls = [place for place, _ in places]
        files = [file for _, file in places]
        self._session.execute(
            "INSERT INTO drop_objects (place, version, modified, bytes, sha256)"
            " SELECT *, %s FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::bigint[])"
            " ON CONFLICT (place) DO UPDATE SET version = EXCLUDED.version, modified = EXCLUDED.modified,"
            " bytes = EXCLUDED.bytes, sha256 = EXCLUDED.sha256, noted_at = now()",
            (sha256, urls, [file.version for file in files], list(map(_moment, files)), [file.size for file in files]),
        )

    @override
    def mark(self, place: str) -> tuple[str, datetime] | None:
        row = self._session.fetch_one("SELECT mark, full_at FROM object_listings WHERE place = %s", (place,))
        return None if row is None else (str(row[0]), row[1])

    @override
    def set_mark(self, place: str, mark: str, full_at: datetime) -> None:
        self._session.execute(
            "INSERT INTO object_listings (place, mark, full_at) VALUES (%s, %s, %s)"
            " ON CONFLICT (place) DO UPDATE SET mark = EXCLUDED.mark, full_at = EXCLUDED.full_at",
            (place, mark, full_at),
        )


def _moment(file: StoredFile) -> datetime:
    """The last change of an object, to the second: a listing and a request of it may differ in precision."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=file.modified_ns // 1_000_000_000)
