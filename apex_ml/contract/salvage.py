"""Read the valid parts of an invalid contract, so that Apex reports all faults together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from apex_ml.contract.batch import BatchRule
from apex_ml.contract.columns import Column
from apex_ml.contract.contradictions import Parts
from apex_ml.contract.domain import repeated_levels
from apex_ml.contract.expressions import parse_expression
from apex_ml.contract.part import ContradictionError, Place
from apex_ml.contract.recipes import HistoryRecipe
from apex_ml.contract.rules import Rule
from apex_ml.wording import nearest

_TELLING = {"type", "role", "domain", "required", "nullable", "decimals", "timezone", "normalise"}
"""Keys of a column without which it may seem to contradict itself."""


def with_name(name: str, column: Any) -> Any:
    """A column as the file has it, with its key as its name."""
    return {**column, "name": name} if isinstance(column, dict) else column


def without_ignored(columns: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The columns that are read, and the names of those with the role ignore: nothing else of these counts.

    A column with the role ignore that an expression names is read.
    """
    written = [c["derive"] for c in columns.values() if isinstance(c, dict) and isinstance(c.get("derive"), str)]
    named = {name.lower() for text in written for name in parse_expression(text).names}
    ignored = tuple(
        name
        for name, c in columns.items()
        if isinstance(c, dict) and c.get("role") == "ignore" and "derive" not in c and name.lower() not in named
    )
    return {name: column for name, column in columns.items() if name not in ignored}, ignored


def salvage(kind: TypeAdapter[Any], data: Any) -> tuple[Any, set[Any], tuple[str, ...]]:
    """A part of a contract without those of its keys that are wrong: (part, those keys, contradictions in the rest).

    The part is None when it cannot do without them, or contradicts itself.
    """
    removed: set[Any] = set()
    while isinstance(data, dict):
        try:
            return kind.validate_python(data), removed, ()
        except ValidationError as error:
            contradiction = next((c for c in map(cause_of, error.errors()) if isinstance(c, ContradictionError)), None)
            if contradiction is not None:
                return None, removed, tuple(text for _, text in contradiction.faults)
            wrong = {part for e in error.errors() for part in e["loc"][:2] if part in data}
            if not wrong:
                break
            removed |= wrong
            data = {key: value for key, value in data.items() if key not in wrong}
    return None, removed, ()


def cause_of(error: Any) -> Any:
    """The exception behind one error of pydantic, if any."""
    return error.get("ctx", {}).get("error")


def salvaged_parts(data: Mapping[str, Any]) -> Parts:
    """The parts of a contract that is not valid as a whole."""

    def below(*keys: str) -> Any:
        value: Any = data
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def items(*keys: str) -> tuple[Any, ...]:
        value = below(*keys)
        return value if isinstance(value, tuple) else ()

    def each(kind: Any, *keys: str) -> list[tuple[int, Any]]:
        read = [(nr, salvage(kind, value)[0]) for nr, value in enumerate(items(*keys))]
        return [(nr, value) for nr, value in read if value is not None]

    recipes = [
        (nr, *salvage(TypeAdapter(HistoryRecipe), value)[:2])
        for nr, value in enumerate(items("features", "history"))
        if isinstance(value, dict)
    ]
    raw = data["columns"]
    read = without_ignored(raw)[0]
    return Parts(
        {name: salvage(TypeAdapter(Column), with_name(name, column))[0] for name, column in read.items()},
        {name: column.get("role") if isinstance(column, dict) else None for name, column in raw.items()},
        each(TypeAdapter(Rule), "rules"),
        items("features", "attributes"),
        items("features", "calendar"),
        [(nr, recipe) for nr, recipe, _ in recipes if recipe is not None],
        each(TypeAdapter(BatchRule), "batch", "rules"),
        items("promotion", "forbidden_features"),
        data.get("match"),
        below("features", "grain"),
        items("features", "days_since"),
        (below("features", "history_lag_days"), below("features", "history_lag_hours")),
        frozenset(nr for nr, _, removed in recipes if removed),  # an unknown key may be a misspelt one
    )


def hidden_contradictions(data: Any) -> Iterator[tuple[Place, str]]:
    """Contradictions that pydantic does not reach, because other keys of the same part are invalid."""
    columns = data.get("columns") if isinstance(data, dict) else None
    if not isinstance(columns, dict):
        return
    for name, column in without_ignored(columns)[0].items():
        twice, kept = _readable_levels(column)
        if twice:
            yield ("columns", name, "domain", "levels"), repeated_levels(twice)
        _, removed, texts = salvage(TypeAdapter(Column), with_name(name, kept))
        if not {nearest(str(key), Column.model_fields) or key for key in removed} & _TELLING:
            yield from ((("columns", name), text) for text in texts)
    yield from salvaged_parts(data).contradictions()


def _readable_levels(column: Any) -> tuple[list[str], Any]:
    """Repeated levels, and the column with each of its text levels once."""
    domain = column.get("domain") if isinstance(column, dict) else None
    if not isinstance(domain, dict) or not isinstance(levels := domain.get("levels"), tuple):
        return [], column
    counts = Counter(level for level in levels if isinstance(level, str))
    twice = sorted(level for level, times in counts.items() if times > 1)
    if len(counts) < 2:  # of what cannot be read, one may be the second class
        return twice, column
    return twice, {**column, "domain": {**domain, "levels": tuple(counts)}}
