"""What monitoring reads and writes in Postgres: profiles of scoring runs, drift, quality by week, alerts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import psycopg2.extras
import pyarrow as pa

from apex_ml.adapters.postgres import scores, warehouse
from apex_ml.contract.model import Contract
from apex_ml.contract.names import probability_column
from apex_ml.core.degradation import WeekQuality
from apex_ml.core.drift import Drift
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier, literal

MONITOR_LOCK = 7_261_009
"""Key of the advisory lock under which one process at a time monitors."""
SEND_LOCK = 7_261_010
"""Key of the advisory lock under which one process at a time sends alerts."""
WEEKS = 26
"""Weeks of orders, back from the newest scored one, whose quality is followed."""


@dataclass(frozen=True)
class Run:
    """A scoring run with its profile; `day` is the UTC day on which it finished."""

    run_id: int
    drop: str
    day: date
    version: int
    rows_in: int
    rows_quarantined: int
    rows_scored: int
    profile: dict[str, Any]
    drifted: bool
    """Whether a feature of it was found to have drifted, unless outcomes then showed that the scores of that week were
    as good as expected: history, and with it the predictions, may move to a new level for good."""


def lock(cursor: Any) -> None:
    """Wait until no other process monitors; the lock ends with the transaction."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (MONITOR_LOCK,))


def known_about(cursor: Any, model_name: str) -> dict[int, dict[str, Any]]:
    """What was recorded about every version of the model when it was trained."""
    cursor.execute("SELECT model_version, about FROM apex.model_versions WHERE model_name = %s", (model_name,))
    return dict(cursor.fetchall())


_RUNS = (
    "SELECT r.run_id, d.name, (r.finished_at AT TIME ZONE 'UTC')::date, r.model_version, r.rows_in, r.rows_quarantined,"
    " r.rows_scored, r.profile, EXISTS (SELECT FROM apex.drift AS f WHERE f.scope = 'drop' AND"
    " f.subject = r.run_id::text AND f.drifted AND NOT (f.kind IN ('history', 'prediction', 'confidence') AND EXISTS"
    " (SELECT FROM apex.model_quality AS q WHERE q.model_name = r.model_name AND q.model_version = r.model_version"
    " AND q.verdict IN ('as expected', 'better') AND NOT coalesce(q.sustained, false) AND q.week ="
    " date_trunc('week', r.snapshot_as_of + (r.profile->>'lag_days')::float8 * interval '1 day')::date)))"
    " FROM apex.scoring_runs AS r JOIN apex.drops AS d USING (drop_id)"
)

_CURRENT = (
    " d.superseded_by IS NULL"
    " AND NOT EXISTS (SELECT FROM apex.scoring_runs AS n WHERE n.drop_id = r.drop_id AND n.run_id > r.run_id)"
)
"""Of drops that no corrected one has replaced, the newest run: each delivered row counts once."""


def unjudged_runs(cursor: Any, model_name: str, least_rows: int) -> list[Run]:
    """Current runs of enough orders whose drift was not looked at yet, in the order in which they finished."""
    cursor.execute(
        f"{_RUNS} WHERE {_CURRENT} AND r.model_name = %s AND r.profile IS NOT NULL AND r.rows_in >= %s AND NOT EXISTS"
        " (SELECT FROM apex.drift AS f WHERE f.scope = 'drop' AND f.subject = r.run_id::text) ORDER BY 1",
        (model_name, least_rows),
    )
    return [Run(*row) for row in cursor.fetchall()]


def runs_before(cursor: Any, run_id: int, model_name: str, version: int, most: int) -> list[Run]:
    """The newest current runs of a version before a run, whatever their size."""
    cursor.execute(
        f"{_RUNS} WHERE {_CURRENT} AND r.model_name = %s AND r.model_version = %s AND r.run_id < %s"
        " AND r.profile IS NOT NULL ORDER BY 1 DESC LIMIT %s",
        (model_name, version, run_id, most),
    )
    return [Run(*row) for row in cursor.fetchall()]


def unjudged_days(cursor: Any, model_name: str) -> list[tuple[date, int]]:
    """Day and version whose current runs are not those that were looked at, in order.

    That is a day on which more was scored since, and one of whose drops a corrected one has replaced since: of such a
    day there may be no current run left.
    """
    cursor.execute(
        "SELECT coalesce(s.day, f.day), coalesce(s.version, f.version) FROM"
        " (SELECT (r.finished_at AT TIME ZONE 'UTC')::date AS day, r.model_version AS version,"
        " sum(r.rows_scored) AS rows, max(r.finished_at) AS finished_at"
        " FROM apex.scoring_runs AS r JOIN apex.drops AS d USING (drop_id)"
        f" WHERE {_CURRENT} AND r.model_name = %(name)s AND r.profile IS NOT NULL GROUP BY 1, 2) AS s"
        " FULL JOIN (SELECT day, model_version AS version, max(rows) AS rows, max(measured_at) AS measured_at"
        " FROM apex.drift WHERE scope = 'day' AND kind = 'prediction' AND model_name = %(name)s GROUP BY 1, 2) AS f"
        " ON (f.day, f.version) = (s.day, s.version)"
        " WHERE coalesce(s.rows, 0) <> coalesce(f.rows, 0) OR s.finished_at > f.measured_at ORDER BY 1, 2",
        {"name": model_name},
    )
    return [(day, int(version)) for day, version in cursor.fetchall()]


def runs_of_day(cursor: Any, model_name: str, day: date, version: int) -> list[Run]:
    """The current runs of a version that finished on a day."""
    cursor.execute(
        f"{_RUNS} WHERE {_CURRENT} AND r.model_name = %s AND r.model_version = %s AND r.profile IS NOT NULL"
        " AND (r.finished_at AT TIME ZONE 'UTC')::date = %s ORDER BY 1",
        (model_name, version, day),
    )
    return [Run(*row) for row in cursor.fetchall()]


def forget_drift(cursor: Any, scope: str, subjects: Sequence[str]) -> None:
    """Remove the verdicts about subjects of which nothing is left."""
    cursor.execute("DELETE FROM apex.drift WHERE scope = %s AND subject = ANY(%s)", (scope, list(subjects)))


_ONLINE = (
    "SELECT o.day, o.model_version, o.answers, o.profile, EXISTS (SELECT FROM apex.drift AS f WHERE f.scope = 'online'"
    " AND f.subject = o.day || ' v' || o.model_version AND f.drifted) FROM apex.online_profiles AS o"
)


def _online_run(row: tuple[Any, ...]) -> Run:
    """A day of online answers as a run: what breaks the contract is refused, so that nothing is quarantined."""
    day, version, answers, profile, drifted = row
    return Run(day.toordinal(), "", day, version, answers, 0, answers, profile, drifted)


def unjudged_online(cursor: Any, model_name: str) -> list[Run]:
    """Days and versions of which more online answers were recorded than were looked at, in order."""
    cursor.execute(
        f"{_ONLINE} WHERE o.model_name = %s AND o.answers > coalesce((SELECT max(f.rows) FROM apex.drift AS f"
        " WHERE f.scope = 'online' AND f.subject = o.day || ' v' || o.model_version AND f.kind = 'prediction'), 0)"
        " ORDER BY o.day, o.model_version",
        (model_name,),
    )
    return [_online_run(row) for row in cursor.fetchall()]


def online_before(cursor: Any, run: Run, model_name: str, most: int) -> list[Run]:
    """The newest days of online answers of the same version before a day."""
    cursor.execute(
        f"{_ONLINE} WHERE o.model_name = %s AND o.model_version = %s AND o.day < %s ORDER BY o.day DESC LIMIT %s",
        (model_name, run.version, run.day, most),
    )
    return [_online_run(row) for row in cursor.fetchall()]


def write_drift(
    cursor: Any,
    scope: str,
    subject: str,
    day: date,
    version: int | None,
    model_name: str | None,
    found: Iterable[tuple[Drift, str, str | None]],
) -> None:
    """Write, or write anew, the verdicts on one subject: each with the kind of its feature and its reference."""
    rows = [
        (
            *(scope, subject, day, model_name, version, d.feature, kind, reference, d.rows, d.reference_rows),
            *(d.psi, d.effect, d.p_value, d.q_value, d.drifted, d.note or None, d.min_effect),
        )
        for d, kind, reference in found
    ]
    psycopg2.extras.execute_values(
        cursor,
        "INSERT INTO apex.drift (scope, subject, day, model_name, model_version, feature, kind, reference, rows,"
        " reference_rows, psi, effect, p_value, q_value, drifted, note, min_effect, measured_at) VALUES %s"
        " ON CONFLICT (scope, subject, feature) DO UPDATE SET (reference, rows, reference_rows, psi, effect, p_value,"
        " q_value, drifted, note, min_effect, measured_at) ="
        " (EXCLUDED.reference, EXCLUDED.rows, EXCLUDED.reference_rows, EXCLUDED.psi, EXCLUDED.effect,"
        " EXCLUDED.p_value, EXCLUDED.q_value, EXCLUDED.drifted, EXCLUDED.note, EXCLUDED.min_effect,"
        " EXCLUDED.measured_at)",
        rows,
        # the time of the statement, not of the transaction: the newest subject of a scope is told by it
        template=f"({', '.join(['%s'] * 17)}, clock_timestamp())",
    )


def judged(cursor: Any, scope: str, subject: str) -> bool:
    """Whether the drift of a subject was looked at."""
    cursor.execute("SELECT EXISTS (SELECT FROM apex.drift WHERE scope = %s AND subject = %s)", (scope, subject))
    return bool(cursor.fetchone()[0])


def drifting(cursor: Any, model_name: str, champion: int | None) -> dict[str, str]:
    """Features that drift now, in the newest judged subject of any scope, each with a message for people.

    What another version than the champion scored no longer counts: the baselines are the champion's.
    """
    cursor.execute(
        "SELECT feature, scope, subject, psi, effect, rows, reference_rows, reference FROM apex.drift_latest"
        " WHERE drifted AND coalesce(model_name, %(name)s) = %(name)s"
        " AND coalesce(model_version = %(champion)s, true) ORDER BY feature, scope",
        {"name": model_name, "champion": champion},
    )
    found: dict[str, str] = {}
    for feature, scope, subject, psi, effect, rows, expected, reference in cursor.fetchall():
        if scope == "drop":
            cursor.execute(
                "SELECT d.name FROM apex.scoring_runs JOIN apex.drops AS d USING (drop_id) WHERE run_id = %s",
                (int(subject),),
            )
            named = cursor.fetchone()
            what = f"drop {named[0]}" if named else f"scoring run {subject}"
        else:
            kinds = {"day": "scoring of", "online": "online answers of", "raw": "raw orders of"}
            what = f"{kinds[scope]} {subject}"
        text = f"{what}: {feature} drifted: PSI {psi:.3f}, effect {effect:.3f}, {rows:,} rows against {expected:,}"
        found[feature] = f"{found[feature]}; {text}" if feature in found else f"{text} of {reference}"
    return found


def changed_weeks(cursor: Any, contract: Contract, model_name: str) -> list[tuple[int, date, int, int]]:
    """Version, Monday, scored and known outcomes of the weeks in which outcomes were added since they were judged."""
    when = identifier(contract.timestamp)
    cursor.execute(
        f"""WITH newest AS (SELECT max({when}) AS day FROM apex.scored_orders_current),
            weeks AS (
                SELECT s.model_version, date_trunc('week', s.{when})::date AS week, count(*) AS scored,
                       count(o.observed) AS outcomes
                FROM apex.scored_orders_current AS s LEFT JOIN apex.outcomes AS o USING (run_id, row_nr), newest
                WHERE s.{when} > newest.day - {WEEKS * 7} GROUP BY 1, 2)
            SELECT w.model_version, w.week, w.scored, w.outcomes FROM weeks AS w LEFT JOIN apex.model_quality AS q
            ON q.model_name = %s AND q.model_version = w.model_version AND q.week = w.week
            WHERE w.outcomes > 0 AND (q.verdict IS NULL OR (q.scored, q.outcomes) <> (w.scored, w.outcomes))
            ORDER BY 1, 2""",
        (model_name,),
    )
    return list(cursor.fetchall())


def orders_with_outcome(settings: Settings, contract: Contract, version: int, week: date) -> pa.Table:
    """Client, what was named, the probabilities and what came, of a version's current scores of one week of orders."""
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    p = ", ".join(f"s.{identifier(probability_column(level))}" for level in contract.classes)
    with scores.transaction(settings) as cursor:
        cursor.execute(
            f"SELECT s.{entity}, s.predicted, {p}, o.observed FROM apex.scored_orders_current AS s"
            f" JOIN apex.outcomes AS o USING (run_id, row_nr) WHERE s.model_version = {int(version)}"
            f" AND s.{when} >= {literal(week)} AND s.{when} < {literal(week)} + 7"
        )
        table: pa.Table = cursor.fetch_arrow_table()
    return table


def write_quality(cursor: Any, name: str, version: int, week: date, scored_orders: int, found: WeekQuality) -> None:
    """Write, or write anew, how good a version's scores of a week were."""
    values = asdict(found) | {"model_name": name, "model_version": version, "week": week, "scored": scored_orders}
    values["classes"] = json_text(values["classes"])
    values["note"] = values["note"] or None
    names = list(values)
    changed = ", ".join(f"{n} = EXCLUDED.{n}" for n in names if n not in ("model_name", "model_version", "week"))
    cursor.execute(
        f"INSERT INTO apex.model_quality ({', '.join(names)}) VALUES ({', '.join(f'%({n})s' for n in names)})"
        f" ON CONFLICT (model_name, model_version, week) DO UPDATE SET {changed}, measured_at = now()",
        values,
    )


@dataclass(frozen=True)
class JudgedWeek:
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


def judged_weeks(cursor: Any, name: str, version: int, least: int) -> list[JudgedWeek]:
    """A version's weeks with enough outcomes, oldest first."""
    cursor.execute(
        "SELECT week, worse, coalesce(note, ''), log_loss, log_loss_error, coalesce(sustained, false),"
        " sustained_since, sustained_excess FROM apex.model_quality WHERE model_name = %s AND model_version = %s"
        " AND outcomes >= %s ORDER BY week",
        (name, version, least),
    )
    return [JudgedWeek(*row) for row in cursor.fetchall()]


def write_sustained(
    cursor: Any, name: str, version: int, found: Sequence[tuple[date, bool, float, date, float]]
) -> None:
    """Write the verdicts of the rule over several weeks: week, alarm, evidence, first week, mean excess."""
    psycopg2.extras.execute_values(
        cursor,
        "UPDATE apex.model_quality AS q SET sustained = v.alarm, sustained_evidence = v.evidence,"
        " sustained_since = v.since, sustained_excess = v.excess"
        " FROM (VALUES %s) AS v (name, version, week, alarm, evidence, since, excess)"
        " WHERE q.model_name = v.name AND q.model_version = v.version AND q.week = v.week",
        [(name, version, *row) for row in found],
        template="(%s, %s, %s::date, %s, %s::float8, %s::date, %s::float8)",
    )


@dataclass(frozen=True)
class Alert:
    """An alert that is not over."""

    alert_id: int
    kind: str
    subject: str
    message: str
    raised_at: datetime


def set_alerts(cursor: Any, kind: str, wanted: dict[str, str]) -> tuple[list[str], list[str]]:
    """Make the open alerts of a kind exactly these, by subject; returns the subjects raised and resolved.

    One that is open already keeps its age and is not sent again; its message becomes the new one, with the numbers and
    the version of today.
    """
    cursor.execute("SELECT subject FROM apex.alerts WHERE kind = %s AND resolved_at IS NULL", (kind,))
    there = {row[0] for row in cursor.fetchall()}
    raised = [subject for subject in wanted if subject not in there]
    resolved = sorted(there - set(wanted))
    for subject, message in wanted.items():
        if subject in there:
            cursor.execute(
                "UPDATE apex.alerts SET message = %s, last_seen_at = now()"
                " WHERE kind = %s AND subject = %s AND resolved_at IS NULL",
                (message, kind, subject),
            )
        else:
            cursor.execute(
                "INSERT INTO apex.alerts (kind, subject, message) VALUES (%s, %s, %s)", (kind, subject, message)
            )
    cursor.execute(
        "UPDATE apex.alerts SET resolved_at = now() WHERE kind = %s AND subject = ANY(%s) AND resolved_at IS NULL",
        (kind, resolved),
    )
    return raised, resolved


DRIFT, DROP_LATE, UNSEEN = "drift", "drop_late", "unseen"
MEASURED = (DRIFT, "quality", DROP_LATE, UNSEEN)
"""Kinds that are looked at anew at every call, so that a person need not and cannot close them."""
_OVER = {
    "retrain_late": "apex.promotions AS n WHERE n.decided_at",
    "score_late": "apex.scoring_runs AS n WHERE n.finished_at",
}
"""What ends an alert of Airflow's deadlines, which Airflow itself never takes back."""


def resolve_late(cursor: Any) -> None:
    """Resolve the alerts about a late run after which one has come to its end."""
    for kind, ended in _OVER.items():
        cursor.execute(
            f"UPDATE apex.alerts AS a SET resolved_at = now() WHERE kind = %s AND resolved_at IS NULL AND EXISTS"
            f" (SELECT FROM {ended} > a.raised_at)",
            (kind,),
        )


def resolve_small_drops(cursor: Any) -> None:
    """Resolve the alerts about the unknown values of small drops after which a drop with known values came."""
    cursor.execute(
        "UPDATE apex.alerts AS a SET resolved_at = now() WHERE kind = %s AND starts_with(subject, %s)"
        " AND resolved_at IS NULL AND EXISTS (SELECT FROM apex.scoring_runs AS r"
        " WHERE r.finished_at > a.raised_at AND r.rows_scored > 0 AND r.input_alert IS NULL)",
        (warehouse.UNKNOWN_VALUES, f"{warehouse.SMALL_DROPS}, "),
    )


_ALERTS = "SELECT alert_id, kind, subject, message, raised_at FROM apex.alerts WHERE resolved_at IS NULL"


def open_alerts(cursor: Any, kind: str) -> list[Alert]:
    """The open alerts of a kind, oldest first."""
    cursor.execute(f"{_ALERTS} AND kind = %s ORDER BY alert_id", (kind,))
    return [Alert(*row) for row in cursor.fetchall()]


@contextmanager
def sending(settings: Settings) -> Iterator[None]:
    """Keep other processes from sending alerts during the block: two at once would send the same twice."""
    with warehouse.connect(settings) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (SEND_LOCK,))
        yield


def unsent_alerts(settings: Settings) -> list[Alert]:
    """The open alerts that some channel has not taken yet, oldest first."""
    return [Alert(**row) for row in warehouse.rows(settings, f"{_ALERTS} AND sent_at IS NULL ORDER BY alert_id")]


def undelivered(settings: Settings, channel: str) -> list[Alert]:
    """The open alerts that a channel has not taken yet, oldest first."""
    query = (
        f"{_ALERTS} AND NOT EXISTS (SELECT FROM apex.alert_deliveries AS d WHERE d.alert_id = alerts.alert_id"
        " AND d.channel = %s) ORDER BY alert_id"
    )
    return [Alert(**row) for row in warehouse.rows(settings, query, (channel,))]


def mark_delivered(settings: Settings, channel: str, alerts: Sequence[Alert]) -> None:
    """Note that a channel has taken alerts."""
    with warehouse.connect(settings) as connection, connection, connection.cursor() as cursor:
        psycopg2.extras.execute_values(
            cursor,
            "INSERT INTO apex.alert_deliveries (alert_id, channel) VALUES %s ON CONFLICT DO NOTHING",
            [(alert.alert_id, channel) for alert in alerts],
        )


def mark_sent(settings: Settings, channels: Sequence[str]) -> None:
    """Note which alerts every one of these channels has taken; nothing is sent without a channel."""
    if not channels:
        return
    with warehouse.connect(settings) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE apex.alerts AS a SET sent_at = now() WHERE sent_at IS NULL AND %(number)s = (SELECT count(*)"
            " FROM apex.alert_deliveries AS d WHERE d.alert_id = a.alert_id AND d.channel = ANY(%(channels)s))",
            {"number": len(channels), "channels": list(channels)},
        )


def list_open(settings: Settings) -> list[dict[str, Any]]:
    """Every open alert, the newest first, with `channels`, the names of those that have taken it."""
    return warehouse.rows(
        settings,
        "SELECT alert_id, kind, subject, message, raised_at, last_seen_at, ARRAY(SELECT channel"
        " FROM apex.alert_deliveries AS d WHERE d.alert_id = a.alert_id ORDER BY channel) AS channels"
        " FROM apex.alerts AS a WHERE resolved_at IS NULL ORDER BY alert_id DESC",
    )


def close_alert(cursor: Any, alert_id: int, who: str, reason: str) -> dict[str, Any]:
    """Close an open alert; returns its alert_id, kind and subject.

    Raises :class:`~apex_ml.errors.ConfigError` when it is not open, or of a kind that is measured.
    """
    cursor.execute("SELECT kind, subject, resolved_at FROM apex.alerts WHERE alert_id = %s FOR UPDATE", (alert_id,))
    row = cursor.fetchone()
    if row is None:
        raise ConfigError(f"alert {alert_id}: there is none of this number; see: apex alerts")
    kind, subject, resolved_at = row
    if resolved_at is not None:
        raise ConfigError(f"alert {alert_id} ({kind}, {subject}): is over since {resolved_at:%F %T} UTC")
    if kind in MEASURED:
        raise ConfigError(
            f"alert {alert_id} ({kind}, {subject}): apex_monitor measures its cause, and would raise it again; it ends"
            " by itself when the cause is gone"
        )
    cursor.execute(
        "UPDATE apex.alerts SET resolved_at = now(), closed_by = %s, closed_reason = %s WHERE alert_id = %s",
        (who, reason, alert_id),
    )
    return {"alert_id": alert_id, "kind": kind, "subject": subject}
