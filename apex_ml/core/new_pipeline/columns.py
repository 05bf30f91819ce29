"""How a contract describes one column: type, normal form, levels and checks, with margins around what was observed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from apex_ml.contract.normalisation import upper
from apex_ml.contract.roles import Role
from apex_ml.core.new_pipeline.ranges import date_checks, number_checks
from apex_ml.core.new_pipeline.times import MAX_ODD, as_time, time_levels, time_notes
from apex_ml.core.table_profile.epochs import epoch_note
from apex_ml.core.table_profile.values import ColumnProfile
from apex_ml.text import trimmed

MAX_LEVELS = 50
"""Different values up to which a text has a list of levels in the contract."""
ROWS_A_LEVEL = 20
"""Rows of every level from which another level is an error in training."""
ROWS_A_LEARNED_LEVEL = 10
"""Mean rows of a level from which levels can be learned."""
MAX_LEARNED = 5000
"""Different values up to which a text without a list is a feature; its levels are learned."""
ROWS_A_FREQUENCY = 2
"""Mean rows of a value from which its frequency can be a feature."""
MAX_TEXT = 100
"""Characters of a text up to which it can be a level."""
BIGGEST_INT64 = 2**63 - 1


@dataclass(frozen=True)
class ColumnPlan:
    """A column of the new contract. `body` are the keys below its name; `notes` are for a comment."""

    name: str
    role: Role
    body: dict[str, Any]
    is_feature: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A column that the contract does not name, with the reason."""

    name: str
    why: str


@dataclass
class _Draft:
    body: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def with_note(plan: ColumnPlan, note: str) -> ColumnPlan:
    """The plan with one more note for its comment."""
    return replace(plan, notes=(note, *plan.notes))


def plan_target(column: ColumnProfile) -> ColumnPlan:
    """The target: all its values are classes. A drop may lack it."""
    draft = _Draft({"type": _type_of(column)})
    if draft.body["type"] == "double":
        draft.body |= _as_exact(column)
    elif draft.body["type"] == "decimal":
        draft.body["decimals"] = _decimals(column)
    draft.body |= {"role": "target", "required": {"train": True, "score": False}}
    draft.body["nullable"] = {"train": False, "score": True}
    if column.text is not None:
        draft.body["normalise"] = _normal_form(column)
    if column.times is not None:
        draft.body |= as_time(column)
        draft.notes += time_notes(column)
    draft.body["domain"] = {"levels": _levels(column, draft.body), "closed": {"train": True, "score": False}}
    if column.absent_share:
        draft.notes.append(f"rows without a class ({column.absent_share:.1%}) are quarantined in training")
    return ColumnPlan(column.name, "target", draft.body, notes=tuple(draft.notes))


def plan_entity(column: ColumnProfile) -> ColumnPlan:
    """The thing that a row is about; its name is text."""
    body: dict[str, Any] = {"type": "string", "role": "entity"}
    if column.text is not None:
        body["normalise"] = _normal_form(column)
    return ColumnPlan(column.name, "entity", body)


def plan_key(column: ColumnProfile) -> ColumnPlan:
    """What names a row, alone or with others."""
    kind = {"integer": "int64", "date": "date"}.get(column.kind, "string")
    body: dict[str, Any] = {"type": kind, "role": "key"}
    if kind == "string":
        body["normalise"] = ["trim"]  # two keys that differ by case are two keys
    return ColumnPlan(column.name, "key", body)


def plan_source(column: ColumnProfile) -> ColumnPlan:
    """A column that only the expression of the timestamp reads."""
    body: dict[str, Any] = {"type": _type_of(column), "role": "ignore"}
    if column.nulls:
        body["nullable"] = True
    if column.text is not None:
        body["normalise"] = ["trim"]
    return ColumnPlan(column.name, "ignore", body, notes=("a part of the timestamp, and no feature of its own",))


def plan_timestamp(column: ColumnProfile) -> ColumnPlan:
    """The time of a row: its day, or its instant where the column has times of day."""
    body: dict[str, Any] = {"type": "date", "role": "timestamp"}
    if column.derive is not None:
        body |= {"derive": column.derive, "checks": date_checks(column)}
        return ColumnPlan(column.name, "timestamp", body, notes=("no column of the data: it is computed in each row",))
    body |= as_time(column)
    body["checks"] = date_checks(column)
    notes: tuple[str, ...] = ()
    if body["type"] == "timestamp":
        notes = ("it has times of day: what was before a row is counted to the instant, less the lag below",)
    return ColumnPlan(column.name, "timestamp", body, notes=(*notes, *time_notes(column)))


def plan_column(column: ColumnProfile, role: Role, *, is_identifier: bool) -> ColumnPlan | LeftOut:
    """A column that is known before the target (attribute) or only after it (measure)."""
    if why := _useless(column):
        return LeftOut(column.name, why)
    kind = _number_in_text(column) if column.text is not None and not is_identifier else ""
    kind = kind or _type_of(column)
    draft = _Draft({"type": kind, "role": role})
    if role == "measure" and kind not in ("int64", "double", "decimal"):
        return LeftOut(column.name, "taken as known only after the target, and no number of which a history has a mean")
    if kind == "decimal" or (role == "measure" and kind == "double"):
        draft.body["decimals"] = _decimals(column)
    if role == "measure":
        draft.body["required"] = False
    if column.nulls > column.unread or role == "measure" or (column.text is not None and column.text.blank):
        draft.body["nullable"] = True
    is_feature = role == "attribute" and not is_identifier
    if is_identifier and role == "attribute":
        is_feature = _plan_identifier(column, draft)
    elif kind == "string":
        is_feature = _plan_text(column, draft) and is_feature
    elif column.numbers is not None and kind != "boolean":
        draft.body["checks"] = number_checks(column)
    if (note := epoch_note(column)) is not None:
        draft.notes.append(note)
    for key in ("normalise", "checks"):
        if not draft.body.get(key, True):
            del draft.body[key]
    return ColumnPlan(column.name, role, draft.body, is_feature, tuple(draft.notes))


def _useless(column: ColumnProfile) -> str:
    """Why nothing can be learnt from a column; empty when something can."""
    if column.kind == "other":
        return f"holds {column.stored}, which Apex does not read"
    if not column.known:
        return "has no value"
    if column.distinct == 1 and not column.nulls:
        return "has the same value in every row"
    odd = column.numbers.not_finite if column.numbers else 0
    if odd > MAX_ODD * column.known or (column.numbers is None and column.kind in ("integer", "number")):
        return (
            f"is NaN or infinite in {odd or column.known:,} rows: such rows would be quarantined; write nulls instead"
        )
    if column.kind in ("date", "timestamp"):
        return "is a date; as a number it would grow with time, and Apex makes no other feature of it yet"
    if column.kind == "integer" and column.numbers is not None and column.numbers.high > BIGGEST_INT64:
        return "has whole numbers of more than 64 bits"
    if column.text is not None and column.text.longest > MAX_TEXT:
        return f"has texts of up to {column.text.longest:,} characters; free text is no feature"
    if column.is_unique and column.kind == "text":
        return "is different in every row"
    return ""


def _type_of(column: ColumnProfile) -> str:
    if column.kind == "number":
        return "decimal" if column.stored.startswith("decimal128") and (_decimals(column) or 0) <= 9 else "double"
    return {"integer": "int64", "boolean": "boolean"}.get(column.kind, "string")


def _number_in_text(column: ColumnProfile) -> str:
    """The type of the numbers that a text column holds; empty when it holds others, or few values, which are levels."""
    text = column.text
    if text is None or column.odd or column.distinct <= MAX_LEVELS or text.numbers < column.known:
        return ""
    return "int64" if text.whole_numbers == column.known else "double"


def _decimals(column: ColumnProfile) -> int:
    if column.stored.startswith("decimal128"):
        return int(column.stored.rpartition(",")[2].strip(" )"))
    return column.numbers.decimals if column.numbers and column.numbers.decimals is not None else 4


def _as_exact(column: ColumnProfile) -> dict[str, Any]:
    """A double with whole numbers is int64, one with a few decimals a decimal."""
    if column.numbers is not None and column.numbers.decimals is None:
        return {"type": "double"}
    decimals = _decimals(column)
    return {"type": "decimal", "decimals": decimals} if decimals else {"type": "int64"}


def _normal_form(column: ColumnProfile) -> list[Any]:
    has_variants = column.text is not None and column.text.folded < column.distinct
    return ["trim", "upper"] if has_variants else ["trim"]


def target_classes(column: ColumnProfile) -> list[Any]:
    """The classes of a target, after its normal form."""
    classes: list[Any] = plan_target(column).body["domain"]["levels"]
    return classes


def _levels(column: ColumnProfile, body: dict[str, Any]) -> list[Any]:
    """The observed values in their normal form, sorted, as values of the type."""
    values = [level.value for level in column.levels]
    if body["type"] == "string":
        normal = [trimmed(value) for value in values]
        if "upper" in body.get("normalise", ()):
            normal = [upper(value) for value in normal]
        return sorted({value for value in normal if value})
    if body["type"] == "boolean":
        return [value == "true" for value in sorted(values)]
    if body["type"] in ("date", "timestamp"):
        return time_levels(values, body)
    numbers = sorted({float(value) for value in values if isfinite(float(value))})
    return [int(value) for value in numbers] if body["type"] == "int64" else numbers


def _plan_text(column: ColumnProfile, draft: _Draft) -> bool:
    """Normal form and levels; whether it can be a feature."""
    draft.body["normalise"] = _normal_form(column)
    if column.distinct <= MAX_LEVELS and len(column.levels) == column.distinct:
        levels = _levels(column, draft.body)
        is_closed = min(level.rows for level in column.levels) >= ROWS_A_LEVEL
        if levels:
            draft.body["domain"] = {"levels": levels, "closed": {"train": is_closed, "score": False}}
        if not is_closed:
            draft.notes.append("some levels are rare, so that another one is no error")
        return bool(levels)
    if column.distinct <= min(MAX_LEARNED, column.known // ROWS_A_LEARNED_LEVEL):
        draft.notes.append("its levels are learned in training; rare ones count as unknown")
        return True
    if _repeats(column):
        _encode_by_frequency(column, draft, f"it has {column.distinct:,} different texts")
        return True
    draft.notes.append("no feature: too many different values")
    return False


def _plan_identifier(column: ColumnProfile, draft: _Draft) -> bool:
    """An identifier whose values repeat is a feature by their frequency; whether it is."""
    draft.body["identifier"] = True
    if _repeats(column):
        draft.body |= {"type": "string", "normalise": _normal_form(column)}
        _encode_by_frequency(column, draft, "it looks like an identifier")
        return True
    draft.body["normalise"] = _normal_form(column) if draft.body["type"] == "string" else []
    draft.notes.append("no feature: it looks like an identifier; list it under features.attributes if it is none")
    return False


def _repeats(column: ColumnProfile) -> bool:
    """Whether values occur often enough for their frequency to say something."""
    return 0 < column.distinct * ROWS_A_FREQUENCY <= column.known


def _encode_by_frequency(column: ColumnProfile, draft: _Draft, why: str) -> None:
    draft.body["encoding"] = "frequency"
    rows = column.known / column.distinct
    draft.notes.append(
        f"{why}, of {rows:.1f} rows each: the model sees how frequent a value is in training, not the value itself."
        " Remove encoding to learn the values, or take it out of features.attributes"
    )
