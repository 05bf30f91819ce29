"""Read a contract's YAML file, and explain every fault with its line, its key and what to do.

YAML does not read some plain words as text: `NO` is false, `010` is eight, `12:30` is 750. Of a repeated key it keeps
the last one. Apex reports each of these as a fault. The models of the contract define the valid values; this module
reads the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from apex_ml.contract.part import Place
from apex_ml.errors import ConfigError
from apex_ml.wording import counted, did_you_mean, violated_rule

_TAG = "tag:yaml.org,2002:"
_TEXT = f"{_TAG}str"
_BRANCH = re.compile(r"(float|int|date|str|literal\[.*|tuple\[.*|function-.*)")
"""Pydantic's names for the branches of a union, which are not part of a place in the file."""
_ODD_NUMBER = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Numbers that YAML reads in base 8 or base 60."""
_NOUNS = {"levels": "the level ", "map": "the value ", "allowed": "the value "}
_LONGEST = 80


@dataclass
class ContractFile:
    """A YAML file: its content as plain values with tuples for lists, and the faults of its YAML.

    `faults` hold (line, place, text). `odd` are numbers that are faults only where a number is allowed.
    """

    path: Path
    tree: yaml.Node | None
    data: Any = None
    faults: list[tuple[int, Place, str]] = field(default_factory=list)
    odd: dict[Place, tuple[int, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, content: bytes) -> ContractFile:
        """Parse the content of a file.

        Raises :class:`~apex_ml.errors.ConfigError` with file and line for a file that is not YAML in UTF-8.
        """
        text = _decoded(path, content)
        try:
            tree = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise ConfigError(_not_yaml(path, error)) from error
        except RecursionError:
            raise ConfigError(f"{path}: the YAML is nested too deeply to be read") from None
        file = cls(path, tree)
        file.data = None if tree is None else file._value(tree, (), ())
        return file

    def _value(self, node: yaml.Node, place: Place, above: tuple[int, ...]) -> Any:
        if id(node) in above:
            self.faults.append((_line(node), place, "an alias that contains itself; write the values out"))
            return None
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, above)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._value(item, (*place, nr), above) for nr, item in enumerate(node.value))
        return self._scalar(node, place)

    def _scalar(self, node: yaml.Node, place: Place) -> Any:
        if node.tag in (_TEXT, f"{_TAG}value", f"{_TAG}merge"):
            return node.value
        try:
            value = _constructed(node)
        except yaml.YAMLError:
            self.faults.append((_line(node), place, f"the tag {_short_tag(node)} is not known; remove it"))
            return node.value
        except ValueError as error:
            self.faults.append((_line(node), place, f"{node.value} is no {_short_tag(node).strip('!')}: {error}"))
            return node.value
        if (
            isinstance(node, yaml.ScalarNode)
            and node.style is None
            and isinstance(value, int | float)
            and _ODD_NUMBER.fullmatch(node.value)
        ):
            self.odd[place] = _line(node), f"{node.value} is read by YAML as {_read_as(node)}; write that number"
        return value

    def _mapping(self, node: yaml.MappingNode, place: Place, above: tuple[int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.faults.append((_line(key), place, "a key that is a list or a mapping; write a name"))
                continue
            if key.tag == f"{_TAG}merge":
                parts = self._value(value, place, above)
                for part in (parts,) if isinstance(parts, dict) else parts if isinstance(parts, tuple) else ():
                    merged = {**(part if isinstance(part, dict) else {}), **merged}
                continue
            name, line = str(key.value), _line(key)
            if key.tag not in (_TEXT, f"{_TAG}value"):
                self.faults.append((line, (*place, name), f"the key {_trap(key)}"))
            if name in values:
                text = f"the key {name} occurs twice, first on line {lines[name]}; YAML would keep the last: remove one"
                self.faults.append((line, (*place, name), text))
                self._value(value, (*place, name), above)
                continue
            lines[name] = line
            values[name] = self._value(value, (*place, name), above)
        return {**merged, **values}

    def node_at(self, place: Sequence[int | str]) -> yaml.Node | None:
        """The node at exactly this place, without branches of unions."""
        nodes = _along(self.tree, place)
        return nodes[-1][1] if nodes and nodes[-1][0] == len(place) else None

    def line_of(self, place: Sequence[int | str]) -> int | None:
        """Line (from 1) of the deepest key of a place that is in the file."""
        return next((line for _, _, line in reversed(_along(self.tree, place))), None)

    def refuse(self, faults: Sequence[tuple[Place, str]]) -> ConfigError:
        """The error with every fault, in the order of lines: those of the file, and `faults` by their places."""
        placed = [(self.line_of(place) or 0, place, text) for place, text in faults]
        reported = {place for place, _ in faults}
        odd = [(line, place, text) for place, (line, text) in self.odd.items() if place not in reported]
        lines = []
        for line, place, text in dict.fromkeys(sorted([*self.faults, *placed, *odd], key=lambda f: f[0])):
            where = f"{self.path}:{line}" if line else str(self.path)
            lines.append(f"{where}: {'.'.join(map(str, place)) or 'contract'}: {text}")
        return ConfigError("the contract contradicts itself:\n  " + "\n  ".join(lines))


def _decoded(path: Path, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:4]:
        raise ConfigError(f"{path}: the file is in UTF-16 or UTF-32; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line}: the byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def _not_yaml(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if "'\\t'" in problem:
        return f"{where}: not YAML: there is a tab; YAML indents with blanks only"
    context = getattr(error, "context", None)
    return f"{where}: not YAML: {f'{context}: ' if context else ''}{problem}"


def _constructed(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _short_tag(node: yaml.Node) -> str:
    return str(node.tag).replace(_TAG, "!!")


def _read_as(node: yaml.Node) -> str:
    kind = str(node.tag).removeprefix(_TAG)
    if kind == "null":
        return "nothing"
    try:
        value = _constructed(node)
    except (yaml.YAMLError, ValueError):
        return f"no {kind}"  # reported as a separate fault
    if kind == "bool":
        return str(value).lower()
    return f"the number {value}" if kind in ("int", "float") else f"the date {value}"


def _trap(node: yaml.Node) -> str:
    return f"{node.value or 'nothing'} is read by YAML as {_read_as(node)}; quote it: '{node.value}'"


def _along(node: yaml.Node | None, place: Sequence[int | str]) -> list[tuple[int, yaml.Node, int]]:
    """The nodes on the way to a place: (parts of the place walked, node, line)."""
    nodes: list[tuple[int, yaml.Node, int]] = []
    for nr, part in enumerate(place, 1):
        if isinstance(node, yaml.MappingNode):
            match = [(k, v) for k, v in node.value if k.value == str(part)]
            if not match:
                continue  # a name of pydantic's own, such as the branch of a union
            nodes.append((nr, match[0][1], _line(match[0][0])))
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            nodes.append((nr, node.value[part], _line(node.value[part])))
        else:
            continue
        node = nodes[-1][1]
    return nodes


def explained(file: ContractFile, errors: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> list[Any]:
    """Every fault of pydantic as (place, text): the rule, the value, what to do."""
    by_place: dict[Place, list[str]] = {}
    for error in errors:
        if error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]:
            continue  # each of its items has its own error
        place: Place = tuple(error["loc"])
        while place and isinstance(place[-1], str) and _BRANCH.fullmatch(place[-1]):
            place = place[:-1]
        texts = by_place.setdefault(place, [])
        texts += [text for text in [_explained(file, place, error, schema)] if text not in texts]
    return [(place, _joined(texts)) for place, texts in by_place.items()]


def _joined(texts: list[str]) -> str:
    """The messages of a union's branches about one value, as one sentence."""
    if any(" is read by YAML as " in text for text in texts):
        return next(text for text in texts if " is read by YAML as " in text)
    ends = {text.partition("; ")[2] for text in texts}
    if len(texts) > 1 and len(ends) == 1:
        starts = [text.partition("; ")[0].removeprefix("must be ") for text in texts]
        return f"must be {' or '.join(starts)}; {ends.pop()}"
    return " or ".join(texts)


def _explained(file: ContractFile, place: Place, error: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    kind, text = str(error["type"]), violated_rule(error)
    if kind == "extra_forbidden":
        keys = _keys_at(schema, place[:-1])
        return f"not permitted: no such key here; the keys are {', '.join(keys)}{did_you_mean(str(place[-1]), keys)}"
    if kind == "missing":
        return f"{text}: add this key"
    if kind == "union_tag_not_found":
        return f"the key {error['ctx']['discriminator']} is missing: it says what kind this is"
    node = file.node_at(place)
    if kind == "string_type" and isinstance(node, yaml.ScalarNode) and node.style is None and node.tag != _TEXT:
        if not node.value:
            return f"{text}; the value is empty: write a text, or remove the key"
        noun = next((_NOUNS[part] for part in place if part in _NOUNS), "")
        return f"{text}: {noun}{_trap(node)}"
    if kind == "too_short":
        text = f"must have at least {counted(error['ctx']['min_length'], 'item')}"
    elif kind == "tuple_type":
        text = "must be a list, as [a, b]"
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        text = "must be keys with values"
    elif kind == "bool_type":
        text = f"{text}, without quotes"
    if kind == "value_error":
        return text
    if kind in ("float_type", "int_type") and isinstance(node, yaml.ScalarNode) and _is_number(node.value):
        suggestion = repr(float(node.value)) if node.style is None else "it without quotes"
        return f"{text}; {node.value!r} is read by YAML as text: write {suggestion}"
    about = error.get("ctx", {})
    expected = re.findall(r"'([^']*)'", str(about.get("expected") or about.get("expected_tags") or error["msg"]))
    value = about.get("tag") or error.get("input")
    if kind == "normalise_step" and isinstance(value, dict):
        value = next(iter(value), None)
    hint = did_you_mean(value, expected) if isinstance(value, str) else ""
    return f"{text}; found {_shown(node, error.get('input'))}{hint}"


def _is_number(text: str) -> bool:
    try:
        return bool(float(text) or True)
    except ValueError:
        return False


def _shown(node: yaml.Node | None, value: Any) -> str:
    """A value as the file writes it, or as YAML read it."""
    text = repr(value)
    if isinstance(node, yaml.ScalarNode):
        text = node.value or "nothing"
        if (
            node.tag != _TEXT
            and node.style is None
            and node.value
            and _read_as(node) not in (text, f"the number {text}")
        ):
            text += f", read by YAML as {_read_as(node)}"
        elif node.tag == _TEXT:
            text = repr(node.value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _keys_at(schema: Mapping[str, Any], place: Place) -> list[str]:
    """The keys that the JSON schema of contracts allows at a place."""

    def resolved(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if "$ref" in part:
            part = schema["$defs"][part["$ref"].rpartition("/")[2]]
        branches = [*part.get("anyOf", ()), *part.get("oneOf", ())]
        for branch in branches:
            yield from resolved(branch)
        if not branches:
            yield part

    def tagged(part: Mapping[str, Any], tag: int | str) -> Iterator[Mapping[str, Any]]:
        """The branch of a union, which pydantic names by the value of the key rule or recipe."""
        for properties in [part.get("properties", {})]:
            if any(properties.get(key, {}).get("const") == tag for key in ("rule", "recipe")):
                yield part

    parts = list(resolved(schema))
    for name in place:
        below: list[Mapping[str, Any]] = []
        for part in parts:
            if name in part.get("properties", {}):
                below += resolved(part["properties"][name])
            elif isinstance(part.get("additionalProperties"), dict):
                below += resolved(part["additionalProperties"])
            elif isinstance(name, int) and isinstance(part.get("items"), dict):
                below += resolved(part["items"])
        parts = below or [p for part in parts for p in tagged(part, name)] or parts
    return sorted(
        {key for part in parts for key in part.get("properties", {}) if key != "name" or place[:1] != ("columns",)}
    )
