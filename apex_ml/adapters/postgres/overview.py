"""What the Apex page and the metrics read of many pipelines at once: one statement over the views of their schemas.

Light to import, as :mod:`~apex_ml.adapters.postgres.views`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Generic, TypeVar

from apex_ml.adapters.postgres.connection import DriverError, PsycopgSession
from apex_ml.adapters.postgres.views import AlertTotal, Totals, ViewRow, read_snapshot
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier, literal

MAX_WEEKS = 16
"""Weeks of quality of one pipeline."""
LOCK_TIMEOUT, LOCK_TIMEOUT_ALONE = "1s", "200ms"
"""How long to wait for tables that a migration changes: all pipelines together, and one after the other."""
PLATFORM = "apex"
"""The schema of the platform itself; an upgraded one of the first edition may still hold tables of a pipeline."""
_SYSTEM = "pg_catalog"

Branch = Callable[[str], str]
"""Makes the statement of one pipeline from its quoted schema."""


@dataclass(frozen=True)
class LastDrop:
    """The newest drop: `at` is the end of its scoring, or its arrival when it was not scored."""

    name: str
    state: str
    reason: str | None
    rows_scored: int | None
    at: datetime


@dataclass(frozen=True)
class WeekLoss:
    """The log loss of a week, of the version with the most outcomes, beside the class prior of that week."""

    week: date
    log_loss: float
    prior: float | None
    is_worse: bool


@dataclass(frozen=True)
class PipelineState:
    """The state of one pipeline in a row of the overview."""

    version: int | None
    since: datetime | None
    drop: LastDrop | None
    rows_scored: int
    """Rows scored of the drops of the last seven days."""
    alerts: Mapping[str, int]
    """Open alerts by kind."""
    weeks: tuple[WeekLoss, ...]
    """Oldest first."""


@dataclass(frozen=True)
class PipelineTotals:
    """The sums of one pipeline, for its metrics."""

    version: int | None
    since: datetime | None
    totals: Totals
    decided_at: datetime | None
    """When the gate decided last."""
    drops: Mapping[str, int]
    """Drops by state."""
    alerts: tuple[AlertTotal, ...]


Value = TypeVar("Value")


@dataclass(frozen=True)
class Reading(Generic[Value]):
    """A value for each pipeline by its schema; the reason for each one whose tables cannot be read."""

    values: dict[str, Value]
    faults: dict[str, str]
    others: tuple[str, ...]
    """Schemas that hold the tables of a pipeline and were not asked for."""


def read_states(settings: Settings, models: Mapping[str, str]) -> Reading[PipelineState]:
    """Read the states of pipelines, given as schema and model name, in one snapshot.

    Raises :class:`~apex_ml.adapters.postgres.views.DatabaseDownError` when Postgres does not answer. Tables of one
    pipeline that cannot be read are a fault of that pipeline alone.
    """
    return _read(settings, models, _state_branch, _state)


def read_totals(settings: Settings, models: Mapping[str, str]) -> Reading[PipelineTotals]:
    """Read the totals of pipelines, given as schema and model name, in one snapshot. Raises as :func:`read_states`."""
    return _read(settings, models, _totals_branch, _totals)


def _read(
    settings: Settings, models: Mapping[str, str], branch: Branch, value: Callable[[ViewRow, str], Value]
) -> Reading[Value]:
    with read_snapshot(settings, _SYSTEM) as session:
        ready = _schemas(session)
        schemas = [schema for schema in models if ready.get(schema)]
        faults = {schema: _not_ready(schema in ready) for schema in models if not ready.get(schema)}
        try:
            rows = _together(session, schemas, branch, LOCK_TIMEOUT)
        except DriverError as error:
            if error.pgcode is None:  # the connection is gone
                raise
            rows = {}
            for schema in schemas:
                try:
                    rows |= _together(session, [schema], branch, LOCK_TIMEOUT_ALONE)
                except DriverError as fault:
                    if fault.pgcode is None:
                        raise
                    faults[schema] = f"its tables cannot be read: {str(fault).strip().splitlines()[0]}"
    others = tuple(sorted(set(ready) - set(models) - {PLATFORM}))
    return Reading({schema: value(row, models[schema]) for schema, row in rows.items()}, faults, others)


def _not_ready(exists: bool) -> str:
    if exists:
        return "its tables are of another version of Apex: make up brings them up to date"
    return "it has no tables yet: make up creates them"


def _together(session: PsycopgSession, schemas: Sequence[str], branch: Branch, timeout: str) -> dict[str, ViewRow]:
    """One row for each pipeline by one statement; after an error the transaction can still be used."""
    if not schemas:
        return {}
    statement = " UNION ALL ".join(
        f"(SELECT {literal(schema)} AS pipeline, one.* FROM ({branch(identifier(schema))}) AS one)"
        for schema in schemas
    )
    session.execute("SAVEPOINT together")
    try:
        session.execute(f"SET LOCAL lock_timeout = {literal(timeout)}")
        return {row["pipeline"]: row for row in session.fetch_dicts(statement)}
    except DriverError as error:
        if error.pgcode is not None:
            session.execute("ROLLBACK TO SAVEPOINT together")
        raise


def _schemas(session: PsycopgSession) -> dict[str, bool]:
    """The schemas with tables of a pipeline, and whether this role may read the state of each."""
    rows = session.fetch(
        "SELECT n.nspname, bool_or(c.relname = 'pipeline_state' AND has_schema_privilege(n.oid, 'USAGE')"
        " AND has_table_privilege(c.oid, 'SELECT')) FROM pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid"
        " WHERE c.relkind = 'v' AND c.relname IN ('drop_summary', 'pipeline_state') GROUP BY n.nspname"
    )
    return dict(rows)


def _state_branch(schema: str) -> str:
    # by name: UNION ALL would put the columns of an older view under wrong names
    return (
        "SELECT model_name, champion_version, champion_since, drop_name, drop_state, drop_reason, received_at,"
        f" rows_scored, finished_at, rows_scored_7_days, open_alerts, quality FROM {schema}.pipeline_state"
    )


def _state(row: ViewRow, model: str) -> PipelineState:
    is_current = row["model_name"] == model  # the newest move can be one of an earlier model of the pipeline
    drop = None
    if row["drop_name"] is not None:
        at = row["finished_at"] or row["received_at"]
        drop = LastDrop(row["drop_name"], row["drop_state"], row["drop_reason"], row["rows_scored"], at)
    weeks: dict[date, WeekLoss] = {}
    for entry in row["quality"] if is_current else ():
        week = date.fromisoformat(entry["week"])
        weeks.setdefault(week, WeekLoss(week, entry["log_loss"], entry["prior_log_loss"], entry["worse"]))
    return PipelineState(
        row["champion_version"] if is_current else None,
        row["champion_since"] if is_current else None,
        drop,
        row["rows_scored_7_days"],
        row["open_alerts"],
        tuple(sorted(weeks.values(), key=lambda w: w.week)[-MAX_WEEKS:]),
    )


def _totals_branch(schema: str) -> str:
    return (
        "SELECT state.model_name, state.champion_version, state.champion_since, totals.*, decisions.last_decision_at,"
        " drops.states, alerts.kinds FROM"
        f" (SELECT runs, rows_scored, rows_quarantined, newest FROM {schema}.scoring_totals) AS totals"
        f" CROSS JOIN (SELECT model_name, champion_version, champion_since FROM {schema}.pipeline_state) AS state"
        f" CROSS JOIN (SELECT max(decided_at) AS last_decision_at FROM {schema}.model_history"
        " WHERE action IN ('promote', 'reject')) AS decisions"
        " CROSS JOIN (SELECT jsonb_object_agg(state, of_state) AS states FROM"
        f" (SELECT state, count(*) AS of_state FROM {schema}.drop_summary GROUP BY state) AS by_state) AS drops"
        " CROSS JOIN (SELECT jsonb_agg(jsonb_build_array(kind, raised, open, newest) ORDER BY kind) AS kinds"
        f" FROM {schema}.alert_totals) AS alerts"
    )


def _totals(row: ViewRow, model: str) -> PipelineTotals:
    is_current = row["model_name"] == model
    return PipelineTotals(
        row["champion_version"] if is_current else None,
        row["champion_since"] if is_current else None,
        Totals(row["runs"], row["rows_scored"], row["rows_quarantined"], row["newest"]),
        row["last_decision_at"],
        row["states"] or {},
        tuple(
            AlertTotal(kind, raised, still_open, datetime.fromisoformat(newest))
            for kind, raised, still_open, newest in row["kinds"] or ()
        ),
    )
