"""The Apex page: the champion, its quality, what was scored, and what needs attention."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from urllib.parse import quote

from apex_airflow.inbox import count_waiting, folders_in_inbox
from apex_airflow.pages.drift import drift_map
from apex_airflow.pages.pipelines import BrokenPipeline
from apex_airflow.pages.predictions import MAX_DAYS, class_mix, confidence
from apex_airflow.pages.quality import quality
from apex_airflow.pages.rendering import ENVIRONMENT
from apex_ml.adapters.postgres.page import PageQueries, PostgresPageQueries
from apex_ml.adapters.postgres.views import PostgresViews, ViewRow, read_snapshot
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.settings import Settings

MAX_ROWS = 12
"""Rows of a table on the page."""
DRIFT_COLUMNS = 18
Scope = Literal["day", "drop", "raw", "online"]
SCOPE_NAMES: dict[Scope, str] = {
    "day": "days of scoring",
    "drop": "drops",
    "raw": "weeks of raw data",
    "online": "online answers",
}
ACTIONS = {
    "promote": "promoted",
    "reject": "rejected",
    "rollback": "rolled back",
    "force": "promoted manually",
    "manual": "moved in MLflow",
}


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


def render(
    settings: Settings,
    pipeline: PipelineSettings,
    *,
    may_act: bool,
    scope: Scope | None = None,
    now: datetime | None = None,
) -> str:
    """Return the page of a pipeline as HTML, with the rollback form for a user who may act.

    The drift is that of `scope`; by default of the first scope that has any.

    Raises :class:`~apex_ml.adapters.postgres.views.DatabaseDownError` when Postgres does not answer.
    """
    now = now or datetime.now(UTC)
    model_name = pipeline.model_name
    with read_snapshot(settings, pipeline.schema) as session:
        queries = PostgresPageQueries(session, model_name)
        model = _model(queries, PostgresViews(session, model_name))
        drops = queries.drops(MAX_ROWS)
        scoring = {"totals": queries.drop_totals(), "drops": drops, "alerts": queries.alerts(MAX_ROWS)}
        mix, confidences = queries.class_mix(now, MAX_DAYS), queries.confidence(now, MAX_DAYS)
        weeks = queries.quality()
        scope, drift = _drift(queries, scope)
    predictions = [*mix, *(share for drop in drops for share in drop["classes"] or [])]
    classes = sorted({prediction["predicted"] for prediction in predictions})
    return ENVIRONMENT.get_template("page.html.j2").render(
        **model,
        **scoring,
        mix=class_mix(mix, classes, now.date()),
        confidence=confidence(confidences, now.date()),
        weeks=weeks,
        quality=quality(weeks),
        drift=drift_map(drift),
        scope=scope,
        scopes=SCOPE_NAMES,
        pipeline=pipeline,
        limits=pipeline.options.monitoring,
        now=now,
        may_act=may_act,
        actions=ACTIONS,
        colors={name: place for place, name in enumerate(classes)},
        waiting=count_waiting(pipeline),
        folders=folders_in_inbox(pipeline),
        gain=gain,
        rollback=pipeline.dag_id("rollback"),
        model_url=f"{settings.mlflow_address}/#/models/{quote(model_name, safe='')}",
        runs_url=f"{settings.mlflow_address}/#/experiments",
    )


def _model(queries: PageQueries, views: PostgresViews) -> dict[str, Any]:
    """Champion and challenger with their evidence, and the history of promotions."""
    champion = views.champion()
    version = champion.version if champion else None
    return {
        "champion": champion,
        "evidence": queries.evidence(version),
        "earlier": queries.earlier_champions(version, MAX_ROWS),
        "challenger": queries.challenger(),
        "training": queries.training(version),
        "history": queries.decisions(MAX_ROWS),
    }


def _drift(queries: PageQueries, scope: Scope | None) -> tuple[Scope | None, list[ViewRow]]:
    """The drift of a scope, or of the first scope that has any, with that scope."""
    for candidate in [scope] if scope else get_args(Scope):
        if rows := queries.drift(candidate, DRIFT_COLUMNS):
            return candidate, rows
    return scope, []


def render_broken(pipeline: BrokenPipeline) -> str:
    """Return the page of a pipeline whose file cannot be used."""
    return ENVIRONMENT.get_template("broken.html.j2").render(pipeline=pipeline)


def render_unknown(name: str, names: Sequence[str]) -> str:
    """Return the page that is shown for a name that is no pipeline the user may see; it lists those that are."""
    return ENVIRONMENT.get_template("unknown.html.j2").render(name=name, names=names)


def render_docs(names: Sequence[str]) -> str:
    """Return the list of the pipelines' Data Docs."""
    return ENVIRONMENT.get_template("docs.html.j2").render(names=names, root="../")


def render_down(reason: str) -> str:
    """Return the page that is shown while Postgres does not answer."""
    return ENVIRONMENT.get_template("down.html.j2").render(reason=reason)
