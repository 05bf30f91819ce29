"""Quarantined rows: what broke the contract, with all its reasons, from raw files and from drops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

import pyarrow as pa
from typing_extensions import override

from apex_ml.adapters.postgres.session import BulkSession, Session

Source = Literal["raw", "drop"]
_PARTS = pa.schema([("part", pa.string()), ("part_row", pa.int64())])
_TEXTS = pa.schema([("row_nr", pa.int64()), ("reasons", pa.string()), ("row", pa.string()), *_PARTS])


class QuarantineStore(Protocol):
    """The quarantined rows by the content of their file."""

    def keep(
        self, source: Source, sha256: str, name: str, batches: Iterable[pa.RecordBatch], limit: int | None = None
    ) -> None:
        """Keep quarantined rows of one file, at most the first `limit`; rows kept before stay. Once a transaction.

        The batches have `row_nr`, `reasons` and `row` as JSON text, and of a folder `part` and `part_row`. A NUL in the
        text is left out.
        """


class PostgresQuarantine(QuarantineStore):
    """The quarantined rows in the table quarantined_rows."""

    def __init__(self, session: BulkSession) -> None:
        self._session = session

    @override
    def keep(
        self, source: Source, sha256: str, name: str, batches: Iterable[pa.RecordBatch], limit: int | None = None
    ) -> None:
        self._session.execute(
            "CREATE TEMP TABLE quarantined_text (row_nr bigint, reasons text, row text, part text, part_row bigint)"
            " ON COMMIT DROP"
        )
        if not self._session.ingest("quarantined_text", _TEXTS, _texts(batches, limit), temporary=True):
            return
        self._session.execute(
            "INSERT INTO quarantined_rows (source_kind, source_sha256, source_name, row_nr, reasons, row, part,"
            f" part_row) SELECT %s, %s, %s, row_nr, {_without_nul('reasons')}, {_without_nul('row')}, part, part_row"
            " FROM quarantined_text"
            " ON CONFLICT DO NOTHING",
            (source, sha256, name),
        )


def delete_quarantined(session: Session, source: Source, sha256s: Sequence[str]) -> None:
    """Delete the quarantined rows of some contents."""
    session.execute(
        "DELETE FROM quarantined_rows WHERE source_kind = %s AND source_sha256 = ANY(%s::text[])",
        (source, list(sha256s)),
    )


def _texts(batches: Iterable[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    kept = 0
    for batch in batches:
        for name, kind in zip(_PARTS.names, _PARTS.types, strict=True):
            if name not in batch.schema.names:
                batch = batch.append_column(name, pa.nulls(batch.num_rows, kind))
        part = batch.select(_TEXTS.names).cast(_TEXTS)
        yield part if limit is None else part.slice(0, limit - kept)
        kept += part.num_rows
        if limit is not None and kept >= limit:
            return


def _without_nul(column: str) -> str:
    """SQL of JSON text as jsonb, which cannot hold a NUL; the backslash before u0000 may itself be escaped."""
    return rf"regexp_replace({column}, '(?<!\\)((?:\\\\)*)\\u0000', '\1', 'g')::jsonb"
