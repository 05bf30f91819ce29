"""Drops that never should have been scored: what Postgres and the folders keep of them is removed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from apex_ml.adapters.postgres import monitoring, warehouse
from apex_ml.adapters.postgres.monitoring import DRIFT
from apex_ml.adapters.storage.drops import Inbox
from apex_ml.adapters.storage.files import sha256_of
from apex_ml.errors import DataError
from apex_ml.services.run_folder import StepContext
from apex_ml.sql.tables import SCORED, SHADOW

INVENTED = "invented-"
"""How the names of drops of invented orders begin."""


@dataclass(frozen=True)
class Removable:
    """A drop of the ledger, with how many orders of it are scored."""

    drop_id: int
    name: str
    sha256: str
    state: str
    orders: int


def find_removable(context: StepContext, names: Sequence[str], invented: bool) -> list[Removable]:
    """The drops of these names, every content of each, and with `invented` all of invented orders.

    Raises :class:`~apex_ml.errors.DataError` naming every name that the ledger does not know.
    """
    found = warehouse.rows(
        context.settings,
        "SELECT d.drop_id, d.name, d.sha256, d.state, coalesce(sum(r.rows_scored), 0)::bigint AS orders"
        " FROM apex.drops AS d LEFT JOIN apex.scoring_runs AS r USING (drop_id)"
        " WHERE d.name = ANY(%(names)s) OR (%(invented)s AND starts_with(d.name, %(prefix)s))"
        " GROUP BY d.drop_id ORDER BY d.drop_id",
        {"names": list(names), "invented": invented, "prefix": INVENTED},
    )
    if unknown := sorted(set(names) - {row["name"] for row in found}):
        raise DataError(f"no drop of this name was delivered: {', '.join(unknown)}; `apex sql` and apex.drop_summary")
    return [Removable(**row) for row in found]


def remove(context: StepContext, drops: Sequence[Removable]) -> None:
    """Remove scored orders, outcomes, drift and alerts of the drops, then their ledger rows and their files.

    All of Postgres in one transaction. A drop that one of them superseded is current again. MLflow's runs stay. The
    same content, delivered again, would be scored again.
    """
    ids, shas, names = ([getattr(drop, field) for drop in drops] for field in ("drop_id", "sha256", "name"))
    with warehouse.connect(context.settings) as connection, connection, connection.cursor() as cursor:
        monitoring.lock(cursor)
        cursor.execute("SELECT FROM apex.drops WHERE drop_id = ANY(%s) FOR UPDATE", (ids,))
        cursor.execute(
            "SELECT run_id, (finished_at AT TIME ZONE 'UTC')::date || ' v' || model_version FROM apex.scoring_runs"
            " WHERE drop_id = ANY(%s)",
            (ids,),
        )
        found = cursor.fetchall()
        runs, days = [run for run, _ in found], sorted({day for _, day in found})
        for table in ("apex.outcomes", SHADOW, SCORED):
            cursor.execute(f"DELETE FROM {table} WHERE run_id = ANY(%s)", (runs,))
        # a day of scoring is looked at anew when other drops were scored on it
        monitoring.forget_drift(cursor, "drop", [str(run) for run in runs])
        monitoring.forget_drift(cursor, "day", days)
        cursor.execute(
            "UPDATE apex.alerts SET resolved_at = now() WHERE resolved_at IS NULL AND kind = ANY(%s)"
            " AND subject = ANY(%s)",
            ([warehouse.BAD_DROP, warehouse.UNKNOWN_VALUES], names),
        )
        cursor.execute(
            "DELETE FROM apex.quarantined_rows WHERE source_kind = 'drop' AND source_sha256 = ANY(%s)", (shas,)
        )
        cursor.execute("DELETE FROM apex.scoring_runs WHERE run_id = ANY(%s)", (runs,))
        cursor.execute("UPDATE apex.drops SET superseded_by = NULL WHERE superseded_by = ANY(%s)", (ids,))
        cursor.execute("DELETE FROM apex.drops WHERE drop_id = ANY(%s)", (ids,))
        # what drifts without them is what drifts now
        name = context.model_name
        champion = warehouse.ledger_champion(connection, name)
        monitoring.set_alerts(cursor, DRIFT, monitoring.drifting(cursor, name, champion))
    _remove_files(Inbox(context.settings), set(shas))


def _remove_files(inbox: Inbox, shas: set[str]) -> None:
    """Remove the files of these contents from done/ and quarantine/: in the inbox they would be scored anew."""
    for folder in (inbox.inbox, inbox.done, inbox.quarantine):
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            with suppress(OSError):
                if path.is_file() and not path.name.endswith(".reason.json") and sha256_of(path) in shas:
                    path.unlink()
                    path.with_name(path.name + ".reason.json").unlink(missing_ok=True)
