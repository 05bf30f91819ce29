"""The implementations of the ledgers that the conformance tests run on, each as a way to begin a transaction."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from apex_ml.adapters.postgres.alerts import AlertLedger, PostgresAlerts
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.champions import ChampionLedger, PostgresChampions
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.drift import DriftLedger, PostgresDrift
from apex_ml.adapters.postgres.drops import DropLedger, PostgresDrops
from apex_ml.adapters.postgres.outbox import Outbox, PostgresOutbox
from apex_ml.adapters.postgres.outcomes import OutcomeStore, PostgresOutcomes
from apex_ml.adapters.postgres.partitions import Partitions, PostgresPartitions
from apex_ml.adapters.postgres.quality import PostgresQuality, QualityLedger
from apex_ml.adapters.postgres.quarantine import PostgresQuarantine, QuarantineStore
from apex_ml.adapters.postgres.scoring_profiles import PostgresProfiles, ProfileStore
from apex_ml.adapters.postgres.scoring_runs import PostgresScoringRuns, ScoringRun, ScoringRunLedger
from apex_ml.adapters.postgres.session import Session
from apex_ml.adapters.postgres.shadow import PostgresShadow, ShadowLedger
from apex_ml.adapters.postgres.versions import PostgresVersions, VersionLedger
from apex_ml.settings import Settings
from tests.support.apex_home import Apex
from tests.support.schema import SCHEMA

MODEL = "m"


@dataclass(frozen=True)
class Ledgers:
    """The ledgers of one implementation."""

    begin: Callable[[Settings, str], AbstractContextManager[Any]]
    drops: Callable[[Session], DropLedger]
    alerts: Callable[[Session], AlertLedger]
    champions: Callable[[Session], ChampionLedger]
    versions: Callable[[Session], VersionLedger]
    shadow: Callable[[Session], ShadowLedger]
    runs: Callable[[Session], ScoringRunLedger]


def _postgres(begin: Callable[[Settings, str], AbstractContextManager[Any]]) -> Ledgers:
    return Ledgers(
        begin=begin,
        drops=PostgresDrops,
        alerts=PostgresAlerts,
        champions=lambda session: PostgresChampions(session, MODEL),
        versions=lambda session: PostgresVersions(session, MODEL),
        shadow=lambda session: PostgresShadow(session, MODEL),
        runs=PostgresScoringRuns,
    )


@dataclass(frozen=True)
class Stores:
    """The stores of one implementation that write rows one by one (`begin`) or in bulk (`begin_bulk`)."""

    begin: Callable[[Settings, str], AbstractContextManager[Any]]
    begin_bulk: Callable[[Settings, str], AbstractContextManager[Any]]
    drift: Callable[[Any], DriftLedger]
    quality: Callable[[Any], QualityLedger]
    outbox: Callable[[Any], Outbox]
    profiles: Callable[[Any], ProfileStore]
    outcomes: Callable[[Any], OutcomeStore]
    quarantine: Callable[[Any], QuarantineStore]
    partitions: Callable[[Any], Partitions]


STORES = {
    "postgres": Stores(
        begin=transaction,
        begin_bulk=bulk_transaction,
        drift=lambda session: PostgresDrift(session, MODEL),
        quality=lambda session: PostgresQuality(session, MODEL),
        outbox=PostgresOutbox,
        profiles=lambda session: PostgresProfiles(session, MODEL),
        outcomes=PostgresOutcomes,
        quarantine=PostgresQuarantine,
        partitions=PostgresPartitions,
    )
}
"""Another implementation is one more entry."""
IMPLEMENTATIONS = {"psycopg2": _postgres(transaction), "adbc": _postgres(bulk_transaction)}
"""Postgres by each of its two drivers; another implementation is one more entry."""
SCHEMAS = (SCHEMA, "parcels")
"""The schema of existing databases, and that of another pipeline."""


def rows_outside(apex: Apex) -> dict[str, int]:
    """Tables of other schemas of the same database that have rows of data, with their numbers."""
    tables = apex.sql(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class AS c"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND n.nspname <> %s"
        r" AND n.nspname NOT LIKE 'pg\_%%' AND n.nspname <> 'information_schema'"
        " AND c.relname NOT IN ('migrations', 'generated', 'known_pipelines', 'contracts') ORDER BY 1",
        (apex.schema,),
    )
    counts = {table: apex.sql(f"SELECT count(*) FROM {table}")[0][0] for (table,) in tables}
    return {table: rows for table, rows in counts.items() if rows}


def run_of(run_id: int, drop_id: int, rows: int = 10, **changes: Any) -> ScoringRun:
    """A scoring run of a drop, with some fields changed."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "run_id": run_id,
        "drop_id": drop_id,
        "step_run": "scoring",
        "model_name": MODEL,
        "model_version": 1,
        "mlflow_run_id": "f",
        "feature_snapshot": f"snapshot {run_id}",
        "snapshot_as_of": date(2024, 8, 24),
        "rows_in": rows,
        "rows_scored": rows,
        "rows_quarantined": 0,
        "success_rate": 1.0,
        **dict.fromkeys(("row_us_mean", "row_us_p50", "row_us_p95", "row_us_p99"), math.nan),
        **dict.fromkeys(("confidence_mean", "confidence_median"), 0.5),
        "profile": '{"features": {}, "lag_days": 1.0}',
        "started_at": now,
        "finished_at": now,
        **dict.fromkeys(("ms_total", "ms_check", "ms_features", "ms_predict", "ms_write"), 1.0),
    }
    return ScoringRun(**values | changes)
