"""Alerts: what somebody should look at, from the moment it is raised until it is resolved or closed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.connection import autocommitted, transaction
from apex_ml.adapters.postgres.session import SECOND_KEY, Session
from apex_ml.errors import ConfigError
from apex_ml.settings import Settings

BAD_DROP, UNKNOWN_VALUES = "bad_drop", "unknown_values"
"""Kinds of alerts about one drop: it cannot be scored, or it holds far more unknown values than the training data."""
CANNOT_SCORE, CHAMPION = "cannot_score", "champion"
"""Kind and subject of the alert that the champion cannot score by the contract in the pipeline's file."""
TABLE_CHANGED = "table_changed"
"""Kind of alerts about commits of a table that are no drops, though they changed rows, and about lost commits."""
DRIFT, QUALITY, DROP_LATE, UNSEEN = "drift", "quality", "drop_late", "unseen"
MEASURED = (DRIFT, QUALITY, DROP_LATE, UNSEEN)
"""Kinds that every call of monitoring measures again, so that they are never closed manually."""
SMALL_DROPS = "small drops"
"""How the subject of an alert about the small drops of a day begins."""
SEND_LOCK = 7_261_010
"""First key of the advisory lock of a schema under which one process at a time sends alerts."""
_SETTLED_BY = {
    "retrain_late": "promotions AS n WHERE n.decided_at",
    "score_late": "scoring_runs AS n WHERE n.finished_at",
}
"""What ends an alert of Airflow's deadlines, which Airflow itself never takes back."""
_OPEN = "SELECT alert_id, kind, subject, message, raised_at FROM alerts AS a WHERE resolved_at IS NULL"


@dataclass(frozen=True)
class Alert:
    """An open alert."""

    alert_id: int
    kind: str
    subject: str
    message: str
    raised_at: datetime
    pipeline: str = field(default="", kw_only=True)
    """Name of its pipeline, for a receiver who gets those of several; the ledger of a pipeline has only its own."""


@dataclass(frozen=True)
class ListedAlert(Alert):
    """An open alert with the time of its newest message and the channels that have taken it."""

    last_seen_at: datetime
    channels: list[str]


@dataclass(frozen=True)
class BadDrop:
    """A drop that a run could not score, and why."""

    drop: str
    reason: str


class AlertChanges(NamedTuple):
    """Subjects whose alerts were raised, and those whose alerts were resolved."""

    raised: list[str]
    resolved: list[str]


class AlertLedger(Protocol):
    """The alerts. At most one alert of a kind and subject is open, except about bad drops."""

    def raise_alert(self, kind: str, subject: str, message: str) -> None:
        """Raise an alert; when one of this kind and subject is open, only replace its message."""

    def raise_bad_drop(self, name: str, reason: str, run: str = "") -> None:
        """Raise the alert about a drop that a run could not score; one alert for each reason."""

    def raise_unless_open(self, kind: str, subject: str, message: str) -> None:
        """Raise an alert unless one of this kind and subject is open, which keeps its message."""

    def set_open(self, kind: str, messages: Mapping[str, str]) -> AlertChanges:
        """Make the open alerts of a kind exactly these, by subject.

        One that is open already keeps its age and is not sent again. Its message is replaced, as it holds the numbers
        of the newest measurement.
        """
        ...

    def resolve(self, kinds: Sequence[str], subjects: Sequence[str]) -> None:
        """Resolve the open alerts of some kinds about some subjects."""

    def resolve_late(self) -> None:
        """Resolve the alerts about a late run after which a run has ended."""

    def resolve_small_drops(self) -> None:
        """Resolve the alerts about unknown values in small drops after which a drop without an alert was scored."""

    def open_of_kind(self, kind: str) -> list[Alert]:
        """The open alerts of a kind, oldest first."""
        ...

    def bad_drops(self, run: str) -> list[BadDrop]:
        """The drops that a run could not score and whose alerts are still open."""
        ...

    def list_open(self) -> list[ListedAlert]:
        """Every open alert, newest first."""
        ...

    def close(self, alert_id: int, who: str, reason: str) -> tuple[str, str]:
        """Close an open alert for a person; return its kind and subject.

        Raises :class:`~apex_ml.errors.ConfigError` when it is not open, or of a kind that is measured.
        """
        ...

    def unsent(self) -> list[Alert]:
        """The open alerts that some channel has not taken yet, oldest first."""
        ...

    def undelivered(self, channel: str) -> list[Alert]:
        """The open alerts that a channel has not taken yet, oldest first."""
        ...

    def mark_delivered(self, channel: str, alert_ids: Sequence[int]) -> None:
        """Note that a channel has taken alerts."""

    def mark_sent(self, channels: Sequence[str]) -> None:
        """Note which alerts all of these channels have taken; without a channel nothing is sent."""


class PostgresAlerts(AlertLedger):
    """The alerts in the table alerts."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @override
    def raise_alert(self, kind: str, subject: str, message: str) -> None:
        self._renew_or_insert(kind, subject, message)

    @override
    def raise_bad_drop(self, name: str, reason: str, run: str = "") -> None:
        # a new file under the same name may be bad in another way: that is another alert
        self._renew_or_insert(BAD_DROP, name, reason, "AND message = %(message)s", run)

    def _renew_or_insert(self, kind: str, subject: str, message: str, which: str = "", run: str = "") -> None:
        values = {"kind": kind, "subject": subject, "message": message, "run": run}
        renewed = self._session.fetch(
            "UPDATE alerts SET message = %(message)s, last_seen_at = clock(), seen_in = nullif(%(run)s, '')"
            f" WHERE kind = %(kind)s AND subject = %(subject)s AND resolved_at IS NULL {which} RETURNING alert_id",
            values,
        )
        if not renewed:
            self._session.execute(
                "INSERT INTO alerts (kind, subject, message, seen_in)"
                " VALUES (%(kind)s, %(subject)s, %(message)s, nullif(%(run)s, ''))",
                values,
            )

    @override
    def raise_unless_open(self, kind: str, subject: str, message: str) -> None:
        self._session.execute(
            "INSERT INTO alerts (kind, subject, message) SELECT %(kind)s, %(subject)s, %(message)s"
            " WHERE NOT EXISTS (SELECT FROM alerts WHERE kind = %(kind)s AND subject = %(subject)s"
            " AND resolved_at IS NULL)",
            {"kind": kind, "subject": subject, "message": message},
        )

    @override
    def set_open(self, kind: str, messages: Mapping[str, str]) -> AlertChanges:
        already = {alert.subject for alert in self.open_of_kind(kind)}
        for subject, message in messages.items():
            self.raise_alert(kind, subject, message)
        resolved = sorted(already - set(messages))
        self.resolve([kind], resolved)
        return AlertChanges([subject for subject in messages if subject not in already], resolved)

    @override
    def resolve(self, kinds: Sequence[str], subjects: Sequence[str]) -> None:
        self._session.execute(
            "UPDATE alerts SET resolved_at = clock() WHERE resolved_at IS NULL AND kind = ANY(%s::text[])"
            " AND subject = ANY(%s::text[])",
            (list(kinds), list(subjects)),
        )

    @override
    def resolve_late(self) -> None:
        for kind, event in _SETTLED_BY.items():
            self._session.execute(
                "UPDATE alerts AS a SET resolved_at = clock() WHERE kind = %s AND resolved_at IS NULL"
                " AND EXISTS"
                f" (SELECT FROM {event} > a.raised_at)",
                (kind,),
            )

    @override
    def resolve_small_drops(self) -> None:
        self._session.execute(
            "UPDATE alerts AS a SET resolved_at = clock() WHERE kind = %s AND starts_with(subject, %s)"
            " AND resolved_at IS NULL AND EXISTS (SELECT FROM scoring_runs AS r"
            " WHERE r.finished_at > a.raised_at AND r.rows_scored > 0 AND r.input_alert IS NULL)",
            (UNKNOWN_VALUES, f"{SMALL_DROPS}, "),
        )

    @override
    def open_of_kind(self, kind: str) -> list[Alert]:
        return [Alert(*row) for row in self._session.fetch(f"{_OPEN} AND kind = %s ORDER BY alert_id", (kind,))]

    @override
    def bad_drops(self, run: str) -> list[BadDrop]:
        rows = self._session.fetch(
            "SELECT subject, message FROM alerts WHERE kind = %s AND seen_in = %s AND resolved_at IS NULL"
            " ORDER BY alert_id",
            (BAD_DROP, run),
        )
        return [BadDrop(*row) for row in rows]

    @override
    def list_open(self) -> list[ListedAlert]:
        rows = self._session.fetch(
            "SELECT alert_id, kind, subject, message, raised_at, last_seen_at, ARRAY(SELECT channel"
            " FROM alert_deliveries AS d WHERE d.alert_id = a.alert_id ORDER BY channel)"
            " FROM alerts AS a WHERE resolved_at IS NULL ORDER BY alert_id DESC"
        )
        return [ListedAlert(*row) for row in rows]

    @override
    def close(self, alert_id: int, who: str, reason: str) -> tuple[str, str]:
        row = self._session.fetch_one(
            "SELECT kind, subject, resolved_at FROM alerts WHERE alert_id = %s FOR UPDATE", (alert_id,)
        )
        if row is None:
            raise ConfigError(f"alert {alert_id}: there is none with this number; see: apex alerts")
        kind, subject, resolved_at = row
        if resolved_at is not None:
            raise ConfigError(f"alert {alert_id} ({kind}, {subject}): is over since {resolved_at:%F %T} UTC")
        if kind in MEASURED:
            raise ConfigError(
                f"alert {alert_id} ({kind}, {subject}): monitoring measures its cause, and would raise it again; it"
                " ends by itself when the cause is gone"
            )
        self._session.execute(
            "UPDATE alerts SET resolved_at = clock(), closed_by = %s, closed_reason = %s WHERE alert_id = %s",
            (who, reason, alert_id),
        )
        return kind, subject

    @override
    def unsent(self) -> list[Alert]:
        return [Alert(*row) for row in self._session.fetch(f"{_OPEN} AND sent_at IS NULL ORDER BY alert_id")]

    @override
    def undelivered(self, channel: str) -> list[Alert]:
        rows = self._session.fetch(
            f"{_OPEN} AND NOT EXISTS (SELECT FROM alert_deliveries AS d WHERE d.alert_id = a.alert_id"
            " AND d.channel = %s) ORDER BY alert_id",
            (channel,),
        )
        return [Alert(*row) for row in rows]

    @override
    def mark_delivered(self, channel: str, alert_ids: Sequence[int]) -> None:
        self._session.execute(
            "INSERT INTO alert_deliveries (alert_id, channel) SELECT unnest(%s::bigint[]), %s ON CONFLICT DO NOTHING",
            (list(alert_ids), channel),
        )

    @override
    def mark_sent(self, channels: Sequence[str]) -> None:
        if not channels:
            return
        self._session.execute(
            "UPDATE alerts AS a SET sent_at = now() WHERE sent_at IS NULL AND %s = (SELECT count(*)"
            " FROM alert_deliveries AS d WHERE d.alert_id = a.alert_id AND d.channel = ANY(%s::text[]))",
            (len(channels), list(channels)),
        )


def raise_alert(settings: Settings, schema: str, kind: str, subject: str, message: str) -> None:
    """Raise an alert in a transaction of its own."""
    with transaction(settings, schema) as session:
        PostgresAlerts(session).raise_alert(kind, subject, message)


def raise_bad_drop(settings: Settings, schema: str, name: str, reason: str, run: str = "") -> None:
    """Raise the alert about a drop without a row in the ledger, as its content cannot be read."""
    with transaction(settings, schema) as session:
        PostgresAlerts(session).raise_bad_drop(name, reason, run)


@contextmanager
def only_sender(settings: Settings, schema: str) -> Iterator[None]:
    """Keep other processes from sending alerts during the block: two at once would send the same twice."""
    with autocommitted(settings, schema) as session:
        session.execute(f"SELECT pg_advisory_lock(%s::integer, {SECOND_KEY})", (SEND_LOCK,))
        yield
