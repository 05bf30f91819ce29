"""Drift: the verdict on every feature of a drop, a day of scoring, a day of online answers or a week of raw rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.connection import PsycopgSession
from apex_ml.adapters.postgres.session import SECOND_KEY
from apex_ml.core.drift import Drift

MONITOR_LOCK = 7_261_009
"""First key of the advisory lock of a schema under which one process at a time monitors."""
_SCOPES = {"day": "scoring of", "online": "online answers of", "raw": "raw rows of"}


@dataclass(frozen=True)
class DriftSubject:
    """What drift was measured on: a scope, its subject and day, and the version that scored it."""

    scope: str
    subject: str
    day: date
    version: int | None = None


Verdict = tuple[Drift, str, str | None]
"""The drift of a feature, the kind of the feature, and the name of the reference."""


class DriftLedger(Protocol):
    """The verdicts about the rows that one model scored, and about raw rows."""

    def lock(self) -> None:
        """Wait until no other process monitors; the lock ends with the transaction."""

    def write(self, subject: DriftSubject, verdicts: Iterable[Verdict]) -> None:
        """Write the verdicts on a subject; those that exist are replaced."""

    def is_measured(self, scope: str, subject: str) -> bool:
        """Whether the drift of a subject was measured."""
        ...

    def delete(self, scope: str, subjects: Sequence[str]) -> None:
        """Delete the verdicts on some subjects of a scope."""

    def drifting(self, champion: int | None) -> dict[str, str]:
        """The features that drift in the newest subject of any scope, each with a message for people.

        Rows that another version than the champion scored do not count: the baselines are the champion's.
        """
        ...


class PostgresDrift(DriftLedger):
    """The verdicts in the table drift."""

    def __init__(self, session: PsycopgSession, model_name: str) -> None:
        self._session = session
        self._model_name = model_name

    @override
    def lock(self) -> None:
        self._session.execute(f"SELECT pg_advisory_xact_lock(%s::integer, {SECOND_KEY})", (MONITOR_LOCK,))

    @override
    def write(self, subject: DriftSubject, verdicts: Iterable[Verdict]) -> None:
        model = None if subject.version is None else self._model_name
        rows = [
            (
                *(subject.scope, subject.subject, subject.day, model, subject.version),
                *(d.feature, kind, reference, d.rows, d.reference_rows),
                *(d.psi, d.effect, d.p_value, d.q_value, d.drifted, d.note or None, d.min_effect),
            )
            for d, kind, reference in verdicts
        ]
        self._session.execute_values(
            "INSERT INTO drift (scope, subject, day, model_name, model_version, feature, kind, reference, rows,"
            " reference_rows, psi, effect, p_value, q_value, drifted, note, min_effect, measured_at) VALUES %s"
            " ON CONFLICT (scope, subject, feature) DO UPDATE SET (reference, rows, reference_rows, psi, effect,"
            " p_value, q_value, drifted, note, min_effect, measured_at) ="
            " (EXCLUDED.reference, EXCLUDED.rows, EXCLUDED.reference_rows, EXCLUDED.psi, EXCLUDED.effect,"
            " EXCLUDED.p_value, EXCLUDED.q_value, EXCLUDED.drifted, EXCLUDED.note, EXCLUDED.min_effect,"
            " EXCLUDED.measured_at)",
            rows,
            # the time of the statement, not of the transaction, because it determines the newest subject of a scope
            template=f"({', '.join(['%s'] * 17)}, clock_timestamp() + (clock() - now()))",
        )

    @override
    def is_measured(self, scope: str, subject: str) -> bool:
        query = "SELECT FROM drift WHERE scope = %s AND subject = %s LIMIT 1"
        return self._session.fetch_one(query, (scope, subject)) is not None

    @override
    def delete(self, scope: str, subjects: Sequence[str]) -> None:
        self._session.execute(
            "DELETE FROM drift WHERE scope = %s AND subject = ANY(%s::text[])", (scope, list(subjects))
        )

    @override
    def drifting(self, champion: int | None) -> dict[str, str]:
        rows = self._session.fetch(
            "SELECT feature, scope, subject, psi, effect, rows, reference_rows, reference FROM drift_latest"
            " WHERE drifted AND coalesce(model_name, %(name)s) = %(name)s"
            " AND coalesce(model_version = %(champion)s, true) ORDER BY feature, scope",
            {"name": self._model_name, "champion": champion},
        )
        messages: dict[str, str] = {}
        for feature, scope, subject, psi, effect, n, expected, reference in rows:
            source = self._drop_name(subject) if scope == "drop" else f"{_SCOPES[scope]} {subject}"
            text = f"{source}: {feature} drifted: PSI {psi:.3f}, effect {effect:.3f}, {n:,} rows against {expected:,}"
            messages[feature] = f"{messages[feature]}; {text}" if feature in messages else f"{text} of {reference}"
        return messages

    def _drop_name(self, run_id: str) -> str:
        row = self._session.fetch_one(
            "SELECT d.name FROM scoring_runs JOIN drops AS d USING (drop_id) WHERE run_id = %s",
            (int(run_id),),
        )
        return f"drop {row[0]}" if row else f"scoring run {run_id}"
