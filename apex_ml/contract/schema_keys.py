"""The keys that the JSON schema of contracts allows at a place, for advice about a misspelled key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apex_ml.contract.part import Place

Schema = Mapping[str, Any]


def keys_at(schema: Schema, place: Place) -> list[str]:
    """The keys that the schema allows at a place, sorted."""
    parts = list(_branches(schema, schema))
    for name in place:
        below = [branch for part in parts for branch in _below(schema, part, name)]
        parts = below or [part for part in parts if _is_tagged(part, name)] or parts
    return sorted(
        {key for part in parts for key in part.get("properties", {}) if key != "name" or place[:1] != ("columns",)}
    )


def _branches(schema: Schema, part: Schema) -> Iterator[Schema]:
    """A part with its reference resolved, or each branch of a union."""
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    branches = [*part.get("anyOf", ()), *part.get("oneOf", ())]
    for branch in branches:
        yield from _branches(schema, branch)
    if not branches:
        yield part


def _below(schema: Schema, part: Schema, name: int | str) -> Iterator[Schema]:
    """What the schema allows under a key or at an index of a part."""
    if name in part.get("properties", {}):
        yield from _branches(schema, part["properties"][name])
    elif isinstance(part.get("additionalProperties"), dict):
        yield from _branches(schema, part["additionalProperties"])
    elif isinstance(name, int) and isinstance(part.get("items"), dict):
        yield from _branches(schema, part["items"])


def _is_tagged(part: Schema, tag: int | str) -> bool:
    """Whether a part is the branch of a union that pydantic names by the value of its key rule or recipe."""
    properties = part.get("properties", {})
    return any(properties.get(key, {}).get("const") == tag for key in ("rule", "recipe"))
