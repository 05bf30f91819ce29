"""DAGs that an upgrade renamed, in Airflow's own database: their runs end, and whether they are paused stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apex_ml.adapters.postgres.connection import Connection, PsycopgSession, begin


@dataclass(frozen=True)
class RenamedDags:
    """What was done about renamed DAGs."""

    ended: tuple[str, ...] = ()
    """Unfinished runs that were ended as failed: ``<dag_id> <run_id>``."""
    paused: tuple[str, ...] = ()
    """Present names of the DAGs that stay paused."""


def retire_dags(connection: Connection, renamed: Mapping[str, str | None]) -> RenamedDags:
    """Retire the DAGs of former names, in one transaction; `renamed` has the present name of each, if there is one.

    An unfinished run is ended, since no process continues it. The DAG of the present name is paused exactly if the
    former one was, with its entry of the audit log, unless Airflow has it already. The history of runs stays.
    """
    with begin(connection) as session:
        rows = session.fetch(
            "SELECT dag_id FROM dag WHERE dag_id = ANY(%(dags)s) AND NOT (is_stale AND is_paused) ORDER BY dag_id",
            {"dags": list(renamed)},
        )
        former = [str(row[0]) for row in rows]
        if not former:
            return RenamedDags()
        ended = _end_runs(session, former)
        created = [name for dag_id in former if (name := renamed[dag_id]) and _create(session, dag_id, name)]
        # a scheduler that still runs starts none of them again
        session.execute("UPDATE dag SET is_stale = true, is_paused = true WHERE dag_id = ANY(%(f)s)", {"f": former})
        rows = session.fetch("SELECT dag_id FROM dag WHERE is_paused AND dag_id = ANY(%(c)s)", {"c": created})
        paused = sorted(str(row[0]) for row in rows)
    return RenamedDags(tuple(ended), tuple(paused))


def _end_runs(session: PsycopgSession, dags: list[str]) -> list[str]:
    runs = "SELECT id FROM dag_run WHERE dag_id = ANY(%(dags)s) AND state IN ('queued', 'running')"
    session.execute(f"DELETE FROM deadline WHERE dagrun_id IN ({runs})", {"dags": dags})
    session.execute(
        "UPDATE task_instance AS task SET trigger_id = NULL, end_date = now(), state = CASE"
        " WHEN task.state IS NULL THEN 'skipped' ELSE 'failed' END"
        " FROM dag_run AS run WHERE run.dag_id = task.dag_id AND run.run_id = task.run_id"
        f" AND run.id IN ({runs})"
        " AND (task.state IS NULL OR task.state NOT IN"
        " ('success', 'failed', 'skipped', 'upstream_failed', 'removed'))",
        {"dags": dags},
    )
    ended = session.fetch(
        f"UPDATE dag_run SET state = 'failed', end_date = now() WHERE id IN ({runs}) RETURNING dag_id, run_id",
        {"dags": dags},
    )
    session.execute("DELETE FROM asset_dag_run_queue WHERE target_dag_id = ANY(%(dags)s)", {"dags": dags})
    return sorted(f"{dag_id} {run_id}" for dag_id, run_id in ended)


def _create(session: PsycopgSession, former: str, name: str) -> bool:
    """Enter a DAG under its present name, before Airflow reads its file; return whether it was not there."""
    # every column is copied, so that the statement fits the next release of Airflow, too; its parser sets the rest
    created = session.fetch(
        "INSERT INTO dag SELECT (jsonb_populate_record(dag, jsonb_build_object('dag_id', %(name)s,"
        " 'dag_display_name', NULL, 'deadline', NULL, 'is_stale', true))).* FROM dag WHERE dag_id = %(former)s"
        " ON CONFLICT DO NOTHING RETURNING dag_id",
        {"name": name, "former": former},
    )
    if not created:
        return False
    logged = session.fetch(
        "INSERT INTO log (dttm, dag_id, event, owner, owner_display_name, extra)"
        " SELECT dttm, %(name)s, event, owner, owner_display_name, extra FROM log WHERE dag_id = %(former)s"
        " AND event IN ('paused', 'cli_dag_pause', 'cli_dag_unpause', 'patch_dag', 'delete_dag')"
        " ORDER BY id DESC LIMIT 1 RETURNING id",
        {"name": name, "former": former},
    )
    if not logged:
        # the audit log was emptied; a DAG with runs was on before, so that a person paused it
        session.execute(
            "INSERT INTO log (dttm, dag_id, event) SELECT now(), %(name)s, 'paused' FROM dag"
            " WHERE dag_id = %(former)s AND is_paused AND EXISTS (SELECT FROM dag_run WHERE dag_id = %(former)s)",
            {"name": name, "former": former},
        )
    return True
