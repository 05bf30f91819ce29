"""What a person decides about a new pipeline: the target and the roles of columns, with a proposal for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from apex_ml.contract.checks import EXACT_INTEGERS
from apex_ml.core.new_pipeline.columns import target_classes
from apex_ml.core.table_profile.bins import number_text
from apex_ml.core.table_profile.findings import ABSENT_SHARE, LEAK_GAIN, is_named_as_identifier
from apex_ml.core.table_profile.values import ColumnProfile, TableProfile
from apex_ml.errors import DataError
from apex_ml.text import visible
from apex_ml.wording import counted

MAX_CLASSES = 50
MIN_ROWS = 30
"""Rows below which parts for training, validation and test would say nothing."""
MAX_NULLS = 0.01
"""Share of nulls up to which a column can be entity or timestamp; its rows are quarantined."""
MAX_OTHERS = 5
"""Other columns that a comment names."""
REPEATED = 1.5
"""Rows for each entity from which rows clearly outnumber entities."""


@dataclass(frozen=True)
class Choices:
    """The roles of columns. `measures` are known only after the target."""

    target: str
    entity: str | None
    timestamp: str | None
    key: tuple[str, ...]
    """Columns that together name a row; none when nothing does."""
    measures: tuple[str, ...]


def refuse_target(profile: TableProfile, target: str) -> None:
    """Raise :class:`~apex_ml.errors.DataError` with the reason when no classifier can learn this target."""
    column = profile.column(target)
    if reason := _target_fault(profile, column):
        raise DataError(f"{profile.source.name}: {visible(target)} cannot be the target: {reason}")


def _target_fault(profile: TableProfile, column: ColumnProfile) -> str:
    if not profile.rows:
        return "the table has no rows; name files that have some"
    if profile.rows < MIN_ROWS:
        return f"the table has {counted(profile.rows, 'row')}; a model needs at least {MIN_ROWS}"
    if not column.known:
        return "it has no value"
    if column.kind == "other":
        return f"it holds {column.stored}; name a column of texts, whole numbers or truth values"
    if column.distinct == 1:
        return f"all rows have the one class {visible(column.levels[0].value)}; there is nothing to predict"
    if column.is_unique:
        return "every row has another value; name the column with the class of a row"
    if column.times is None and column.kind in ("date", "timestamp"):
        return "it holds dates beyond the years 1 to 9999; make a column with a class"
    if column.distinct > MAX_CLASSES:
        return _too_many(column)
    if (n := column.numbers) is not None and column.kind == "number" and max(-n.low, n.high) > EXACT_INTEGERS:
        return f"it has numbers beyond {EXACT_INTEGERS:,}, which are not exact; make a column with a class"
    if len(classes := target_classes(column)) < 2:
        listed = visible(str(classes[0])) if classes else "none"
        return f"its values differ by case or blanks alone, which do not count; the only class is {listed}"
    return ""


def _too_many(column: ColumnProfile) -> str:
    if column.times is not None:
        return (
            f"it has {column.distinct:,} different days or times; Apex predicts classes, at most {MAX_CLASSES}. Make a"
            " column with a class, such as before or after a day"
        )
    if column.numbers is not None:
        span = f"{number_text(column.numbers.low)} to {number_text(column.numbers.high)}"
        return (
            f"it is a number with {column.distinct:,} values ({span}); Apex predicts classes, at most {MAX_CLASSES}."
            " Make a column with a class, such as low, middle and high"
        )
    return (
        f"it has {column.distinct:,} classes; Apex predicts at most {MAX_CLASSES}. Make a column with fewer, for"
        " example the most frequent ones and others"
    )


def refuse_roles(profile: TableProfile, choices: Choices) -> None:
    """Raise :class:`~apex_ml.errors.DataError` when a column cannot have the role that was chosen for it."""
    if faults := list(_role_faults(profile, choices)):
        raise DataError(f"{profile.source.name}: {'; '.join(faults)}")


def _role_faults(profile: TableProfile, choices: Choices) -> Iterator[str]:
    single = {"entity": choices.entity, "timestamp": choices.timestamp, "target": choices.target}
    several = [*(("key", name) for name in choices.key), *(("measure", name) for name in choices.measures)]
    roles: dict[str, str] = {}
    for role, name in (*single.items(), *several):
        if name is None:
            continue
        if other := roles.get(name):
            yield f"{visible(name)} cannot be {other} and {role}: choose one"
        roles[name] = role
    if choices.timestamp is not None and profile.column(choices.timestamp).times is None:
        column = profile.column(choices.timestamp)
        yield f"{visible(column.name)} cannot be the timestamp: it holds {column.stored} and no dates"
    for name in choices.key:
        column = profile.column(name)
        if column.kind not in ("text", "integer", "date"):
            yield f"{visible(name)} cannot be the key: it holds {column.stored}; write text, whole numbers or dates"
    for role, name in (("entity", choices.entity), ("timestamp", choices.timestamp), *several[: len(choices.key)]):
        column = profile.column(name or choices.target)
        if name and column.absent_share > MAX_NULLS:
            share = f"{column.absent_share:.1%} of the rows"
            yield f"{visible(column.name)} cannot be the {role}: it is null or blank in {share}"


def propose(
    profile: TableProfile,
    target: str,
    entity: str | None = None,
    timestamp: str | None = None,
    key: tuple[str, ...] = (),
) -> Choices:
    """The most likely roles, beside those that are given."""
    taken = {name for name in (target, entity, timestamp, *key) if name is not None}
    unique = [names for names in profile.keys if len(names) == 1 and _can_be_key(profile, names[0], taken)]
    key = key or (unique[0] if unique else ())
    if timestamp is None and profile.time is not None and profile.time.name not in taken:
        when = profile.column(profile.time.name)
        timestamp = when.name if when.null_share <= MAX_NULLS else None
    taken |= {name for name in (*key, timestamp) if name is not None}
    taken |= set(profile.column(timestamp).sources) if timestamp else set()
    entity = entity or _likely_entity(profile, taken)
    taken |= {entity} if entity else set()
    measures = [
        association.name
        for association in (profile.target.associations if profile.target else ())
        if association.gain >= LEAK_GAIN or association.absent_with_target >= ABSENT_SHARE
        if association.name not in taken
    ]
    return Choices(target, entity, timestamp, key, tuple(measures))


def _can_be_key(profile: TableProfile, name: str, taken: set[str]) -> bool:
    return name not in taken and name in profile.identifiers and profile.column(name).is_unique


def _likely_entity(profile: TableProfile, taken: set[str]) -> str | None:
    return next((column.name for column in _likely_entities(profile, taken)), None)


def _likely_entities(profile: TableProfile, taken: set[str]) -> list[ColumnProfile]:
    """The identifiers that repeat. One named so comes first, then the one with the most values: fewer are groups."""
    repeating = [
        column
        for column in profile.columns
        if column.name in profile.identifiers and column.name not in taken and column.absent_share <= MAX_NULLS
        if column.known >= REPEATED * column.distinct
    ]
    return sorted(repeating, key=lambda c: (is_named_as_identifier(c.name), c.distinct), reverse=True)


def entity_note(profile: TableProfile, choices: Choices) -> str:
    """Why a column may be the entity, which others may, and how to choose one of them."""
    entity = profile.column(choices.entity or choices.target)
    taken = {choices.target, *filter(None, (choices.entity, choices.timestamp)), *choices.key, *choices.measures}
    others = [
        f"{visible(c.name)} ({c.distinct:,} values, {c.known / c.distinct:.1f} rows each)"
        for c in _likely_entities(profile, taken)[:MAX_OTHERS]
    ]
    return (
        f"the entity, whose earlier rows are the history: {entity.distinct:,} values, {_rows_each(entity):.1f} rows"
        f" each; {_other_columns(others)}; choose with --entity NAME, or --entity - for none"
    )


def timestamp_note(profile: TableProfile, choices: Choices) -> str:
    """Which column is the day or the time of a row, which others may be, and how to choose one of them."""
    others = [
        f"{visible(c.name)} ({c.times.first:%Y-%m-%d} to {c.times.last:%Y-%m-%d}"
        + (f", null in {c.null_share:.1%})" if c.nulls else ")")
        for c in profile.columns
        if c.times is not None and c.name not in (choices.timestamp, choices.target)
    ]
    return (
        "the day or the time of a row, which must be when it came, not a day that it is about, such as a birthday;"
        f" {_other_columns(others[:MAX_OTHERS])}; choose with --timestamp NAME, or --timestamp - for none"
    )


def _rows_each(column: ColumnProfile) -> float:
    return column.known / max(column.distinct, 1)


def _other_columns(others: list[str]) -> str:
    return f"others that could be it: {', '.join(others)}" if others else "no other column looks like one"
