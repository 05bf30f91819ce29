"""The Apex page: which model is in charge, how good it is, what was scored, and what somebody should look at."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from apex_airflow import page_queries as queries
from apex_airflow.drop_trigger import inbox_folder, look
from apex_ml.settings import Settings

TEMPLATES = Path(__file__).parent / "templates"
MISSING = "–"


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
    return f"{value:{'+' if sign else ''}.{places}f}"


def percent(value: float | None, places: int = 1) -> str:
    """A share in percent.

    >>> percent(0.1234), percent(1.0)
    ('12.3 %', '100.0 %')
    """
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.{places}f} %"


def duration(milliseconds: float | None) -> str:
    """A time that something took.

    >>> duration(812.3), duration(2410), duration(185_000), duration(0.5)
    ('812 ms', '2.4 s', '3.1 min', '0.5 ms')
    """
    if milliseconds is None:
        return MISSING
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
    return f"{milliseconds / 1000:.1f} s" if milliseconds < 60_000 else f"{milliseconds / 60_000:.1f} min"


def age(span: timedelta | None) -> str:
    """A span in its largest unit.

    >>> age(timedelta(days=3, hours=5)), age(timedelta(minutes=1)), age(timedelta(seconds=5)), age(timedelta(hours=30))
    ('3 days', '1 minute', 'less than a minute', '30 hours')
    """
    if span is None:
        return MISSING
    seconds = span.total_seconds()
    for unit, length, least in (("day", 86400, 2), ("hour", 3600, 2), ("minute", 60, 1)):
        if seconds >= least * length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"


def when(value: datetime | None, seconds: bool = False) -> str:
    """A moment in UTC."""
    return (
        MISSING
        if value is None
        else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
    )


def environment() -> jinja2.Environment:
    """The templates; whatever is put into them is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "decimal": decimal, "percent": percent, "duration": duration, "age": age}
    made.filters |= {"when": when}
    return made


ENVIRONMENT = environment()


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


def render(settings: Settings, *, may_act: bool, now: datetime | None = None) -> str:
    """The page as HTML, with the rollback form for a person who may act.

    Raises :class:`~apex_airflow.page_queries.DatabaseDownError` when Postgres does not answer.
    """
    now = now or datetime.now(UTC)
    model = settings.model_name
    with queries.reading(settings) as connection:
        champion = queries.first(connection, queries.CHAMPION, model=model)
        version = champion["version"] if champion else None
        context = {
            "champion": champion,
            "evidence": queries.first(connection, queries.EVIDENCE, model=model, version=version),
            "challenger": queries.first(connection, queries.CHALLENGER, model=model),
            "history": queries.rows(connection, queries.HISTORY, model=model, shown=queries.SHOWN),
            "totals": queries.first(connection, queries.TOTALS),
            "drops": queries.rows(connection, queries.DROPS, shown=queries.SHOWN),
            "alerts": queries.rows(connection, queries.ALERTS, shown=queries.SHOWN),
        }
    return ENVIRONMENT.get_template("page.html.j2").render(
        **context,
        settings=settings,
        now=now,
        may_act=may_act,
        waiting=waiting(settings),
        gain=gain,
        earlier=earlier_champions(context["history"], version),
        mlflow=settings.tracking_uri.rstrip("/"),
        model_url=f"{settings.tracking_uri.rstrip('/')}/#/models/{quote(model, safe='')}",
    )


def earlier_champions(history: Iterable[queries.Row], version: int | None) -> list[int]:
    """Versions that were champion before and may be gone back to, the latest first."""
    found = (r["to_version"] for r in history if r["state"] == "done" and r["action"] != "reject")
    return [v for v in dict.fromkeys(found) if v is not None and v != version]


def render_down(reason: str) -> str:
    """The page that stands in while Postgres does not answer."""
    return ENVIRONMENT.get_template("down.html.j2").render(reason=reason)
