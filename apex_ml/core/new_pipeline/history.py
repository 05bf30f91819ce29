"""The history that a new pipeline proposes: of the entity and its last weeks, by levels and their last days."""

from __future__ import annotations

from collections import defaultdict
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
LEVEL_WINDOWS = (1, 7, 30)
"""Days of a window of all rows with one level; the first one with enough rows of a level is proposed."""
WINDOWS_IN_DATA = 3
"""Windows that the data must hold, since the first rows have an incomplete one."""
MAX_SHARES = 10
"""Classes up to which further shares are proposed: each of them is a feature a class."""
MIN_GAIN = 0.02
"""Gain alone from which the classes of a column's levels are worth a history of their own."""
MIN_TIME_GAIN = 0.005
"""Gain alone of the timestamp from which the classes change over time, so that the last days of a level say more."""
MAX_KEYS = 3
"""Columns by which a whole history is proposed, and by which one of the last days is."""


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
    for name, days in _recent_keys(profile, choices, columns) if has_few_classes else ():
        history += [recipe | {"by": name, "window": f"{days}d"} for recipe in (shares, *mean)]
    return history


def _classes(columns: list[ColumnPlan]) -> int:
    (target,) = (column for column in columns if column.role == "target")
    return len(target.body["domain"]["levels"])


def _window(profile: TableProfile, choices: Choices) -> str:
    """The shortest window in which an entity has enough rows; empty when the data holds none."""
    days = _days_of_data(profile, choices)
    for window in WINDOWS:
        rows = rows_an_entity(profile, choices) * window / max(days, 1)
        if days >= WINDOWS_IN_DATA * window and rows >= ROWS_IN_WINDOW:
            return f"{window}d"
    return ""


def _days_of_data(profile: TableProfile, choices: Choices) -> int:
    times = profile.column(choices.timestamp).times if choices.timestamp else None
    return (times.last - times.first).days if times is not None else 0


def _keys(profile: TableProfile, choices: Choices, columns: list[ColumnPlan]) -> Iterator[str]:
    """Text features of many levels that tell the classes apart, the strongest first.

    A tree needs many splits for that number of levels. What came of earlier rows of a level is one number to it.
    """
    gains = _gains(profile)
    learned = [column for column in _texts_with_levels(profile, choices, columns) if "domain" not in column.body]
    yield from [column.name for column in learned if gains[column.name] >= MIN_GAIN][:MAX_KEYS]


def _recent_keys(profile: TableProfile, choices: Choices, columns: list[ColumnPlan]) -> Iterator[tuple[str, int]]:
    """Text features whose levels have enough rows in a few days, each with the days, the strongest first.

    A model learns what a level says over all rows. Where the classes change over time, the level says another thing
    these days, such as a place with its weather. None where the classes do not change.
    """
    days, keys = _days_of_data(profile, choices), 0
    if _gains(profile)[choices.timestamp or ""] < MIN_TIME_GAIN:
        return
    for column in (profile.column(plan.name) for plan in _texts_with_levels(profile, choices, columns)):
        rows_a_day = column.known / max(column.distinct, 1) / max(days, 1)
        windows = [n for n in LEVEL_WINDOWS if days >= WINDOWS_IN_DATA * n and rows_a_day * n >= REPEATED]
        if windows and keys < MAX_KEYS:
            keys += 1
            yield column.name, windows[0]


def _texts_with_levels(profile: TableProfile, choices: Choices, columns: list[ColumnPlan]) -> list[ColumnPlan]:
    """Text features that are levels to a model and say something, the one with the largest gain alone first."""
    gains = _gains(profile)
    texts = [c for c in columns if c.is_feature and c.body["type"] == "string" and "encoding" not in c.body]
    telling = sorted((c for c in texts if gains[c.name] > 0), key=lambda c: (gains[c.name], c.name), reverse=True)
    return [column for column in telling if not _has_features_of(profile, choices, column.name)]


def _gains(profile: TableProfile) -> dict[str, float]:
    """The gain alone of each column; 0 where it is not known."""
    return defaultdict(float, {a.name: a.gain for a in profile.target.associations} if profile.target else {})


def _has_features_of(profile: TableProfile, choices: Choices, name: str) -> bool:
    """Whether a column of the data has a name as that of a feature of this history: the column comes first."""
    keys = (name, f"{choices.entity}_{name}")
    starts = tuple(f"{key}_{what}".casefold() for key in keys for what in ("count", "share_", "mean_"))
    return any(column.name.casefold().startswith(starts) for column in profile.columns)
