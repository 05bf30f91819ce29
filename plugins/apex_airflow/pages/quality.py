"""The quality of the weeks on the Apex page: verdicts, and charts of log loss and evidence."""

from __future__ import annotations

import math
from typing import Any

from apex_airflow.pages import charts
from apex_ml.adapters.postgres.views import ViewRow

MAX_WEEKS = 16
EVIDENCE_RANGE = (1e-4, 1e4)
"""Evidence is drawn within these bounds, on a logarithmic axis; the alarm is at 1."""
MARKS = {"worse": "worse", "slightly worse": "slightly-worse"}
"""CSS class of a week's dot, by verdict."""


def verdict(row: ViewRow) -> str:
    """The verdict on a week, also for weeks from before verdicts were stored."""
    if row["verdict"]:
        return str(row["verdict"])
    if row["worse"]:
        return "worse"
    return "not evaluated" if row["log_loss"] is None else "as expected"


def interval(row: ViewRow) -> charts.Interval:
    """The log loss of a week with the interval that its verdict compares; a point where no interval was computed."""
    low, high = row["compared_low"], row["compared_high"]
    if low is None or high is None:
        low, high = row["log_loss_low"], row["log_loss_high"]
    value = row["log_loss"]
    return value, value if low is None else low, value if high is None else high


def expectation(row: ViewRow) -> charts.Interval | float | None:
    """The expected log loss of a week, with its interval if it was stored."""
    value, low, high = row["expected_log_loss"], row["expected_low"], row["expected_high"]
    return value if value is None or low is None or high is None else (value, low, high)


def quality(rows: list[ViewRow]) -> ViewRow | None:
    """Quality by week as two charts: the log loss, and its difference from the expectation; None without outcomes.

    If a week has several versions, the chart shows the version with the most outcomes.
    """
    drawn: dict[Any, ViewRow] = {}
    for row in rows:  # the version of a week with the most outcomes comes first
        if row["log_loss"] is not None:
            drawn.setdefault(row["week"], row)
    weeks = sorted(drawn)[-MAX_WEEKS:]
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
    low, high = EVIDENCE_RANGE
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
    """A value, or a value with its interval, minus another value."""
    return tuple(v - base for v in value) if isinstance(value, tuple) else value - base
