"""The implementations of the ledgers that the conformance tests run on, each as a way to begin a transaction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from apex_ml.adapters.postgres.alerts import AlertLedger, PostgresAlerts
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.champions import ChampionLedger, PostgresChampions
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.drops import DropLedger, PostgresDrops
from apex_ml.adapters.postgres.scoring_runs import PostgresScoringRuns, ScoringRunLedger
from apex_ml.adapters.postgres.session import Session
from apex_ml.adapters.postgres.shadow import PostgresShadow, ShadowLedger
from apex_ml.adapters.postgres.versions import PostgresVersions, VersionLedger
from apex_ml.settings import Settings

MODEL = "m"


@dataclass(frozen=True)
class Ledgers:
    """The ledgers of one implementation."""

    begin: Callable[[Settings], AbstractContextManager[Any]]
    drops: Callable[[Session], DropLedger]
    alerts: Callable[[Session], AlertLedger]
    champions: Callable[[Session], ChampionLedger]
    versions: Callable[[Session], VersionLedger]
    shadow: Callable[[Session], ShadowLedger]
    runs: Callable[[Session], ScoringRunLedger]


def _postgres(begin: Callable[[Settings], AbstractContextManager[Any]]) -> Ledgers:
    return Ledgers(
        begin=begin,
        drops=PostgresDrops,
        alerts=PostgresAlerts,
        champions=lambda session: PostgresChampions(session, MODEL),
        versions=lambda session: PostgresVersions(session, MODEL),
        shadow=lambda session: PostgresShadow(session, MODEL),
        runs=PostgresScoringRuns,
    )


IMPLEMENTATIONS = {"psycopg2": _postgres(transaction), "adbc": _postgres(bulk_transaction)}
"""Postgres by each of its two drivers; another implementation is one more entry."""
