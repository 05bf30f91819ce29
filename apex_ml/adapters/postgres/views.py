"""What people read as apex_reader, of the views alone: the champion, its history, drops, alerts, totals.

Light to import: the Apex page in Airflow reads through this module, and Airflow's image has no Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.connection import DriverError, PsycopgSession, begin, connect_reader
from apex_ml.settings import Settings

ViewRow = dict[str, Any]
"""A row of a view by column name, for a table, a template or JSON."""
OPTIONS = "-c timezone=UTC -c jit=off -c statement_timeout=5000 -c default_transaction_read_only=on"


class DatabaseDownError(Exception):
    """Postgres does not answer, or lacks what the page reads; the text says where, why and what to do."""


@contextmanager
def read_snapshot(settings: Settings, schema: str) -> Iterator[PsycopgSession]:
    """Run the block as the reader of a schema's views in one snapshot, no query longer than five seconds.

    Raises DatabaseDownError when Postgres does not answer, or when its tables are older than this code.
    """
    try:
        connection = connect_reader(settings, schema, OPTIONS, connect_timeout=3, application_name="apex page")
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with begin(connection) as session:
                yield session
        finally:
            connection.close()
    except DriverError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        address = settings.reader_url.rsplit("@", 1)[-1]
        raise DatabaseDownError(f"Postgres at {address}: {reason}") from error


@dataclass(frozen=True)
class ChampionMove:
    """The move that made the champion; the version is None when the last move left none."""

    promotion_id: int
    version: int | None
    action: str
    who: str
    reasons: list[str]
    decided_at: datetime


@dataclass(frozen=True)
class ChampionLosses:
    """How the champion did when it was measured last, as the challenger or as the champion of a comparison."""

    log_loss: float | None
    prior_log_loss: float | None
    holdout_rows: int | None
    decided_at: datetime


@dataclass(frozen=True)
class Totals:
    """Sums over all scoring runs."""

    runs: int
    rows_scored: int
    rows_quarantined: int
    newest: datetime | None


@dataclass(frozen=True)
class AlertTotal:
    """Alerts of a kind: how many were raised, how many are open, when the newest was raised."""

    kind: str
    raised: int
    open: int
    newest: datetime


class Views(Protocol):
    """The views of one model."""

    def exist(self) -> bool:
        """Whether the pipeline has its views, and with them its tables."""
        ...

    def champion(self) -> ChampionMove | None:
        """The latest finished move; None before the first one."""
        ...

    def champion_losses(self, version: int) -> ChampionLosses | None:
        """The newest measurement of the champion with this version."""
        ...

    def history(self, limit: int, *, moves_only: bool = False) -> list[ViewRow]:
        """The last decisions about the champion, newest first."""
        ...

    def drop(self, sha256: str) -> ViewRow | None:
        """The summary of a content with the statistics of its latest scoring; None when it is not in the ledger."""
        ...

    def drop_classes(self, drop_id: int) -> list[ViewRow]:
        """Rows, share and confidence of each predicted class of a drop."""
        ...

    def latest_runs(self, limit: int) -> list[ViewRow]:
        """The drops scored last, newest first."""
        ...

    def open_alerts(self) -> list[ViewRow]:
        """The open alerts, newest first."""
        ...

    def totals(self) -> Totals:
        """Sums over all scoring runs."""
        ...

    def drops_by_state(self) -> dict[str, int]:
        """How many drops have each state."""
        ...

    def alert_totals(self) -> list[AlertTotal]:
        """Alerts by kind."""
        ...

    def last_decision_at(self) -> datetime | None:
        """When the gate decided last."""
        ...


class PostgresViews(Views):
    """The views of a pipeline."""

    def __init__(self, session: PsycopgSession, model_name: str) -> None:
        self._session = session
        self._model_name = model_name

    @override
    def exist(self) -> bool:
        return self._session.fetch_one("SELECT to_regclass('open_alerts') IS NOT NULL") == (True,)

    @override
    def champion(self) -> ChampionMove | None:
        row = self._session.fetch_one(
            "SELECT promotion_id, to_version, action, who, reasons, decided_at FROM model_history"
            " WHERE model_name = %s AND state = 'done' AND action <> 'reject' ORDER BY promotion_id DESC LIMIT 1",
            (self._model_name,),
        )
        return None if row is None else ChampionMove(*row)

    @override
    def champion_losses(self, version: int) -> ChampionLosses | None:
        row = self._session.fetch_one(
            "SELECT CASE WHEN to_version = %(version)s THEN challenger_log_loss ELSE champion_log_loss END,"
            " prior_log_loss, holdout_rows, decided_at FROM model_history"
            " WHERE model_name = %(model)s AND state = 'done' AND prior_log_loss IS NOT NULL"
            " AND ((action IN ('promote', 'force') AND to_version = %(version)s AND challenger_log_loss IS NOT NULL)"
            " OR (action = 'reject' AND from_version = %(version)s AND champion_log_loss IS NOT NULL))"
            " ORDER BY promotion_id DESC LIMIT 1",
            {"model": self._model_name, "version": version},
        )
        return None if row is None else ChampionLosses(*row)

    @override
    def history(self, limit: int, *, moves_only: bool = False) -> list[ViewRow]:
        return self._session.fetch_dicts(
            "SELECT promotion_id, decided_at, done_at, who, action, from_version, to_version, state, reasons, evidence,"
            " step_run FROM model_history WHERE model_name = %(model)s"
            " AND (action <> 'reject' OR NOT %(moves_only)s) ORDER BY promotion_id DESC LIMIT %(limit)s",
            {"model": self._model_name, "moves_only": moves_only, "limit": limit},
        )

    @override
    def drop(self, sha256: str) -> ViewRow | None:
        rows = self._session.fetch_dicts("SELECT * FROM drop_summary WHERE sha256 = %s", (sha256,))
        return rows[0] if rows else None

    @override
    def drop_classes(self, drop_id: int) -> list[ViewRow]:
        return self._session.fetch_dicts(
            "SELECT predicted, rows, share, mean_confidence FROM drop_classes WHERE drop_id = %s ORDER BY 1",
            (drop_id,),
        )

    @override
    def latest_runs(self, limit: int) -> list[ViewRow]:
        return self._session.fetch_dicts(
            "SELECT run_id, name, model_version, rows_scored, rows_quarantined, ms_total, finished_at"
            " FROM drop_summary WHERE run_id IS NOT NULL ORDER BY run_id DESC LIMIT %s",
            (limit,),
        )

    @override
    def open_alerts(self) -> list[ViewRow]:
        return self._session.fetch_dicts(
            "SELECT alert_id, kind, subject, message, raised_at FROM open_alerts ORDER BY raised_at DESC, alert_id DESC"
        )

    @override
    def totals(self) -> Totals:
        (row,) = self._session.fetch("SELECT runs, rows_scored, rows_quarantined, newest FROM scoring_totals")
        return Totals(*row)

    @override
    def drops_by_state(self) -> dict[str, int]:
        rows = self._session.fetch("SELECT state, count(*) FROM drop_summary GROUP BY state")
        return dict(rows)

    @override
    def alert_totals(self) -> list[AlertTotal]:
        rows = self._session.fetch("SELECT kind, raised, open, newest FROM alert_totals ORDER BY kind")
        return [AlertTotal(*row) for row in rows]

    @override
    def last_decision_at(self) -> datetime | None:
        (row,) = self._session.fetch("SELECT max(decided_at) FROM model_history WHERE action IN ('promote', 'reject')")
        return row[0]  # type: ignore[no-any-return]
