"""The Apex page: which model is in charge, how good it is, what was scored, and what somebody should look at."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

import jinja2

from apex_airflow.pages import charts
from apex_airflow.triggers.drops import inbox_folder, look
from apex_ml.adapters.postgres.page import PostgresPageQueries
from apex_ml.adapters.postgres.views import PostgresViews, ViewRow, read_snapshot
from apex_ml.settings import Settings
from apex_ml.text import visible_lines

TEMPLATES = Path(__file__).parent / "templates"
MISSING = "–"
Scope = Literal["day", "drop", "raw", "online"]
MAX_ROWS = 12
"""Rows of a table on the page."""
DRIFT_COLUMNS = 18
WEEKS = 16
DAYS, LEAST_DAYS = 45, 14
HEAT_STEPS = (2, 5)
"""The color of a drift changes at these multiples of the effect from which it matters."""
DEFAULT_MIN_EFFECT = 0.05
"""For drift that was measured before the least effect was kept beside it."""
UNIT_EFFECT = 10
EVIDENCE_DRAWN = (1e-4, 1e4)
"""Evidence is drawn within these bounds, on a logarithmic axis; the alarm is at 1."""
MARKS = {"worse": "worse", "slightly worse": "slightly-worse"}
"""Classes of the dots of weeks, by verdict."""
ACTIONS = {
    "promote": "promoted",
    "reject": "turned down",
    "rollback": "rolled back",
    "force": "promoted by hand",
    "manual": "moved in MLflow",
}


def number(value: float | None) -> str:
    """A count with separators.

    >>> number(1250000), number(None)
    ('1,250,000', '–')
    """
    return MISSING if value is None else f"{value:,.0f}"


def decimal(value: float | None, places: int = 4, sign: bool = False) -> str:
    """A number with a fixed count of decimals.

    >>> decimal(0.89351), decimal(0.0012, sign=True), decimal(float("nan"))
    ('0.8935', '+0.0012', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:{'+' if sign else ''}.{places}f}".replace("-", "−")


def percent(value: float | None, places: int = 1) -> str:
    """A share in percent.

    >>> percent(0.1234)
    '12.3 %'
    """
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.{places}f} %"


def duration(milliseconds: float | None) -> str:
    """A time that something took.

    >>> [duration(ms) for ms in (812.3, 2410, 185_000, 0.5)]
    ['812 ms', '2.4 s', '3.1 min', '0.5 ms']
    """
    if milliseconds is None:
        return MISSING
    if milliseconds < 1000:
        return f"{milliseconds:.{0 if milliseconds >= 10 else 1}f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def age(span: timedelta | None) -> str:
    """A span in its largest unit.

    >>> age(timedelta(days=3, hours=5)), age(timedelta(minutes=1)), age(timedelta(seconds=5)), age(timedelta(hours=30))
    ('3 days', '1 minute', '5 seconds', '30 hours')
    """
    if span is None:
        return MISSING
    seconds = span.total_seconds()
    for unit, length, least in (("day", 86400, 2), ("hour", 3600, 2), ("minute", 60, 1), ("second", 1, 1)):
        if seconds >= least * length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "0 seconds"


def when(value: datetime | None, seconds: bool = False) -> str:
    """A moment in UTC."""
    return (
        MISSING
        if value is None
        else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
    )


def waiting(settings: Settings) -> int | None:
    """How many files wait in the inbox; None when it cannot be listed from here."""
    folder = inbox_folder(settings.drops)
    if folder is None:
        return None
    try:
        return len(look(folder))
    except FileNotFoundError:
        return 0
    except OSError:
        return None


def gain(evidence: dict[str, Any] | None) -> dict[str, float] | None:
    """The gain that a decision rests on, with its 95 % interval and the bound that the gate asks of it.

    Over the champion of that time; without one, over the class prior. None when nothing was measured.
    """
    known = evidence or {}
    for over, mean, low in (
        ("champion", "gain", "gain_low"),
        ("class prior", "gain_over_prior", "gain_over_prior_low"),
    ):
        if isinstance(known.get(mean), int | float) and isinstance(known.get(low), int | float):
            return {"over": over, "mean": known[mean], "low": known[low], "error": known.get("gain_error")}
    return None


def is_framed(cell: ViewRow) -> bool:
    """Whether a cell of the drift map is framed: its feature has drifted, by an effect that matters."""
    effect, least = cell["effect"], cell["min_effect"]
    return bool(cell["drifted"]) and (effect is None or least is None or effect >= least)


def heat(cell: ViewRow) -> str:
    """The color of a cell of the drift map: 0 and 1 for a feature that has not drifted, 3 to 5 for one that has.

    The steps are multiples of the effect from which a change matters. Empty where there was no test.

    >>> of = lambda effect, drifted: {"effect": effect, "min_effect": 0.1, "drifted": drifted}
    >>> [heat(of(*c)) for c in ((0.02, False), (0.09, False), (0.12, False), (0.12, True), (0.3, True), (2.0, True))]
    ['0', '1', '1', '3', '4', '5']
    >>> heat(of(0.001, True)), heat(of(None, False))
    ('0', '')
    """
    effect, least = cell["effect"], cell["min_effect"] or DEFAULT_MIN_EFFECT
    if effect is None or not math.isfinite(effect):
        return "3" if is_framed(cell) else ""
    if not is_framed(cell):
        return str(int(effect >= least / 2))
    return str(3 + sum(effect >= step * least for step in HEAT_STEPS))


def effect(value: float | None) -> str:
    """An effect size in few characters.

    >>> effect(0.0312), effect(100.005), effect(None)
    ('0.03', '100', '·')
    """
    if value is None or not math.isfinite(value):
        return "·"
    return decimal(value, 2 if value < UNIT_EFFECT else 0)


def verdict(row: ViewRow) -> str:
    """The verdict on a week, also on one that was evaluated before verdicts were kept."""
    if row["verdict"]:
        return str(row["verdict"])
    if row["worse"]:
        return "worse"
    return "not evaluated" if row["log_loss"] is None else "as expected"


def interval(row: ViewRow) -> charts.Interval:
    """The log loss of a week with the interval that its verdict compares, which is a point where none was computed."""
    low, high = row["compared_low"], row["compared_high"]
    if low is None or high is None:
        low, high = row["log_loss_low"], row["log_loss_high"]
    value = row["log_loss"]
    return value, value if low is None else low, value if high is None else high


def expectation(row: ViewRow) -> charts.Interval | float | None:
    """The expected log loss of a week with its own interval, where it was kept."""
    value, low, high = row["expected_log_loss"], row["expected_low"], row["expected_high"]
    return value if value is None or low is None or high is None else (value, low, high)


def _seen(value: Any) -> Any:
    """What is put into a page: a name or message with its characters that cannot be seen by their numbers."""
    return visible_lines(value) if type(value) is str else value


def environment() -> jinja2.Environment:
    """The templates; whatever is put into them is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    made.filters |= {"number": number, "decimal": decimal, "percent": percent, "duration": duration, "age": age}
    made.filters |= {"verdict": verdict, "interval": interval, "when": when, "heat": heat, "effect": effect}
    made.tests |= {"framed": is_framed}
    return made


ENVIRONMENT = environment()


def drift_map(rows: list[ViewRow]) -> ViewRow:
    """Rows of drift as a table: a line a feature, the most drifting first; a column a subject, the newest at last."""
    subjects = {row["subject"]: row for row in rows}
    cells = {(row["feature"], row["subject"]): row for row in rows}
    kinds = {row["feature"]: row["kind"] for row in rows}
    often = Counter(row["feature"] for row in rows if row["drifted"])
    features = sorted(kinds.items(), key=lambda item: (-often[item[0]], item[1], item[0]))
    return {"subjects": list(subjects.values()), "features": features, "cells": cells}


def days_until(today: date, first: date) -> list[date]:
    """Every day from the first one to today, and at least so many that one day does not fill a chart."""
    length = min(max((today - first).days + 1, LEAST_DAYS), DAYS)
    return [today - timedelta(days=back) for back in reversed(range(length))]


def channel_mix(rows: list[ViewRow], classes: list[str], today: date) -> ViewRow | None:
    """Shares of the predicted classes by day of scoring, as a chart with its legend; None without any."""
    if not rows:
        return None
    days = days_until(today, rows[0]["day"])
    counts = {(row["day"], row["predicted"]): row["orders"] for row in rows}
    total = Counter[date]()
    for (day, _), orders in counts.items():
        total[day] += orders
    shares = {c: [counts.get((day, c), 0) / total[day] if total[day] else None for day in days] for c in classes}
    newest = rows[-1]["day"]
    return {
        "chart": charts.stacked_shares("Share of each predicted channel by day of scoring", days, shares),
        "newest": {c: counts.get((newest, c), 0) / total[newest] if total[newest] else None for c in classes},
        "day": newest,
        "orders": total[newest],
    }


def confidence(rows: list[ViewRow], today: date) -> charts.Markup | None:
    """Mean confidence of the predictions by day of scoring; None without any."""
    known = {row["day"]: row["confidence"] for row in rows if row["confidence"] is not None}
    if not known:
        return None
    days = days_until(today, min(known))
    values = [(known[day],) * 3 if day in known else None for day in days]
    return charts.lines("Mean confidence by day of scoring", days, values, {}, places=2)


def quality(rows: list[ViewRow]) -> ViewRow | None:
    """Quality by week as two charts: the log loss, and how far it is from what was expected; None without outcomes.

    Of several versions in a week the one with the most outcomes is drawn.
    """
    drawn: dict[Any, ViewRow] = {}
    for row in rows:  # of a week the one with most outcomes comes first
        if row["log_loss"] is not None:
            drawn.setdefault(row["week"], row)
    weeks = sorted(drawn)[-WEEKS:]
    if not weeks:
        return None
    shown = [drawn[week] for week in weeks]
    marks = [MARKS.get(verdict(row), "") for row in shown]
    beside: dict[str, list[Any]] = {
        "expected at promotion": [expectation(row) for row in shown],
        "class prior of the week": [row["prior_log_loss"] for row in shown],
        "limit, expectation and margin": [row["upper_limit"] for row in shown],
    }
    base = [row["expected_log_loss"] for row in shown]
    above = [b is not None and _less(interval(row), b) or None for row, b in zip(shown, base, strict=True)]
    zero = {
        name: [v is not None and b is not None and _less(v, b) or None for v, b in zip(values, base, strict=True)]
        for name, values in beside.items()
    }
    zero["class prior of the week"] = [None] * len(weeks)  # far away: it would flatten the rest
    evidence = [row["sustained_evidence"] for row in shown]
    low, high = EVIDENCE_DRAWN
    logs = [None if e is None else (math.log10(min(max(e, low), high)),) * 3 for e in evidence]
    nothing: list[Any] = [None] * len(weeks)
    alarm = dict.fromkeys(list(beside)[:2], nothing) | {"alarm": [0.0] * len(weeks)}
    alarms = ["worse" if row["sustained"] else "" for row in shown]
    return {
        "chart": charts.lines("Log loss by week", weeks, [interval(row) for row in shown], beside, marks=marks),
        "above": charts.lines("Log loss above the expected one", weeks, above, zero, marks=marks)
        if any(above)
        else None,
        "evidence": charts.lines(
            "Evidence of being worse for several weeks", weeks, logs, alarm, marks=alarms, shown=_power
        )
        if any(logs)
        else None,
    }


def _power(exponent: float) -> str:
    return f"{10**exponent:.3g}"


def _less(value: Any, base: float) -> Any:
    """A value, or a value with its interval, less another one."""
    return tuple(v - base for v in value) if isinstance(value, tuple) else value - base


def render(settings: Settings, *, may_act: bool, scope: Scope | None = None, now: datetime | None = None) -> str:
    """The page as HTML, with the rollback form for a person who may act.

    The drift is that of a scope; of the first that has any when none is named.

    Raises :class:`~apex_ml.adapters.postgres.views.DatabaseDownError` when Postgres does not answer.
    """
    now = now or datetime.now(UTC)
    model = settings.model_name
    with read_snapshot(settings) as session:
        queries = PostgresPageQueries(session, model)
        champion = PostgresViews(session, model).champion()
        version = champion.version if champion else None
        context: dict[str, Any] = {
            "champion": champion,
            "evidence": queries.evidence(version),
            "earlier": queries.earlier_champions(version, MAX_ROWS),
            "challenger": queries.challenger(),
            "history": queries.decisions(MAX_ROWS),
            "totals": queries.drop_totals(),
            "drops": queries.drops(MAX_ROWS),
            "alerts": queries.alerts(MAX_ROWS),
            "mix": queries.class_mix(now, DAYS),
            "confidence": confidence(queries.confidence(now, DAYS), now.date()),
            "weeks": queries.quality(),
        }
        drift: list[ViewRow] = []
        for shown_scope in [scope] if scope else get_args(Scope):
            drift = queries.drift(shown_scope, DRIFT_COLUMNS)
            if drift:
                scope = shown_scope
                break
    named = [*context["mix"], *(c for drop in context["drops"] for c in drop["classes"] or [])]
    classes = sorted({one["predicted"] for one in named})
    context["mix"] = channel_mix(context["mix"], classes, now.date())
    return ENVIRONMENT.get_template("page.html.j2").render(
        **context,
        settings=settings,
        now=now,
        may_act=may_act,
        drift=drift_map(drift),
        scope=scope,
        scopes={"day": "days of scoring", "drop": "drops", "raw": "weeks of raw orders", "online": "online answers"},
        quality=quality(context["weeks"]),
        actions=ACTIONS,
        colors={name: place for place, name in enumerate(classes)},
        waiting=waiting(settings),
        gain=gain,
        mlflow=settings.mlflow_address,
        model_url=f"{settings.mlflow_address}/#/models/{quote(model, safe='')}",
    )


def render_down(reason: str) -> str:
    """The page that stands in while Postgres does not answer."""
    return ENVIRONMENT.get_template("down.html.j2").render(reason=reason)
