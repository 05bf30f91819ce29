"""Frozen dataclasses that are written as JSON and read back: results of steps and manifests."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import date, datetime
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from apex_ml.core.recorded_evidence import RecordedEvidence


@dataclass(frozen=True)
class JsonRecord:
    """A record whose fields are the keys of a JSON object.

    A field with the default None is left out of the JSON while it is None. Unknown keys, which another version may have
    written, are ignored on reading. FORMER holds the keys that an earlier version gave to fields, by their names.
    """

    FORMER: ClassVar[Mapping[str, str]] = {}

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-able values."""
        return {
            one.name: _write(value)
            for one in fields(self)
            if (value := getattr(self, one.name)) is not None or one.default is not None
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote. Raises ValueError when a key is missing or a value has another shape."""
        kinds = _kinds(cls)
        try:
            keys = {name: name if name in content else cls.FORMER.get(name, name) for name in kinds}
            return cls(**{name: _read(kinds[name], content[key]) for name, key in keys.items() if key in content})
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{cls.__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class OpenRecord(JsonRecord):
    """A record that is written as it was read, also with keys of another version, which its fields do not cover."""

    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The JSON object from which it was read; empty for a new record."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-able values."""
        known = super().to_json()
        del known["source"]
        return {**self.source, **known}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote, in this version or another one. Raises as in :class:`JsonRecord`."""
        record = super().from_json({name: value for name, value in content.items() if name != "source"})
        return replace(record, source=content)


def _kinds(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {one.name: hints[one.name] for one in fields(cls)}


def _write(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, RecordedEvidence):
        return _write(value.as_dict())
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
    if kind in (date, datetime):
        return kind.fromisoformat(value)
    if is_dataclass(kind) and isinstance(kind, type) and issubclass(kind, JsonRecord):
        return kind.from_json(value)
    if kind is RecordedEvidence:
        return RecordedEvidence.read(value)
    if origin is tuple:
        return tuple(_read(arguments[0], inner) for inner in value)
    if origin in (dict, Mapping):
        return {key: _read(arguments[1], inner) for key, inner in value.items()}
    return value
