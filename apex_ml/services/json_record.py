"""Frozen dataclasses that are written as JSON and read back: results of steps and manifests."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date
from typing import Any, Self, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class JsonRecord:
    """A record whose fields are the keys of a JSON object.

    A field with the default None is left out of the JSON while it is None. Unknown keys, which another version may have
    written, are ignored on reading.
    """

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-able values."""
        return {
            field.name: _write(value)
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None or field.default is not None
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote. Raises ValueError when a key is missing or a value has another shape."""
        kinds = _kinds(cls)
        try:
            return cls(**{name: _read(kinds[name], content[name]) for name in kinds if name in content})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{cls.__name__}: {error}") from error


def _kinds(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _write(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: _write(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_write(inner) for inner in value]
    return value


def _read(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read(next(k for k in arguments if k is not types.NoneType), value)
    if kind is date:
        return date.fromisoformat(value)
    if is_dataclass(kind) and isinstance(kind, type) and issubclass(kind, JsonRecord):
        return kind.from_json(value)
    if origin is tuple:
        return tuple(_read(arguments[0], inner) for inner in value)
    if origin in (dict, Mapping):
        return {key: _read(arguments[1], inner) for key, inner in value.items()}
    return value
