"""The overview of all pipelines: their health, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from markupsafe import Markup

from apex_airflow.inbox import count_waiting
from apex_airflow.pages import charts
from apex_airflow.pages.formats import decimal
from apex_airflow.pages.pipelines import BrokenPipeline, load, names_of
from apex_airflow.pages.rendering import ENVIRONMENT
from apex_ml.adapters.postgres.overview import PipelineState, WeekLoss, read_states
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.settings import Settings

Level = Literal["attention", "ok", "new", "removed"]
WORDS: dict[Level, str] = {
    "attention": "needs attention",
    "ok": "ok",
    "new": "not in use yet",
    "removed": "removed",
}
"""The levels in the order of the overview, with their words."""
REMOVED = "its folder is gone; its tables are still in Postgres"
MaySee = Callable[[Iterable[str]], tuple[str, ...]]
"""Keeps of some names those of pipelines that the user may see."""
DAGS = ("retrain", "score", "monitor", "rollback")


@dataclass(frozen=True)
class Health:
    """How a pipeline is, with the reasons."""

    level: Level
    reasons: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The level in words."""
        return WORDS[self.level]


@dataclass(frozen=True)
class Row:
    """A pipeline in the overview; `state` is None when its file or its tables cannot be read."""

    name: str
    health: Health
    pipeline: PipelineSettings | None = None
    state: PipelineState | None = None
    waiting: int | None = None
    quality: Markup | None = None
    dags: tuple[str, ...] = DAGS


def health(state: PipelineState, waiting: int | None) -> Health:
    """The health of a pipeline by its open alerts, its newest drop and its champion.

    >>> from datetime import UTC, datetime
    >>> of = lambda alerts, waiting, version=1: health(
    ...     PipelineState(version, datetime(2026, 1, 2, tzinfo=UTC), None, 0, alerts, ()), waiting)
    >>> of({}, 0).words, of({"drift": 2, "quality": 1}, 0).reasons
    ('ok', ('3 open alerts: drift (2), quality',))
    >>> of({}, 3, None).reasons, of({}, 0, None).words
    (('no champion: 3 drops wait for one',), 'not in use yet')
    """
    reasons = []
    if state.alerts:
        kinds = [kind if count == 1 else f"{kind} ({count})" for kind, count in sorted(state.alerts.items())]
        reasons.append(f"{_counted(sum(state.alerts.values()), 'open alert')}: {', '.join(kinds)}")
    if state.drop and state.drop.state == "failed" and "bad_drop" not in state.alerts:
        reasons.append("the last drop failed")
    if state.version is None and waiting:
        drops, verb = _counted(waiting, "drop"), "waits" if waiting == 1 else "wait"
        reasons.append(f"no champion: {drops} {verb} for one")
    if reasons:
        return Health("attention", tuple(reasons))
    if state.version is None:
        return Health("new", ("there is no champion yet",))
    return Health("ok")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def rows_of(settings: Settings, names: Sequence[str]) -> tuple[list[Row], tuple[str, ...]]:
    """A row for each pipeline, those that need attention first; and the schemas of pipelines without a folder.

    Raises :class:`~apex_ml.adapters.postgres.views.DatabaseDownError` when Postgres does not answer.
    """
    loaded = {name: load(settings, name) for name in names}
    pipelines = {name: p for name, p in loaded.items() if isinstance(p, PipelineSettings)}
    reading = read_states(settings, {p.schema: p.model_name for p in pipelines.values()})
    rows = [Row(p.name, Health("attention", (p.fault,))) for p in loaded.values() if isinstance(p, BrokenPipeline)]
    for name, pipeline in pipelines.items():
        state, waiting = reading.values.get(pipeline.schema), count_waiting(pipeline)
        if state is None:
            rows.append(Row(name, Health("attention", (reading.faults[pipeline.schema],)), pipeline, None, waiting))
        else:
            rows.append(Row(name, health(state, waiting), pipeline, state, waiting, sparkline(state.weeks)))
    levels = list(WORDS)
    return sorted(rows, key=lambda row: (levels.index(row.health.level), row.name)), reading.others


def sparkline(weeks: Sequence[WeekLoss]) -> Markup | None:
    """The quality of the weeks as a small chart; None without any."""
    if not weeks:
        return None
    newest = weeks[-1]
    text = f"Log loss by week, higher is better: {decimal(newest.log_loss, 3)} in the week of {newest.week}"
    if newest.prior is not None:
        text += f", class prior {decimal(newest.prior, 3)}"
    worse = sum(week.is_worse for week in weeks)
    text += f"; {worse} of {_counted(len(weeks), 'week')} worse than expected" if worse else "; no week was worse"
    return charts.sparkline(
        text,
        [-week.log_loss for week in weeks],
        floor=None if newest.prior is None else -newest.prior,
        marked=[week.is_worse for week in weeks],
    )


def render(settings: Settings, may_see: MaySee, now: datetime | None = None) -> str:
    """Return the overview of the pipelines that a user may see as HTML. Raises as :func:`rows_of`."""
    rows, others = rows_of(settings, may_see(names_of(settings)))
    unknown = set(others) - set(names_of(settings))
    rows += [Row(name, Health("removed", (REMOVED,)), dags=()) for name in may_see(sorted(unknown))]
    return ENVIRONMENT.get_template("overview.html.j2").render(
        rows=rows,
        attention=sum(row.health.level == "attention" for row in rows),
        folder=settings.pipelines,
        mlflow=settings.mlflow_address,
        now=now or datetime.now(UTC),
    )
