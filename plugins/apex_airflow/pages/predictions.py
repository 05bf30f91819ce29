"""The predictions on the Apex page: shares of the predicted classes and confidence, by day of scoring."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

from markupsafe import Markup

from apex_airflow.pages import charts
from apex_ml.adapters.postgres.views import ViewRow

MAX_DAYS, MIN_DAYS = 45, 14


def days_until(today: date, first: date) -> list[date]:
    """Every day from the first one to today, and enough days that one day does not fill the chart."""
    length = min(max((today - first).days + 1, MIN_DAYS), MAX_DAYS)
    return [today - timedelta(days=back) for back in reversed(range(length))]


def class_mix(rows: list[ViewRow], classes: list[str], today: date) -> ViewRow | None:
    """Shares of the predicted classes by day of scoring, as a chart with its legend; None without any."""
    if not rows:
        return None
    days = days_until(today, rows[0]["day"])
    counts = {(row["day"], row["predicted"]): row["rows"] for row in rows}
    total = Counter[date]()
    for (day, _), rows_of_class in counts.items():
        total[day] += rows_of_class
    shares = {c: [counts.get((day, c), 0) / total[day] if total[day] else None for day in days] for c in classes}
    newest = rows[-1]["day"]
    return {
        "chart": charts.stacked_shares("Share of each predicted class by day of scoring", days, shares),
        "newest": {c: counts.get((newest, c), 0) / total[newest] if total[newest] else None for c in classes},
        "day": newest,
        "rows": total[newest],
    }


def confidence(rows: list[ViewRow], today: date) -> Markup | None:
    """Mean confidence of the predictions by day of scoring; None without any."""
    known = {row["day"]: row["confidence"] for row in rows if row["confidence"] is not None}
    if not known:
        return None
    days = days_until(today, min(known))
    values = [(known[day],) * 3 if day in known else None for day in days]
    return charts.lines("Mean confidence by day of scoring", days, values, {}, places=2)
