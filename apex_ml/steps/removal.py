"""Remove drops that should never have been scored, from Postgres and from the folders."""

from __future__ import annotations

from collections.abc import Sequence

from apex_ml.adapters.postgres.alerts import BAD_DROP, DRIFT, UNKNOWN_VALUES, PostgresAlerts
from apex_ml.adapters.postgres.champions import PostgresChampions
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.drift import PostgresDrift
from apex_ml.adapters.postgres.drops import PostgresDrops, RemovableDrop
from apex_ml.adapters.postgres.quarantine import delete_quarantined
from apex_ml.adapters.postgres.scored_rows import delete_scores
from apex_ml.adapters.postgres.scoring_runs import PostgresScoringRuns
from apex_ml.errors import DataError
from apex_ml.services.inboxes import open_inbox
from apex_ml.services.run_folder import StepContext

INVENTED = "invented-"
"""The prefix of the names of drops with invented rows."""


def find_removable(context: StepContext, names: Sequence[str], invented: bool) -> list[RemovableDrop]:
    """The drops of these names, with every content of each, and with `invented` all drops of invented rows.

    Raises :class:`~apex_ml.errors.DataError` naming every name that the ledger does not know.
    """
    with transaction(context.settings, context.schema) as session:
        drops = PostgresDrops(session).removable(names, INVENTED if invented else None)
    if unknown := sorted(set(names) - {drop.name for drop in drops}):
        raise DataError(
            f"no drop of this name was delivered: {', '.join(unknown)}; `apex sql` and {context.schema}.drop_summary"
        )
    return drops


def remove(context: StepContext, drops: Sequence[RemovableDrop]) -> None:
    """Remove scored rows, outcomes, drift and alerts of the drops, then their ledger rows and their files.

    Everything in Postgres is removed in one transaction. A drop that one of them superseded is current again. The runs
    in MLflow stay. The same content, delivered again, would be scored again.
    """
    ids, shas, names = ([getattr(drop, field) for drop in drops] for field in ("drop_id", "sha256", "name"))
    with transaction(context.settings, context.schema) as session:
        ledger, runs, alerts = PostgresDrops(session), PostgresScoringRuns(session), PostgresAlerts(session)
        drift = PostgresDrift(session, context.model_name)
        drift.lock()
        ledger.lock(ids)
        runs_and_days = runs.runs_of_drops(ids)
        run_ids, days = [run for run, _ in runs_and_days], sorted({day for _, day in runs_and_days})
        delete_scores(session, run_ids)
        # the drift of a day is measured again when other drops were scored on it
        drift.delete("drop", [str(run) for run in run_ids])
        drift.delete("day", days)
        alerts.resolve([BAD_DROP, UNKNOWN_VALUES], names)
        delete_quarantined(session, "drop", shas)
        runs.delete(run_ids)
        ledger.remove(ids)
        # the open alerts are those that drift without the removed drops
        champion = PostgresChampions(session, context.model_name).champion()
        alerts.set_open(DRIFT, drift.drifting(champion))
    open_inbox(context.settings, context.pipeline).remove(set(names), set(shas))
