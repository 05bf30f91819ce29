"""The warehouse: Postgres as role apex_writer. Ledgers and facts; bulk rows go through ADBC in :mod:`scored`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras

from apex_ml.adapters.postgres.blockers import blockers as others
from apex_ml.adapters.postgres.errors import as_apex_error
from apex_ml.errors import ConfigError, DataError
from apex_ml.json_text import json_text
from apex_ml.settings import Settings

if TYPE_CHECKING:  # Airflow raises alerts from here, and its image has no Arrow
    import pyarrow.parquet as pq

Connection = psycopg2.extensions.connection
CHAMPION_LOCK = 7_261_002
"""First key of the advisory lock that serialises everything about the champion; the second is the model's name."""
BAD_DROP = "bad_drop"
UNKNOWN_VALUES = "unknown_values"
SMALL_DROPS = "small drops"
"""How the subject of an alert about the small drops of a day begins."""
"""Kind of the alert that a drop cannot be scored."""


@contextmanager
def told_when_down(url: str, ask: str = "") -> Iterator[None]:
    """Turn what Postgres says into an error of ours that names the server and the remedy.

    A call that never reached the server is a fault of the caller and raised as it is. `ask` is a URL by which to ask
    who holds the connections when none is left.
    """
    try:
        yield
    except psycopg2.Error as error:
        if error.pgcode is None and isinstance(error, psycopg2.ProgrammingError):
            raise
        text = str(error) or type(error).__name__
        raise as_apex_error(url, text, error.pgcode, others=others(url, text, error.pgcode, ask)) from error


@contextmanager
def connect(settings: Settings) -> Iterator[Connection]:
    """Open a connection as the writer; the caller owns its transactions.

    Raises :class:`~apex_ml.errors.TransientError` naming the address when Postgres does not answer, also half way, and
    as :func:`~apex_ml.adapters.postgres.errors.as_apex_error` does for what it refuses.
    """
    url = settings.writer_url
    with told_when_down(url, settings.reader_url):
        connection = psycopg2.connect(url, connect_timeout=10, application_name="apex", options="-c timezone=UTC")
        try:
            yield connection
        finally:
            connection.close()


def rows(settings: Settings, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
    """Run one query and return its rows as dictionaries."""
    with (
        connect(settings) as connection,
        connection,
        connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor,
    ):
        cursor.execute(query, parameters)
        return [dict(row) for row in cursor.fetchall()]


def last_decision(settings: Settings, data_sha256: str, contract_sha256: str) -> dict[str, Any] | None:
    """The latest decision of the gate, when it was about exactly this data and contract; None otherwise."""
    found = rows(
        settings,
        "SELECT step_run, decided_at, data_sha256, contract_sha256 FROM apex.promotions"
        " WHERE model_name = %s AND action IN ('promote', 'reject') AND state = 'done'"
        " ORDER BY promotion_id DESC LIMIT 1",
        (settings.model_name,),
    )
    if found and (found[0]["data_sha256"], found[0]["contract_sha256"]) == (data_sha256, contract_sha256):
        return found[0]
    return None


def keep_quarantined(
    settings: Settings, kind: Literal["raw", "drop"], sha256: str, name: str, file: pq.ParquetFile, most: int
) -> None:
    """Keep the first `most` quarantined rows of a file (`row_nr`, `reasons`, `row`); rows kept before stay."""
    rows = (row for batch in file.iter_batches(10_000) for row in batch.to_pylist())
    with connect(settings) as connection, connection, connection.cursor() as cursor:
        _insert_quarantined(cursor, kind, sha256, name, islice(rows, most))


def _insert_quarantined(cursor: Any, kind: str, sha256: str, name: str, rows: Iterable[dict[str, Any]]) -> None:
    psycopg2.extras.execute_values(
        cursor,
        "INSERT INTO apex.quarantined_rows (source_kind, source_sha256, source_name, row_nr, reasons, row)"
        " VALUES %s ON CONFLICT DO NOTHING",
        ((kind, sha256, name, r["row_nr"], _json_safe(r["reasons"]), _json_safe(r["row"])) for r in rows),
        page_size=1000,
    )


def _json_safe(text: str) -> str:
    """A NUL cannot stand in jsonb; it may come in a broken file. A backslash before u0000 may itself be escaped."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\\u0000", r"\1", text)


@contextmanager
def champion_lock(settings: Settings, *, shared: bool = False) -> Iterator[Connection]:
    """Hold the lock on the champion for the length of the block, on a connection of its own.

    Exclusive for whoever may move the alias, shared for whoever only reads it. A process that dies releases it.
    """
    function = "pg_advisory_lock_shared" if shared else "pg_advisory_lock"
    with connect(settings) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {function}(%s, hashtext(%s))", (CHAMPION_LOCK, settings.model_name))
        yield connection


def ledger_champion(connection: Connection, model_name: str) -> int | None:
    """Version that the ledger holds for champion: the target of the latest finished move."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_version FROM apex.promotions WHERE model_name = %s AND state = 'done' AND action <> 'reject'"
            " ORDER BY promotion_id DESC LIMIT 1",
            (model_name,),
        )
        row = cursor.fetchone()
    return row[0] if row else None


def ledger_challenger(connection: Connection, model_name: str) -> int | None:
    """Version that the ledger holds for challenger: the view apex.challenger says which that is."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT version FROM apex.challenger WHERE model_name = %s", (model_name,))
        row = cursor.fetchone()
    return row[0] if row else None


def pending_move(connection: Connection, model_name: str) -> tuple[int, int | None, int] | None:
    """The move that was begun and not finished, as (promotion_id, from_version, to_version)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT promotion_id, from_version, to_version FROM apex.promotions"
            " WHERE model_name = %s AND state = 'pending'",
            (model_name,),
        )
        row = cursor.fetchone()
    return (row[0], row[1], row[2]) if row else None


def record_decision(connection: Connection, decision: dict[str, Any]) -> int:
    """Append a row to the ledger; keys are its columns. Returns its promotion_id."""
    values = {**decision, "evidence": json_text(decision.get("evidence", {}))}
    names = ", ".join(values)
    marks = ", ".join(f"%({name})s" for name in values)
    done = "now()" if decision["state"] == "done" else "NULL"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO apex.promotions ({names}, done_at) VALUES ({marks}, {done}) RETURNING promotion_id", values
        )
        row = cursor.fetchone()
    assert row is not None  # RETURNING yields the inserted row
    return int(row[0])


def decision_of(connection: Connection, model_name: str, step_run: str, to_version: int) -> dict[str, Any] | None:
    """The finished decision of a run about a version; None when it has not been taken."""
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute(
            "SELECT action, reasons, evidence, from_version, to_version FROM apex.promotions WHERE model_name = %s"
            " AND step_run = %s AND to_version = %s AND state = 'done' AND action IN ('promote', 'reject')",
            (model_name, step_run, to_version),
        )
        row = cursor.fetchone()
    return dict(row) if row else None


def looks_since_last_move(connection: Connection, model_name: str) -> int:
    """Challengers that were rejected since the champion last changed, by whomever."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM apex.promotions WHERE model_name = %(name)s AND state = 'done' AND action = 'reject'"
            " AND promotion_id > coalesce((SELECT max(promotion_id) FROM apex.promotions WHERE model_name = %(name)s"
            " AND state = 'done' AND action <> 'reject'), 0)",
            {"name": model_name},
        )
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def finish_move(connection: Connection, promotion_id: int) -> None:
    """Mark a pending move as done."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE apex.promotions SET state = 'done', done_at = now() WHERE promotion_id = %s AND state = 'pending'",
            (promotion_id,),
        )


def abort_move(connection: Connection, promotion_id: int, reason: str) -> None:
    """Mark a pending move as one that will not be finished, and why."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE apex.promotions SET state = 'aborted', done_at = now(), reasons = array_append(reasons, %s)"
            " WHERE promotion_id = %s AND state = 'pending'",
            (reason, promotion_id),
        )


def finished_moves(settings: Settings) -> list[dict[str, Any]]:
    """Every change of the champion, oldest first: action, step_run, from_version, to_version, who, reasons."""
    return rows(
        settings,
        "SELECT action, step_run, from_version, to_version, who, reasons FROM apex.promotions"
        " WHERE model_name = %s AND state = 'done' AND action <> 'reject' ORDER BY promotion_id",
        (settings.model_name,),
    )


def last_evidence(settings: Settings, to_version: int) -> dict[str, Any]:
    """Evidence of the gate's latest decision about a version, with its promotion_id; empty when there was none."""
    found = rows(
        settings,
        "SELECT promotion_id, evidence FROM apex.promotions WHERE model_name = %s AND to_version = %s"
        " AND state = 'done' AND action IN ('promote', 'reject') ORDER BY promotion_id DESC LIMIT 1",
        (settings.model_name, to_version),
    )
    return {**found[0]["evidence"], "decided_in": found[0]["promotion_id"]} if found else {}


def due_for_shadow(settings: Settings, days: int) -> list[dict[str, Any]]:
    """Scored drops that a challenger has yet to score: run_id, name, sha256, challenger_version; by challenger.

    A challenger is a promotable version that was never champion. Its drops are those scored within so many days after
    it was registered, both by the clock of the database. A corrected drop is left out.
    """
    return rows(
        settings,
        "SELECT r.run_id, d.name, d.sha256, v.model_version AS challenger_version"
        " FROM apex.model_versions AS v JOIN apex.scoring_runs AS r ON r.model_name = v.model_name"
        " AND r.finished_at >= v.recorded_at AND r.finished_at < v.recorded_at + make_interval(days => %(days)s)"
        " JOIN apex.drops AS d USING (drop_id)"
        " WHERE v.model_name = %(name)s AND v.about ->> 'promotable' = 'true' AND d.superseded_by IS NULL"
        " AND v.model_version <> r.model_version AND NOT EXISTS (SELECT FROM apex.promotions AS p"
        " WHERE p.model_name = v.model_name AND p.to_version = v.model_version AND p.action <> 'reject'"
        " AND p.state <> 'aborted') AND NOT EXISTS (SELECT FROM apex.shadow_runs AS s"
        " WHERE s.run_id = r.run_id AND s.model_version = v.model_version)"
        " ORDER BY v.model_version DESC, r.run_id",
        {"name": settings.model_name, "days": days},
    )


def shadowed_versions(settings: Settings, champion: int) -> list[dict[str, Any]]:
    """Challengers that scored orders beside a champion: model_version, outcomes that are known; newest first.

    One that was champion since is no challenger.
    """
    return rows(
        settings,
        "SELECT s.model_version, count(o.observed) AS outcomes FROM apex.shadow_scores AS s"
        " JOIN apex.scored_orders AS c ON c.run_id = s.run_id AND c.row_nr = s.row_nr"
        " LEFT JOIN apex.outcomes AS o ON o.run_id = s.run_id AND o.row_nr = s.row_nr"
        " WHERE c.model_version = %(champion)s AND s.model_version <> %(champion)s"
        " AND NOT EXISTS (SELECT FROM apex.promotions AS p"
        " WHERE p.model_name = %(name)s AND p.to_version = s.model_version AND p.action <> 'reject'"
        " AND p.state <> 'aborted') GROUP BY s.model_version ORDER BY s.model_version DESC",
        {"name": settings.model_name, "champion": champion},
    )


def fail_shadow(settings: Settings, run_id: int, version: int, step_run: str, reason: str) -> None:
    """Record that a challenger cannot score a drop, so that it is not tried again."""
    with connect(settings) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO apex.shadow_runs (run_id, model_version, step_run, state, reason)"
            " VALUES (%s, %s, %s, 'failed', %s) ON CONFLICT DO NOTHING",
            (run_id, version, step_run, reason),
        )


def newest_version(settings: Settings) -> int | None:
    """The newest version of the model that the ledgers know; None when there is none."""
    found = rows(
        settings,
        "SELECT greatest((SELECT max(model_version) FROM apex.model_versions WHERE model_name = %(name)s),"
        " (SELECT max(to_version) FROM apex.promotions WHERE model_name = %(name)s)) AS newest",
        {"name": settings.model_name},
    )
    return found[0]["newest"] if found else None


def record_version(settings: Settings, version: dict[str, Any]) -> None:
    """Keep what a model version was made from; keys are the columns of model_versions.

    Raises :class:`~apex_ml.errors.ConfigError` when the version is known as another run's.
    """
    values = {**version, "about": json_text(version["about"])}
    names = ", ".join(values)
    marks = ", ".join(f"%({name})s" for name in values)
    with connect(settings) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO apex.model_versions ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING", values)
        cursor.execute(
            "SELECT mlflow_run_id FROM apex.model_versions WHERE model_name = %(model_name)s"
            " AND model_version = %(model_version)s",
            values,
        )
        if (known := cursor.fetchone()) != (version["mlflow_run_id"],):
            raise ConfigError(
                f"version {version['model_version']} of {version['model_name']} was trained before, by MLflow's run"
                f" {known and known[0]}: the registered model was deleted in MLflow and made anew, which counts from 1"
                " again; begin anew under another name with APEX_MODEL_NAME"
            )


def known_drop(connection: Connection, sha256: str) -> dict[str, Any] | None:
    """The ledger row of a content; None when it is new."""
    with connection, connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute("SELECT drop_id, name, state FROM apex.drops WHERE sha256 = %s", (sha256,))
        row = cursor.fetchone()
    return dict(row) if row else None


def find_drop(settings: Settings, given: str) -> dict[str, Any]:
    """The scored drop of a name (the newest), an id or the beginning of a sha256.

    Raises :class:`~apex_ml.errors.DataError` when there is none, or when the beginning fits several.
    """
    found = rows(
        settings,
        "SELECT drop_id, name, sha256, name = %(given)s OR drop_id::text = %(given)s AS exact FROM apex.drops"
        " WHERE state = 'done' AND (name = %(given)s OR drop_id::text = %(given)s"
        " OR length(%(given)s) >= 8 AND starts_with(sha256, lower(%(given)s)))"
        " ORDER BY name = %(given)s DESC, exact DESC, drop_id DESC",
        {"given": given},
    )
    if not found:
        raise DataError(f"{given}: no scored drop has this name, id or sha256; see: apex sql -c 'TABLE drop_summary'")
    if not found[0]["exact"] and len(found) > 1:
        raise DataError(f"{given}: {len(found)} drops begin so; give more of the sha256")
    return found[0]


def run_facts(settings: Settings, given: str) -> dict[str, str]:
    """Where a scoring run came from, all as text; `given` is its run_id, or a drop's name for its latest run.

    Raises :class:`~apex_ml.errors.DataError` when there is no such run.
    """
    found = rows(
        settings,
        "SELECT r.run_id::text, d.name AS drop, d.sha256 AS drop_sha256,"
        " r.model_name || ' version ' || r.model_version AS model, r.mlflow_run_id, r.feature_snapshot,"
        " r.finished_at::text FROM apex.scoring_runs AS r JOIN apex.drops AS d USING (drop_id)"
        " WHERE r.run_id::text = %(given)s OR d.name = %(given)s"
        " ORDER BY r.run_id::text = %(given)s DESC, d.drop_id DESC, r.run_id DESC LIMIT 1",
        {"given": given},
    )
    if not found:
        raise DataError(
            f"{given}: no scoring run has this id and no scored drop this name; see: apex sql -c 'TABLE drop_summary'"
        )
    return {key: str(value) for key, value in found[0].items()}


def count_delivery(connection: Connection, sha256: str) -> None:
    """Note that a content was delivered once more."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE apex.drops SET deliveries = deliveries + 1, delivered_at = now() WHERE sha256 = %s", (sha256,)
        )


@dataclass(frozen=True)
class RefusedRows:
    """How many rows a refused drop has, how many of them break the contract, and the first of those."""

    rows: int | None = None
    quarantined: int | None = None
    kept: Sequence[dict[str, Any]] = field(default=(), repr=False)
    """Each with `row_nr`, `reasons` and `row`, the latter two as JSON text."""


def fail_drop(
    settings: Settings,
    sha256: str,
    name: str,
    size: int,
    reason: str,
    run: str = "",
    refused: RefusedRows = RefusedRows(),  # noqa: B008  # it is frozen
) -> None:
    """Record a drop that cannot be scored, with its bad rows; a later delivery of the same content may still succeed.

    What was recorded of an earlier delivery of this content is replaced.
    """
    with connect(settings) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO apex.drops (sha256, name, bytes, state, reason, rows, rows_quarantined)"
            " VALUES (%s, %s, %s, 'failed', %s, %s, %s)"
            " ON CONFLICT (sha256) DO UPDATE SET deliveries = drops.deliveries + 1, delivered_at = now(),"
            " reason = EXCLUDED.reason, rows = EXCLUDED.rows, rows_quarantined = EXCLUDED.rows_quarantined"
            " WHERE drops.state = 'failed'",
            (sha256, name, size, reason, refused.rows, refused.quarantined),
        )
        if cursor.rowcount:  # else another process has scored the content meanwhile
            cursor.execute(
                "DELETE FROM apex.quarantined_rows WHERE source_kind = 'drop' AND source_sha256 = %s", (sha256,)
            )
            _insert_quarantined(cursor, "drop", sha256, name, refused.kept)
        _alert_bad_drop(cursor, name, reason, run)


def alert_bad_drop(settings: Settings, name: str, reason: str, run: str = "") -> None:
    """Raise the alert about a drop that has no row in the ledger, as its content cannot be read."""
    with connect(settings) as connection, connection, connection.cursor() as cursor:
        _alert_bad_drop(cursor, name, reason, run)


def raise_alert(settings: Settings, kind: str, subject: str, message: str) -> None:
    """Raise an alert; one of this kind and subject that is open gets the new message instead."""
    with connect(settings) as connection, connection, connection.cursor() as cursor:
        _raise(cursor, kind, subject, message)


def bad_drops(settings: Settings, run: str) -> list[dict[str, Any]]:
    """Name and reason of the drops that a run could not score and that nobody has mended or closed since."""
    return rows(
        settings,
        "SELECT subject AS drop, message AS reason FROM apex.alerts WHERE kind = %s AND seen_in = %s"
        " AND resolved_at IS NULL ORDER BY alert_id",
        (BAD_DROP, run),
    )


def scored_drops(settings: Settings, run: str) -> int:
    """How many drops a run has scored."""
    found = rows(settings, "SELECT count(*) AS drops FROM apex.scoring_runs WHERE step_run = %s", (run,))
    return int(found[0]["drops"])


def _alert_bad_drop(cursor: Any, name: str, reason: str, run: str) -> None:
    # a file may be bad anew in another way: that is another alert
    _raise(cursor, BAD_DROP, name, reason, "AND message = %(message)s", run)


def _raise(cursor: Any, kind: str, subject: str, message: str, which: str = "", run: str = "") -> None:
    """Renew the open alert of this kind and subject, or raise one."""
    values = {"kind": kind, "subject": subject, "message": message, "run": run or None}
    cursor.execute(
        "UPDATE apex.alerts SET message = %(message)s, last_seen_at = now(), seen_in = %(run)s"
        f" WHERE kind = %(kind)s AND subject = %(subject)s AND resolved_at IS NULL {which}",
        values,
    )
    if not cursor.rowcount:
        cursor.execute(
            "INSERT INTO apex.alerts (kind, subject, message, seen_in)"
            " VALUES (%(kind)s, %(subject)s, %(message)s, %(run)s)",
            values,
        )
