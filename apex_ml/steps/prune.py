"""Prune old data: completely old partitions of scored rows, and outputs of runs that nothing refers to.

Ledgers and statistics are never pruned: they are small, and exactly-once scoring depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.online import count_answers_before, delete_answers_before
from apex_ml.adapters.postgres.partitions import Partition, drop_partitions, droppable
from apex_ml.adapters.postgres.scoring_runs import PostgresScoringRuns
from apex_ml.adapters.postgres.versions import PostgresVersions
from apex_ml.services.results import EltResult, ValidateResult
from apex_ml.services.run_folder import StepContext, recent_manifests
from apex_ml.services.run_layout import SNAPSHOT
from apex_ml.services.runs import RunSize


@dataclass(frozen=True)
class Prunable:
    """Removable data. `kept` has by run the reason why an old run stays; `answers` counts online answers."""

    partitions: list[Partition]
    runs: list[RunSize]
    bytes: int
    kept: dict[str, str]
    answers: int
    before: datetime


def find_prunable(context: StepContext, keep: timedelta, now: datetime | None = None) -> Prunable:
    """Find data that is older than `keep`: partitions by the end of their newest run, runs by their last step.

    A run stays while a version that was ever champion, or the newest version, comes from it; while kept scored
    rows, or the next scoring, use its history snapshot; and while the checks compare new raw data with it.
    """
    before = (now or datetime.now(UTC)) - keep
    parts = droppable(context.settings, context.schema, before)
    referred = _referred(context, {p.low for p in parts})
    runs, kept = [], {}
    for run in context.runs.sizes():
        if run.is_going:
            runs.append(run)
        elif run.last_used < before:
            if reason := referred.get(run.name):
                kept[run.name] = reason
            else:
                runs.append(run)
    size = sum(p.bytes for p in parts) + sum(run.bytes for run in runs)
    return Prunable(parts, runs, size, kept, count_answers_before(context.settings, context.schema, before), before)


def prune(context: StepContext, prunable: Prunable) -> None:
    """Drop the partitions, delete the answers and remove the runs. After a kill the next call continues."""
    drop_partitions(context.settings, context.schema, prunable.partitions)
    if prunable.answers:
        delete_answers_before(context.settings, context.schema, prunable.before)
    for run in prunable.runs:
        context.runs.remove(run)


def _referred(context: StepContext, dropped: set[int]) -> dict[str, str]:
    """Runs that are still needed, each with the reason."""
    reasons: dict[str, str] = {}
    with transaction(context.settings, context.schema) as session:
        versions = PostgresVersions(session, context.model_name).runs_in_use()
        used = PostgresScoringRuns(session).snapshots_in_use(sorted(dropped))
    reasons |= {run: f"model version {version}" for run, version in versions.items()}
    newest: set[str] = set()
    for manifest in recent_manifests(context, EltResult):
        result = manifest.result
        if result.features_sha256 not in newest:
            newest.add(result.features_sha256)
            reasons.setdefault(manifest.run, "the newest history snapshot of its features")
        if result.snapshot_sha256 in used:
            reasons.setdefault(manifest.run, f"scored rows made with its {SNAPSHOT}")
    recent = recent_manifests(context, ValidateResult)[: context.contract.batch.recent]
    for validated in recent:
        reasons.setdefault(validated.run, "the next raw data is compared with it")
    return reasons
