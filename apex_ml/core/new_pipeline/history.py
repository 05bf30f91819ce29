"""The history that a new pipeline proposes: of the entity, of its last weeks, of columns of many levels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apex_ml.core.new_pipeline.choices import REPEATED, Choices
from apex_ml.core.new_pipeline.columns import ColumnPlan
from apex_ml.core.table_profile.values import TableProfile

SMOOTHING = 10
"""Rows of equal shares that smooth the shares of the classes."""
WINDOWS = (30, 90)
"""Days of a window; the first one with enough rows of an entity is proposed."""
ROWS_IN_WINDOW = 2.0
"""Mean rows of an entity in a window from which they say more than the latest one."""
WINDOWS_IN_DATA = 3
"""Windows that the data must hold, since the first rows have an incomplete one."""
MAX_SHARES = 10
"""Classes up to which further shares are proposed: each of them is a feature a class."""
MIN_GAIN = 0.02
"""Gain alone from which the classes of a column's levels are worth a history of their own."""
MAX_KEYS = 3


def rows_an_entity(profile: TableProfile, choices: Choices) -> float:
    """Mean rows of an entity; 0 where a pipeline has no history, without entity or timestamp."""
    if not (choices.entity and choices.timestamp):
        return 0.0
    entity = profile.column(choices.entity)
    return entity.known / max(entity.distinct, 1)


def propose_history(profile: TableProfile, choices: Choices, columns: list[ColumnPlan]) -> list[dict[str, Any]]:
    """The recipes; none where entities hardly repeat."""
    if rows_an_entity(profile, choices) < REPEATED:
        return []
    measures = [column.name for column in columns if column.role == "measure"]
    shares: dict[str, Any] = {"recipe": "target_share", "smoothing": SMOOTHING}
    mean: list[dict[str, Any]] = [{"recipe": "mean", "columns": measures}] if measures else []
    history: list[dict[str, Any]] = [{"recipe": "count", "name": "history_rows"}]
    history += [{"recipe": name} for name in ("days_since_last", "last_target")]
    history += [shares, *mean]
    has_few_classes = _classes(columns) <= MAX_SHARES
    if window := _window(profile, choices):
        recent: list[dict[str, Any]] = [{"recipe": "count"}, *([shares] if has_few_classes else []), *mean]
        history += [recipe | {"window": window} for recipe in recent]
    for name in _keys(profile, choices, columns) if has_few_classes else ():
        # of all entities, and what this one did at this level
        for by in (name, [choices.entity, name]):
            history += [{"recipe": "count", "by": by}, shares | {"by": by}]
    return history


def _classes(columns: list[ColumnPlan]) -> int:
    (target,) = (column for column in columns if column.role == "target")
    return len(target.body["domain"]["levels"])


def _window(profile: TableProfile, choices: Choices) -> str:
    """The shortest window in which an entity has enough rows; empty when the data holds none."""
    times = profile.column(choices.timestamp).times if choices.timestamp else None
    days = (times.last - times.first).days if times is not None else 0
    for window in WINDOWS:
        rows = rows_an_entity(profile, choices) * window / max(days, 1)
        if days >= WINDOWS_IN_DATA * window and rows >= ROWS_IN_WINDOW:
            return f"{window}d"
    return ""


def _keys(profile: TableProfile, choices: Choices, columns: list[ColumnPlan]) -> Iterator[str]:
    """Text features of many levels that tell the classes apart, the strongest first.

    A tree needs many splits for that number of levels. What came of earlier rows of a level is one number to it.
    """
    texts = [c for c in columns if c.is_feature and c.body["type"] == "string"]
    learned = {c.name for c in texts if "domain" not in c.body and "encoding" not in c.body}
    gains = ((a.gain, a.name) for a in profile.target.associations) if profile.target else ()
    strong = sorted((pair for pair in gains if pair[0] >= MIN_GAIN and pair[1] in learned), reverse=True)
    yield from [name for _, name in strong if not _has_features_of(profile, choices, name)][:MAX_KEYS]


def _has_features_of(profile: TableProfile, choices: Choices, name: str) -> bool:
    """Whether a column of the data has a name as that of a feature of this history: the column comes first."""
    keys = (name, f"{choices.entity}_{name}")
    starts = tuple(f"{key}_{what}".casefold() for key in keys for what in ("count", "share_"))
    return any(column.name.casefold().startswith(starts) for column in profile.columns)
