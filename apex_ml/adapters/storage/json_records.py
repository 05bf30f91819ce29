"""Parse JSON lines: one object a line, numbers as the text that the file has, and the lines that are none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from apex_ml.adapters.storage.text_rows import BAD_TEXT, MAX_KEPT, BadLine
from apex_ml.json_text import json_text

MAX_LINE = 16 << 20
"""Bytes of a line; a longer one is not parsed."""
NO_JSON = "json: not JSON"
NO_OBJECT = "json: not an object"
TWICE = "json: a key twice in one object"
NOT_FINITE = "json: NaN and Infinity are no numbers of JSON"
HALF_PAIR = "json: half of a surrogate pair"
TOO_DEEP = "json: nested too deeply"
TOO_LONG = f"json: longer than {MAX_LINE >> 20} MiB"
NESTED = "type: a list or an object, not a single value"
Column = list[str | None]


class Whole(str):
    """The text of a whole number."""

    __slots__ = ()


class Real(str):
    """The text of another number."""

    __slots__ = ()


class _BadJsonError(ValueError):
    """The rule that a text breaks."""


@dataclass
class JsonRows:
    """Rows as columns of text, with the line of each, and the bad lines among them."""

    columns: dict[str, Column] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    kinds: dict[str, set[type]] = field(default_factory=dict)
    """The types of the values of each column: bool, str, Whole, Real, list, dict."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _BadJsonError(TWICE)
    return value


def _no_constant(name: str) -> None:
    raise _BadJsonError(NOT_FINITE)


def _decoder(whole: type[str], real: type[str]) -> Callable[[str], Any]:
    return json.JSONDecoder(
        object_pairs_hook=_object, parse_int=whole, parse_float=real, parse_constant=_no_constant
    ).decode


class JsonReader:
    """Parses text that arrives in parts.

    `single` returns the column of the contract that a key is, which must have a single value: a row with a list or an
    object there is bad. In other columns these are the text of their JSON. With `with_kinds` the types of values are
    collected.
    """

    def __init__(self, single: Callable[[str], str | None], *, with_kinds: bool = False) -> None:
        self._single, self._with_kinds = single, with_kinds
        self._decode = _decoder(Whole, Real) if with_kinds else _decoder(str, str)
        self._line, self._rest = 1, b""
        self._skips = False
        """Whether the text goes on within a line that is too long."""

    def feed(self, part: bytes, *, last: bool = False) -> JsonRows:
        """The rows that are complete now. With `last` no text follows."""
        text = self._rest + part
        end = len(text) if last else text.rfind(b"\n") + 1
        self._rest = text[end:]
        rows = JsonRows()
        objects: list[dict[str, Any]] = []
        texts: list[bytes] = []
        ended = text[:end].split(b"\n")
        if not last or not ended[-1]:
            ended.pop()
        for line in ended:
            if self._skips:
                self._skips = False
            elif stripped := line.strip(b" \t\r"):
                value = self._parse(stripped)
                if isinstance(value, str):
                    rows.bad.append(BadLine(self._line, value, stripped[:MAX_KEPT]))
                else:
                    objects.append(value)
                    texts.append(stripped)
                    rows.lines.append(self._line)
            self._line += 1
        if len(self._rest) > MAX_LINE:
            if not self._skips:
                rows.bad.append(BadLine(self._line, TOO_LONG, self._rest[:MAX_KEPT]))
            self._rest, self._skips = b"", True
        self._fill(rows, objects, texts)
        return rows

    def _parse(self, line: bytes) -> dict[str, Any] | str:
        """The object of a line, or the rule that it breaks."""
        if len(line) > MAX_LINE:
            return TOO_LONG
        try:
            value = self._decode(line.decode())
            if type(value) is not dict:
                return NO_OBJECT
            if b"\\u" in line:
                for key, inner in value.items():
                    key.encode()
                    inner.encode() if isinstance(inner, str) else None
        except UnicodeDecodeError:
            return BAD_TEXT
        except UnicodeEncodeError:
            return HALF_PAIR
        except RecursionError:
            return TOO_DEEP
        except json.JSONDecodeError:
            return NO_JSON
        except _BadJsonError as error:
            return str(error)
        return value

    def _fill(self, rows: JsonRows, objects: Sequence[dict[str, Any]], texts: Sequence[bytes]) -> None:
        columns = _columns(objects)
        nested: dict[int, list[tuple[str, str]]] = {}
        for name, values in columns.items():
            kinds = set(map(type, values)) - {type(None)}
            if self._with_kinds:
                rows.kinds[name] = kinds
            if not kinds & {bool, dict, list}:
                continue
            matched = self._single(name)
            for place, value in enumerate(values):
                if isinstance(value, bool):
                    values[place] = "true" if value else "false"
                elif isinstance(value, dict | list):
                    values[place] = _written(texts[place], name, value)
                    if matched is not None:
                        nested.setdefault(place, []).append((matched, values[place]))
        for place, bad in nested.items():
            rows.bad.append(BadLine(rows.lines[place], NESTED, texts[place][:MAX_KEPT], tuple(bad)))
        if nested:
            rows.bad.sort(key=lambda bad_line: bad_line.line)
            rows.lines = [line for place, line in enumerate(rows.lines) if place not in nested]
            columns = {
                name: [value for place, value in enumerate(values) if place not in nested]
                for name, values in columns.items()
            }
        rows.columns = columns


def _columns(objects: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The values by key; a key that an object does not have is null."""
    if not objects:
        return {}
    names = tuple(objects[0])
    if all(tuple(one) == names for one in objects):
        columns = zip(*map(dict.values, objects), strict=True)
        return {name: list(values) for name, values in zip(names, columns, strict=True)}
    union = dict.fromkeys(name for one in objects for name in one)
    return {name: [one.get(name) for one in objects] for name in union}


def _written(line: bytes, name: str, value: Any) -> str:
    """A list or an object as JSON, with its numbers as numbers where Python can hold them."""
    with suppress(ValueError):  # a whole number of too many digits
        value = json.loads(line)[name]
    return json_text(value)
