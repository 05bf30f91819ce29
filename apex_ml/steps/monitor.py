"""Step monitor: drift of what is scored, quality of what was scored, alerts, and whether to retrain.

All of it comes from Postgres: the scoring runs keep their profiles, the models those of their examples. Only the drift
of raw orders reads files, those of the newest validated run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import accepted_files
from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.postgres import monitoring, warehouse
from apex_ml.adapters.postgres.monitoring import DRIFT, Run
from apex_ml.adapters.storage.drops import Inbox
from apex_ml.adapters.storage.local import scratch_folder
from apex_ml.contract.model import Contract
from apex_ml.contract.names import probability_column
from apex_ml.core.degradation import EXPECTED, Rule, degraded, expectation_error, sustained, week_quality
from apex_ml.core.drift import Compared, Drift, judge
from apex_ml.core.features import FeatureColumn, kind_of
from apex_ml.core.profile import PROFILE, RECENT, Bins
from apex_ml.errors import ApexError
from apex_ml.faults import reach
from apex_ml.services import champion_ledger as protocol
from apex_ml.services.alert_delivery import send_alerts
from apex_ml.services.run_folder import StepContext, latest_manifest
from apex_ml.services.run_layout import ACCEPTED
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier, literal

logger = logging.getLogger(__name__)
PREDICTION, CONFIDENCE, QUARANTINE = "predicted channel", "confidence", "quarantined rows"
LEAST_EFFECT = {
    "attribute": 0.03,
    "history": 0.1,
    "prediction": 0.05,
    "confidence": 0.05,
    "quarantine": 0.05,
    "target": 0.1,
    "measure": 0.1,
}
"""Cohen's w from which a change of each kind matters; history moves by nature, raw weeks by season."""
WINDOW_RUNS, WINDOW_ROWS, WINDOW_LAG_DAYS = 7, 20_000, 3.0
"""The healthy window: the newest earlier runs whose orders were as far from the snapshot, give or take, until there are
so many runs and so many orders. Short, as history grows: a window of a month would call a month's growth a drift."""
MOST_RUNS = 400
NEWEST_ORDERS = "the newest orders before the champion's training"
RAW_DAYS, RAW_REFERENCE_DAYS = 7, 28
"""Whole weeks, so that every weekday is in both."""
QUALITY = "quality"


def monitor(context: StepContext) -> dict[str, Any]:
    """Look at what is new since the last call; again, and nothing changes.

    Every scoring run of enough orders, every day of scoring, every day of recorded online answers and the newest week
    of raw orders are judged for drift; every week of orders in which outcomes were added is judged for quality. Alerts
    are raised once and resolved when their cause is gone. Raw orders or an inbox that cannot be read stop nothing else:
    they are an alert of their own. While the champion counts as degraded, `retrain` in the result holds one dictionary
    with the run to trigger, `trigger_run_id`, and the reason, `note`: the same run at every call, so that it is
    triggered once.
    """
    settings = context.settings
    champion = protocol.resolve(settings, Registry(settings))
    unseen: dict[str, str] = {}
    version = champion.version if champion else None
    with warehouse.connect(settings) as connection:
        with connection, connection.cursor() as cursor:
            monitoring.lock(cursor)
            about = monitoring.known_about(cursor, settings.model_name)
            runs = _judge_runs(context, cursor, about)
            days = _judge_days(context, cursor, about)
            online = _judge_online(context, cursor, about)
            raw = 0
            with _noted(unseen, "raw orders"):
                raw = _judge_raw(context, cursor)
            drifting = monitoring.drifting(cursor, settings.model_name, version)
            raised, resolved = monitoring.set_alerts(cursor, DRIFT, drifting)
            reach("drift_written")
        with connection, connection.cursor() as cursor:
            monitoring.lock(cursor)
            weeks = _judge_weeks(context, cursor, about)
            worse = {} if version is None else _degradation(settings, cursor, version)
            more, gone = monitoring.set_alerts(cursor, QUALITY, worse)
            alerts = monitoring.open_alerts(cursor, QUALITY)
            late: list[str] = []
            in_time: list[str] = []
            with _noted(unseen, "inbox"):
                waiting = Inbox(settings).late(settings.drop_deadline_minutes)
                late, in_time = monitoring.set_alerts(cursor, monitoring.DROP_LATE, waiting)
            blind, seen = monitoring.set_alerts(cursor, monitoring.UNSEEN, unseen)
            monitoring.resolve_late(cursor)
            monitoring.resolve_small_drops(cursor)
    for subject in (*raised, *more, *late, *blind):
        logger.warning("alert_raised subject=%s", subject)
    result = {
        "run": context.run,
        "step": "monitor",
        "runs_judged": runs,
        "days_judged": days,
        "online_days_judged": online,
        "raw_weeks_judged": raw,
        "weeks_judged": weeks,
        "alerts_raised": [*raised, *more, *late, *blind],
        "alerts_resolved": [*resolved, *gone, *in_time, *seen],
        "sent": send_alerts(settings),
    }
    # named after the alert, so that a second call asks for no second run
    result["retrain"] = [{"trigger_run_id": f"degraded__alert_{a.alert_id}", "note": a.message} for a in alerts]
    return result


@contextmanager
def _noted(unseen: dict[str, str], what: str) -> Iterator[None]:
    """Note what cannot be read, so that the rest of the monitoring goes on and its alerts are sent."""
    try:
        yield
    except (ApexError, OSError) as error:
        logger.error("not_monitored what=%s reason=%s", what, error)
        unseen[what] = f"{what} cannot be monitored: {error}"


@dataclass(frozen=True)
class Batch:
    """Counts of one or several runs: of features by bin, of predictions, of confidence, and of quarantined rows."""

    features: dict[str, np.ndarray]
    predicted: np.ndarray
    confidence: np.ndarray
    quarantine: np.ndarray
    rows: int


def batch_of(runs: Sequence[Run]) -> Batch | None:
    """The sum of runs over the same bins; None without any."""
    if not runs:
        return None
    profiles = [run.profile for run in runs]
    return Batch(
        features={name: _sum(p["features"][name] for p in profiles) for name in profiles[0]["features"]},
        predicted=_sum(p["predicted"] for p in profiles),
        confidence=_sum(p["confidence"] for p in profiles),
        quarantine=np.array([sum(r.rows_scored for r in runs), sum(r.rows_quarantined for r in runs)]),
        rows=sum(r.rows_scored for r in runs),
    )


def _sum(counts: Iterable[list[int]]) -> np.ndarray:
    total: np.ndarray = np.sum([np.asarray(c, np.int64) for c in counts], axis=0)
    return total


def _lag(run: Run) -> float:
    return float(run.profile.get("lag_days") or 0.0)


Held = dict[str, tuple[Compared, str, str | None]]
"""By feature: the comparison, the kind of the feature, and the name of what it is held against."""


def compared(contract: Contract, batch: Batch, model: Mapping[str, Any], window: Batch | None) -> Held:
    """What each feature of a batch is held against: the comparison, the kind of the feature, and the reference's name.

    Attributes stand beside the examples that the model was fitted on; these hold each client's last order, of any age.
    What differs from them is tested beside the newest orders before the training, too: a change that these show is one
    that the model was trained after, and no drift. History, which grows, and what follows from it
    stand beside the window: healthy runs of the model before, as far from their snapshot. What the calendar gives
    follows from the date alone: it is counted, never judged.
    """
    fitted = {name: np.asarray(counts) for name, counts in model.get("features", {}).items()}
    newest = {name: np.asarray(counts) for name, counts in model.get(RECENT, {}).items()}
    training, recent = "the champion's training examples", "healthy runs before"
    none = f"no healthy run of this model within {WINDOW_LAG_DAYS:g} days of its lag yet"
    found: Held = {}

    def beside(name: str, kind: str, observed: np.ndarray, expected: np.ndarray | None, reference: str) -> None:
        note = "" if expected is not None else none
        shown = reference if expected is not None else None
        settled = newest.get(name) if kind == "attribute" else None
        found[name] = Compared(observed, expected, LEAST_EFFECT[kind], note, settled), kind, shown

    for name, observed in batch.features.items():
        kind: str = kind_of(contract, name)
        if kind == "attribute":
            beside(name, kind, observed, fitted.get(name), training)
        elif kind == "history":
            beside(name, kind, observed, None if window is None else window.features.get(name), recent)
        else:
            found[name] = Compared(observed, None, 0.0, "follows from the date: not judged"), kind, None
    moves = any(kind_of(contract, name) != "attribute" for name in batch.features)
    for name, kind, key in ((PREDICTION, "prediction", "predicted"), (CONFIDENCE, "confidence", "confidence")):
        observed = getattr(batch, key)
        before = None if window is None else getattr(window, key)
        if before is None and not moves and key in model:
            beside(name, kind, observed, np.asarray(model[key]), "the champion's validation examples")
        else:
            beside(name, kind, observed, before, recent)
    beside(QUARANTINE, "quarantine", batch.quarantine, None if window is None else window.quarantine, recent)
    return found


def _window(run: Run, before: Sequence[Run]) -> Batch | None:
    """The healthy window of a run among earlier ones, newest first."""
    near = [r for r in before if not r.drifted and r.rows_scored and abs(_lag(r) - _lag(run)) <= WINDOW_LAG_DAYS]
    rows = 0
    for taken, candidate in enumerate(near):
        if taken >= WINDOW_RUNS and rows >= WINDOW_ROWS:
            return batch_of(near[:taken])
        rows += candidate.rows_scored
    return batch_of(near)


def _verdicts(settings: Settings, held: Held) -> list[tuple[Drift, str, str | None]]:
    comparisons = {name: comparison for name, (comparison, _, _) in held.items()}
    found = judge(comparisons, alpha=settings.drift_alpha, least_rows=settings.drift_min_rows)
    for verdict in found:
        if verdict.drifted:
            logger.warning("drift feature=%s psi=%.4f effect=%.4f", verdict.feature, verdict.psi, verdict.effect)
    named = {name: (kind, reference) for name, (_, kind, reference) in held.items()}
    return [(v, named[v.feature][0], NEWEST_ORDERS if v.settled else named[v.feature][1]) for v in found]


def _judge_scored(
    context: StepContext,
    cursor: Any,
    about: Mapping[int, dict[str, Any]],
    scope: str,
    subject: str,
    runs: list[Run],
    before: Sequence[Run] | None = None,
) -> None:
    """Judge the sum of some runs of one version and one day, beside those `before`: by default earlier scoring runs."""
    batch, first = batch_of(runs), runs[0]
    assert batch is not None
    settings = context.settings
    model = about.get(first.version, {}).get(PROFILE, {})
    if before is None:
        before = monitoring.runs_before(cursor, first.run_id, settings.model_name, first.version, MOST_RUNS)
    held = compared(context.contract, batch, model, _window(first, before))
    verdicts = _verdicts(settings, held)
    monitoring.write_drift(cursor, scope, subject, first.day, first.version, settings.model_name, verdicts)


def _judge_runs(context: StepContext, cursor: Any, about: Mapping[int, dict[str, Any]]) -> int:
    settings = context.settings
    runs = monitoring.unjudged_runs(cursor, settings.model_name, settings.drift_min_rows)
    for run in runs:
        _judge_scored(context, cursor, about, "drop", str(run.run_id), [run])
    return len(runs)


def _judge_days(context: StepContext, cursor: Any, about: Mapping[int, dict[str, Any]]) -> int:
    name = context.settings.model_name
    days = monitoring.unjudged_days(cursor, name)
    for day, version in days:
        runs = monitoring.runs_of_day(cursor, name, day, version)
        _judge_scored(context, cursor, about, "day", f"{day} v{version}", runs)
    return len(days)


def _judge_online(context: StepContext, cursor: Any, about: Mapping[int, dict[str, Any]]) -> int:
    """Judge the recorded answers of the online service by day and version, beside healthy days of such answers."""
    name = context.settings.model_name
    days = monitoring.unjudged_online(cursor, name)
    for run in days:
        before = monitoring.online_before(cursor, run, name, MOST_RUNS)
        _judge_scored(context, cursor, about, "online", f"{run.day} v{run.version}", [run], before)
    return len(days)


def _judge_raw(context: StepContext, cursor: Any) -> int:
    """Judge target and measures of the newest week of accepted raw orders against the four weeks before it."""
    validated = latest_manifest(context, "validate")
    if validated is None:
        return 0
    newest = date.fromisoformat(validated["result"]["as_of"])
    first = newest - timedelta(days=RAW_DAYS)
    subject = f"{first} to {newest - timedelta(days=1)}"
    files = accepted_files(context.processed / validated["run"] / "validate" / ACCEPTED)
    if not files or monitoring.judged(cursor, "raw", subject):
        return 0
    contract, settings = context.contract, context.settings
    columns = [FeatureColumn(contract.target, "categorical")]
    columns += [FeatureColumn(name, "numeric") for name in contract.named("measure")]
    earlier = first - timedelta(days=RAW_REFERENCE_DAYS)
    with (
        scratch_folder(context.processed, "monitor") as scratch,
        engine.connect(settings, scratch) as con,
        engine.errors_name("monitor"),
    ):

        def orders(begin: date, end: date) -> pa.Table:
            listed = ", ".join(literal(str(file)) for file in files)
            names = ", ".join(identifier(column.name) for column in columns)
            when = identifier(contract.timestamp)
            return con.sql(
                f"SELECT {names} FROM read_parquet([{listed}]) WHERE {when} >= {literal(begin)} AND {when} <"
                f" {literal(end)}"
            ).to_arrow_table()

        before, now = orders(earlier, first), orders(first, newest)
    reference = f"raw orders of {earlier} to {first - timedelta(days=1)}"
    held: Held = {}
    for column in columns:
        bins = Bins.of(column, before.column(column.name), now.column(column.name))
        kind = "target" if column.name == contract.target else "measure"
        observed, expected = (bins.count(part.column(column.name)) for part in (now, before))
        held[column.name] = Compared(observed, expected, LEAST_EFFECT[kind]), kind, reference
    monitoring.write_drift(cursor, "raw", subject, first, None, None, _verdicts(settings, held))
    return 1


def _judge_weeks(context: StepContext, cursor: Any, about: Mapping[int, dict[str, Any]]) -> int:
    settings, contract = context.settings, context.contract
    rule = Rule(settings.quality_margin, settings.quality_alpha, settings.quality_min_rows, settings.quality_year_alpha)
    weeks = monitoring.changed_weeks(cursor, contract, settings.model_name)
    classes = pa.array(contract.classes)
    for version, week, orders, _ in weeks:
        table = monitoring.orders_with_outcome(settings, contract, version, week)
        p = np.column_stack([table.column(probability_column(level)).to_numpy() for level in contract.classes])
        y, named = (pc.index_in(table.column(c), value_set=classes) for c in ("observed", "predicted"))
        known = pc.is_valid(y).to_numpy(zero_copy_only=False)  # an outcome may be a class that the contract lost
        if not known.any():
            continue
        found = week_quality(
            p[known],
            pc.fill_null(y, 0).to_numpy()[known],
            pc.fill_null(named, 0).to_numpy()[known],
            table.column(contract.entity).to_numpy()[known],
            contract.classes,
            about.get(version, {}).get(EXPECTED),
            rule,
        )
        monitoring.write_quality(cursor, settings.model_name, version, week, orders, found)
        logger.info("quality version=%s week=%s log_loss=%.5f worse=%s", version, week, found.log_loss, found.worse)
    for version in sorted({version for version, *_ in weeks}):
        _judge_weeks_together(settings, cursor, version, about.get(version, {}).get(EXPECTED), rule)
    return len(weeks)


def _judge_weeks_together(
    settings: Settings, cursor: Any, version: int, expected: Mapping[str, Any] | None, rule: Rule
) -> None:
    """Evaluate a version's weeks by the rule over several weeks."""
    judged = monitoring.judged_weeks(cursor, settings.model_name, version, rule.least_orders)
    points = [(w.week, w.log_loss, w.log_loss_error) for w in judged if w.log_loss_error is not None]
    if not expected or not points:
        return
    losses = [(loss, error) for _, loss, error in points]
    found = sustained(losses, float(expected["log_loss"]), expectation_error(expected), rule)
    rows = [
        (week, s.alarm, s.evidence, points[s.first][0], s.excess) for (week, _, _), s in zip(points, found, strict=True)
    ]
    monitoring.write_sustained(cursor, settings.model_name, version, rows)


def _degradation(settings: Settings, cursor: Any, version: int) -> dict[str, str]:
    """The alert about the champion when enough of its newest weeks were worse, or several were a little worse."""
    weeks = monitoring.judged_weeks(cursor, settings.model_name, version, settings.quality_min_rows)
    needed, of = settings.quality_worse_weeks, settings.quality_window_weeks
    reasons = []
    if degraded([week.worse for week in weeks], weeks=needed, of=of):
        told = "; ".join(f"week of {week.week}: {week.note}" for week in weeks[-of:] if week.worse)
        reasons.append(f"version {version} was worse in {needed} or more of its last {of} weeks: {told}")
    if weeks and (newest := weeks[-1]).sustained and newest.since is not None:
        count = sum(week.week >= newest.since for week in weeks)
        reasons.append(
            f"version {version} has been worse than at promotion for {count} weeks, since the week of {newest.since}:"
            f" its log loss is {newest.excess:+.4f} nats above the expected one on average"
        )
    return {f"version {version}": "; ".join(reasons)} if reasons else {}
