"""Quality by week: how good a version's current scores were, where the outcome is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Protocol

import pyarrow as pa
from typing_extensions import override

from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.connection import PsycopgSession
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.contract.model import Contract
from apex_ml.core.degradation import WeekQuality
from apex_ml.json_text import json_text
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier, literal
from apex_ml.sql.tables import scored_cluster, scored_day

WEEKS = 26
"""Weeks of rows, back from the newest scored one, whose quality is measured."""


@dataclass(frozen=True)
class ChangedWeek:
    """A version's week, from its Monday, with its current scores and the outcomes that are known by now."""

    version: int
    week: date
    scored: int
    outcomes: int


@dataclass(frozen=True)
class EvaluatedWeek:
    """A version's week, from its Monday, with the verdicts of both rules."""

    week: date
    worse: bool
    note: str
    log_loss: float
    log_loss_error: float | None
    """None for a week that was evaluated before errors were kept."""
    sustained: bool
    since: date | None
    excess: float | None


@dataclass(frozen=True)
class SustainedVerdict:
    """The verdict of the rule over several weeks on one week; `excess` is the mean excess of the log loss in nats."""

    week: date
    alarm: bool
    evidence: float
    since: date
    excess: float


class QualityLedger(Protocol):
    """The quality of the versions of one model by week."""

    def changed_weeks(self, contract: Contract) -> list[ChangedWeek]:
        """The weeks in which outcomes were added since they were evaluated, by version and week."""
        ...

    def write(self, week: ChangedWeek, quality: WeekQuality) -> None:
        """Write how good the scores of a week were; an earlier evaluation is replaced."""

    def weeks(self, version: int, min_outcomes: int) -> list[EvaluatedWeek]:
        """A version's weeks with enough outcomes, oldest first."""
        ...

    def write_sustained(self, version: int, verdicts: Sequence[SustainedVerdict]) -> None:
        """Write the verdicts of the rule over several weeks."""


class PostgresQuality(QualityLedger):
    """The quality in the table model_quality."""

    def __init__(self, session: PsycopgSession, model_name: str) -> None:
        self._session = session
        self._model_name = model_name

    @override
    def changed_weeks(self, contract: Contract) -> list[ChangedWeek]:
        when = scored_day(contract, "s")
        rows = self._session.fetch(
            f"""WITH newest AS (SELECT max({when}) AS day FROM scored_current AS s),
                weeks AS (
                    SELECT s.model_version, date_trunc('week', {when})::date AS week, count(*) AS scored,
                           count(o.observed) AS outcomes
                    FROM scored_current AS s LEFT JOIN outcomes AS o USING (run_id, row_nr), newest
                    WHERE {when} > newest.day - {WEEKS * 7} GROUP BY 1, 2)
                SELECT w.model_version, w.week, w.scored, w.outcomes FROM weeks AS w LEFT JOIN model_quality AS q
                ON q.model_name = %s AND q.model_version = w.model_version AND q.week = w.week
                WHERE w.outcomes > 0 AND (q.verdict IS NULL OR (q.scored, q.outcomes) <> (w.scored, w.outcomes))
                ORDER BY 1, 2""",
            (self._model_name,),
        )
        return [ChangedWeek(*row) for row in rows]

    @override
    def write(self, week: ChangedWeek, quality: WeekQuality) -> None:
        key = {"model_name": self._model_name, "model_version": week.version, "week": week.week}
        values = asdict(quality) | {"scored": week.scored}
        values["classes"] = json_text(values["classes"])
        values["note"] = values["note"] or None
        names = [*key, *values]
        self._session.execute(
            f"INSERT INTO model_quality ({', '.join(names)}) VALUES ({', '.join(f'%({n})s' for n in names)})"
            f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(f'{n} = EXCLUDED.{n}' for n in values)},"
            " measured_at = clock()",
            key | values,
        )

    @override
    def weeks(self, version: int, min_outcomes: int) -> list[EvaluatedWeek]:
        rows = self._session.fetch(
            "SELECT week, worse, coalesce(note, ''), log_loss, log_loss_error, coalesce(sustained, false),"
            " sustained_since, sustained_excess FROM model_quality WHERE model_name = %s AND model_version = %s"
            " AND outcomes >= %s ORDER BY week",
            (self._model_name, version, min_outcomes),
        )
        return [EvaluatedWeek(*row) for row in rows]

    @override
    def write_sustained(self, version: int, verdicts: Sequence[SustainedVerdict]) -> None:
        self._session.execute_values(
            "UPDATE model_quality AS q SET sustained = v.alarm, sustained_evidence = v.evidence,"
            " sustained_since = v.since, sustained_excess = v.excess"
            " FROM (VALUES %s) AS v (name, version, week, alarm, evidence, since, excess)"
            " WHERE q.model_name = v.name AND q.model_version = v.version AND q.week = v.week",
            [(self._model_name, version, v.week, v.alarm, v.evidence, v.since, v.excess) for v in verdicts],
            template="(%s, %s, %s::date, %s, %s::float8, %s::date, %s::float8)",
        )


def rows_with_outcome(settings: Settings, schema: str, contract: Contract, version: int, week: date) -> pa.Table:
    """Entity, predicted class, probabilities and outcome (`observed`) of a version's current scores of one week."""
    when, cluster = scored_day(contract, "s"), scored_cluster(contract, "s")
    p = ", ".join(f"s.{identifier(name)}" for name in probability_columns(contract.classes).values())
    with bulk_transaction(settings, schema) as session:
        return session.stream(
            f"SELECT {cluster} AS {identifier(contract.entity)}, s.predicted, {p}, o.observed FROM scored_current AS s"
            f" JOIN outcomes AS o USING (run_id, row_nr) WHERE s.model_version = {int(version)}"
            f" AND {when} >= {literal(week)} AND {when} < {literal(week)} + 7"
        ).read_all()
