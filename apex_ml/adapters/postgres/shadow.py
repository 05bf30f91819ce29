"""Challengers that score drops beside the champion: which drops are due, what is done, how the scores compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from typing_extensions import override

from apex_ml.adapters.postgres.session import BulkSession, Session
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.contract.model import Contract
from apex_ml.sql.quote import identifier, literals
from apex_ml.sql.tables import scored_cluster, scored_day

_WAS_CHAMPION = (
    "EXISTS (SELECT FROM promotions AS p WHERE p.model_name = %(name)s AND p.to_version = {version}"
    " AND p.action <> 'reject' AND p.state <> 'aborted')"
)


@dataclass(frozen=True)
class DueDrop:
    """A scored drop that a challenger has yet to score."""

    run_id: int
    name: str
    sha256: str
    challenger_version: int


@dataclass(frozen=True)
class ShadowedVersion:
    """A challenger that scored rows beside the champion, and how many of their outcomes are known."""

    model_version: int
    outcomes: int


class ShadowLedger(Protocol):
    """The scoring of challengers of one model."""

    def due(self, days: int) -> list[DueDrop]:
        """Scored drops that a challenger has yet to score, by challenger, the newest first.

        A challenger is a promotable version that was never champion. Its drops are those scored in the `days`
        after it was registered, both by the clock of the database. A corrected drop is left out.
        """
        ...

    def versions_beside(self, champion: int) -> list[ShadowedVersion]:
        """Challengers that scored rows beside a champion, newest first, without those that were champion since."""
        ...

    def claim(
        self, run_id: int, version: int, mlflow_run_id: str, feature_snapshot: str, rows: int, step_run: str
    ) -> bool:
        """Insert the row of a challenger's scoring of a drop; False when it exists.

        As with a claim of a drop, a second transaction waits here until the first one ends.
        """
        ...

    def fail(self, run_id: int, version: int, step_run: str, reason: str) -> None:
        """Record that a challenger cannot score a drop, so that it is not tried again."""


class PostgresShadow(ShadowLedger):
    """The ledger in the table shadow_runs."""

    def __init__(self, session: Session, model_name: str) -> None:
        self._session = session
        self._model_name = model_name

    @override
    def due(self, days: int) -> list[DueDrop]:
        rows = self._session.fetch(
            "SELECT r.run_id, d.name, d.sha256, v.model_version"
            " FROM model_versions AS v JOIN scoring_runs AS r ON r.model_name = v.model_name"
            " AND r.finished_at >= v.recorded_at"
            " AND r.finished_at < v.recorded_at + make_interval(days => %(days)s::integer)"
            " JOIN drops AS d USING (drop_id)"
            " WHERE v.model_name = %(name)s AND v.about ->> 'promotable' = 'true' AND d.superseded_by IS NULL"
            f" AND v.model_version <> r.model_version AND NOT {_WAS_CHAMPION.format(version='v.model_version')}"
            " AND NOT EXISTS (SELECT FROM shadow_runs AS s"
            " WHERE s.run_id = r.run_id AND s.model_version = v.model_version)"
            " ORDER BY v.model_version DESC, r.run_id",
            {"name": self._model_name, "days": days},
        )
        return [DueDrop(*row) for row in rows]

    @override
    def versions_beside(self, champion: int) -> list[ShadowedVersion]:
        rows = self._session.fetch(
            "SELECT s.model_version, count(o.observed) FROM shadow_scores AS s"
            " JOIN scored AS c ON c.run_id = s.run_id AND c.row_nr = s.row_nr"
            " LEFT JOIN outcomes AS o ON o.run_id = s.run_id AND o.row_nr = s.row_nr"
            " WHERE c.model_version = %(champion)s AND s.model_version <> %(champion)s"
            f" AND NOT {_WAS_CHAMPION.format(version='s.model_version')}"
            " GROUP BY s.model_version ORDER BY s.model_version DESC",
            {"name": self._model_name, "champion": champion},
        )
        return [ShadowedVersion(*row) for row in rows]

    @override
    def claim(
        self, run_id: int, version: int, mlflow_run_id: str, feature_snapshot: str, rows: int, step_run: str
    ) -> bool:
        claimed = self._session.fetch_one(
            "INSERT INTO shadow_runs"
            " (run_id, model_version, mlflow_run_id, feature_snapshot, rows_scored, step_run, state)"
            " VALUES (%s, %s, %s, %s, %s, %s, 'done') ON CONFLICT DO NOTHING RETURNING run_id",
            (run_id, version, mlflow_run_id, feature_snapshot, rows, step_run),
        )
        return claimed is not None

    @override
    def fail(self, run_id: int, version: int, step_run: str, reason: str) -> None:
        self._session.execute(
            "INSERT INTO shadow_runs (run_id, model_version, step_run, state, reason)"
            " VALUES (%s, %s, %s, 'failed', %s) ON CONFLICT DO NOTHING",
            (run_id, version, step_run, reason),
        )


def shadow_outcomes(session: BulkSession, contract: Contract, challenger: int, champion: int) -> pa.Table:
    """Rows that both versions scored and whose class is known, by run and row.

    Columns: entity, timestamp, `observed`, and the probabilities of the challenger (``s_p_…``) and the champion
    (``c_p_…``). Classes that the contract does not have are left out.
    """
    names = list(probability_columns(contract.classes).values())
    p = ", ".join(
        f"{table}.{identifier(name)} AS {identifier(f'{table}_{name}')}" for table in ("s", "c") for name in names
    )
    entity = f"{scored_cluster(contract, 'c')} AS {identifier(contract.entity)}"
    when = f"{scored_day(contract, 'c')} AS {identifier(contract.timestamp)}"
    levels = literals(contract.classes)
    return session.stream(
        f"SELECT {entity}, {when}, o.observed, {p} FROM shadow_scores AS s"
        " JOIN scored AS c ON c.run_id = s.run_id AND c.row_nr = s.row_nr"
        " JOIN outcomes AS o ON o.run_id = s.run_id AND o.row_nr = s.row_nr"
        f" WHERE s.model_version = {challenger:d} AND c.model_version = {champion:d} AND o.observed IN ({levels})"
        " ORDER BY s.run_id, s.row_nr"
    ).read_all()
