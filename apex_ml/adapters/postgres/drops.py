"""The ledger of drops: which contents were delivered, and which of them are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.alerts import BAD_DROP, CANNOT_SCORE, CHAMPION, UNKNOWN_VALUES, PostgresAlerts
from apex_ml.adapters.postgres.quarantine import delete_quarantined
from apex_ml.adapters.postgres.session import Session
from apex_ml.errors import DataError

NAME_LOCK = 7_261_003
"""Mixed into the key of the advisory lock on a drop's name."""


@dataclass(frozen=True)
class KnownDrop:
    """The ledger row of a delivered content; its state is `done` or `failed`."""

    drop_id: int
    name: str
    state: str
    contract_identity: str | None = None
    """Identity of the contract by which it was scored last; None when an older version of Apex scored it."""


@dataclass(frozen=True)
class DropRow:
    """A drop that is scored."""

    drop_id: int
    name: str
    sha256: str


@dataclass(frozen=True)
class FailedDrop:
    """A drop that cannot be scored; the numbers of rows are None for a file that could not be read."""

    sha256: str
    name: str
    size: int
    reason: str
    rows: int | None = None
    quarantined: int | None = None


@dataclass(frozen=True)
class RemovableDrop:
    """A drop of the ledger, with the number of its scored rows."""

    drop_id: int
    name: str
    sha256: str
    state: str
    rows: int


class DropLedger(Protocol):
    """The ledger of drops. A drop is its content, whatever its name."""

    def claim(self, sha256: str, name: str, size: int, rows: int, *, corrects: bool = True) -> int | None:
        """Insert the row of a content and return its id; None when this content is scored already.

        A second transaction with the same content waits here until the first one ends: that is what makes scoring
        exactly once. Where it `corrects` one, an older drop of the same name is marked as superseded. The
        alerts about the name are resolved, and the rows that were quarantined when the content was refused go.
        """
        ...

    def lock_for_rescoring(self, drop: DropRow) -> None:
        """Lock the row of a drop that is scored again; its alerts are resolved, its quarantined rows go."""

    def by_content(self, sha256: str) -> KnownDrop | None:
        """The row of a content; None when it is new."""
        ...

    def find_scored(self, text: str) -> DropRow:
        """The scored drop with this name (the newest), this id or this beginning of its sha256.

        Raises :class:`~apex_ml.errors.DataError` when there is none, or when the beginning fits several.
        """
        ...

    def count_delivery(self, sha256: str) -> None:
        """Note that a content was delivered once more."""

    def fail(self, drop: FailedDrop, run: str = "") -> bool:
        """Record a drop that cannot be scored and raise its alert; a later claim of the same content may succeed.

        What was recorded of an earlier delivery of this content is replaced. False when the content was scored
        meanwhile: then only the alert is raised.
        """
        ...

    def removable(self, names: Sequence[str], prefix: str | None = None) -> list[RemovableDrop]:
        """Every content delivered under one of these names, or under a name with the prefix."""
        ...

    def lock(self, drop_ids: Sequence[int]) -> None:
        """Lock the rows of some drops until the transaction ends."""

    def remove(self, drop_ids: Sequence[int]) -> None:
        """Remove the rows of drops without scoring runs; a drop that one of them superseded is current again."""


class PostgresDrops(DropLedger):
    """The ledger in the table drops."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._alerts = PostgresAlerts(session)

    @override
    def claim(self, sha256: str, name: str, size: int, rows: int, *, corrects: bool = True) -> int | None:
        # two contents of one name are claimed one after the other, so that the later one supersedes the earlier
        self._session.execute("SELECT pg_advisory_xact_lock(%s::bigint # hashtextextended(%s, 0))", (NAME_LOCK, name))
        row = self._session.fetch_one(
            "INSERT INTO drops (sha256, name, bytes, rows, state) VALUES (%s, %s, %s, %s, 'done')"
            " ON CONFLICT (sha256) DO UPDATE SET state = 'done', rows = EXCLUDED.rows, reason = NULL,"
            " rows_quarantined = NULL WHERE drops.state = 'failed' RETURNING drop_id",
            (sha256, name, size, rows),
        )
        if row is None:
            return None
        drop_id = int(row[0])
        if corrects:
            self._session.execute(
                "UPDATE drops SET superseded_by = %(drop_id)s WHERE name = %(name)s AND state = 'done'"
                " AND superseded_by IS NULL AND drop_id <> %(drop_id)s",
                {"drop_id": drop_id, "name": name},
            )
        self._forget(sha256, name)  # what was kept of a delivery that was refused
        return drop_id

    def _forget(self, sha256: str, name: str) -> None:
        delete_quarantined(self._session, "drop", [sha256])
        self._alerts.resolve((BAD_DROP, UNKNOWN_VALUES, CANNOT_SCORE), [name, CHAMPION])

    @override
    def lock_for_rescoring(self, drop: DropRow) -> None:
        self.lock([drop.drop_id])
        self._forget(drop.sha256, drop.name)

    @override
    def by_content(self, sha256: str) -> KnownDrop | None:
        row = self._session.fetch_one(
            "SELECT drop_id, name, state, (SELECT contract_identity FROM scoring_runs AS r"
            " WHERE r.drop_id = d.drop_id ORDER BY run_id DESC LIMIT 1) FROM drops AS d WHERE sha256 = %s",
            (sha256,),
        )
        return None if row is None else KnownDrop(*row)

    @override
    def find_scored(self, text: str) -> DropRow:
        rows = self._session.fetch(
            "SELECT drop_id, name, sha256, name = %(text)s OR drop_id::text = %(text)s AS exact FROM drops"
            " WHERE state = 'done' AND (name = %(text)s OR drop_id::text = %(text)s"
            " OR length(%(text)s) >= 8 AND starts_with(sha256, lower(%(text)s)))"
            " ORDER BY name = %(text)s DESC, exact DESC, drop_id DESC",
            {"text": text},
        )
        if not rows:
            raise DataError(
                f"{text}: no scored drop has this name, id or sha256; see: apex sql -c 'TABLE drop_summary'"
            )
        drop_id, name, sha256, exact = rows[0]
        if not exact and len(rows) > 1:
            raise DataError(f"{text}: {len(rows)} drops begin like this; give more of the sha256")
        return DropRow(drop_id, name, sha256)

    @override
    def count_delivery(self, sha256: str) -> None:
        self._session.execute(
            "UPDATE drops SET deliveries = deliveries + 1, delivered_at = clock() WHERE sha256 = %s",
            (sha256,),
        )

    @override
    def fail(self, drop: FailedDrop, run: str = "") -> bool:
        recorded = self._session.fetch_one(
            "INSERT INTO drops (sha256, name, bytes, state, reason, rows, rows_quarantined)"
            " VALUES (%s, %s, %s, 'failed', %s, %s::bigint, %s::bigint)"
            " ON CONFLICT (sha256) DO UPDATE SET deliveries = drops.deliveries + 1, delivered_at = clock(),"
            " reason = EXCLUDED.reason, rows = EXCLUDED.rows, rows_quarantined = EXCLUDED.rows_quarantined"
            " WHERE drops.state = 'failed' RETURNING drop_id",
            (drop.sha256, drop.name, drop.size, drop.reason, drop.rows, drop.quarantined),
        )
        self._alerts.raise_bad_drop(drop.name, drop.reason, run)
        return recorded is not None

    @override
    def removable(self, names: Sequence[str], prefix: str | None = None) -> list[RemovableDrop]:
        rows = self._session.fetch(
            "SELECT d.drop_id, d.name, d.sha256, d.state, coalesce(sum(r.rows_scored), 0)::bigint"
            " FROM drops AS d LEFT JOIN scoring_runs AS r USING (drop_id)"
            " WHERE d.name = ANY(%(names)s::text[]) OR (%(by_prefix)s AND starts_with(d.name, %(prefix)s))"
            " GROUP BY d.drop_id ORDER BY d.drop_id",
            {"names": list(names), "by_prefix": prefix is not None, "prefix": prefix or ""},
        )
        return [RemovableDrop(*row) for row in rows]

    @override
    def lock(self, drop_ids: Sequence[int]) -> None:
        self._session.execute(
            "SELECT drop_id FROM drops WHERE drop_id = ANY(%s::bigint[]) FOR UPDATE", (list(drop_ids),)
        )

    @override
    def remove(self, drop_ids: Sequence[int]) -> None:
        ids = (list(drop_ids),)
        self._session.execute("UPDATE drops SET superseded_by = NULL WHERE superseded_by = ANY(%s::bigint[])", ids)
        self._session.execute("DELETE FROM drops WHERE drop_id = ANY(%s::bigint[])", ids)
