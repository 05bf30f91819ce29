"""Read a contract's YAML file, and explain every fault with its line, its key and what to do.

YAML does not read some plain words as text: `NO` is false, `010` is eight, `12:30` is 750. Of a repeated key it keeps
the last one. Apex reports each of these as a fault. The models of the contract define the valid values; this module
reads the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from apex_ml.contract.part import Place
from apex_ml.contract.yaml_scalars import (
    ODD_NUMBER,
    TAG,
    TEXT_TAG,
    construct,
    line_of_node,
    quote_advice,
    read_as,
    short_tag,
)
from apex_ml.errors import ConfigError

VALUES_WITH_NAMES: Place = ("domain", "levels")
"""The end of the place of a mapping whose keys are values of a column: ``{0: kept, 1: cancelled}``."""


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
            tree = _composed(text)
        except yaml.YAMLError as error:
            raise ConfigError(_not_yaml(path, error)) from error
        except RecursionError:
            raise ConfigError(f"{path}: the YAML is nested too deeply to be read") from None
        file = cls(path, tree)
        file.data = None if tree is None else file._value(tree, (), ())
        return file

    def _value(self, node: yaml.Node, place: Place, above: tuple[int, ...]) -> Any:
        if id(node) in above:
            self.faults.append((line_of_node(node), place, "an alias that contains itself; write the values out"))
            return None
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, above)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._value(item, (*place, nr), above) for nr, item in enumerate(node.value))
        return self._scalar(node, place)

    def _scalar(self, node: yaml.Node, place: Place) -> Any:
        if node.tag in (TEXT_TAG, f"{TAG}value", f"{TAG}merge"):
            return node.value
        try:
            value = construct(node)
        except yaml.YAMLError:
            self.faults.append((line_of_node(node), place, f"the tag {short_tag(node)} is not known; remove it"))
            return node.value
        except ValueError as error:
            self.faults.append((line_of_node(node), place, f"{node.value} is no {short_tag(node).strip('!')}: {error}"))
            return node.value
        if (
            isinstance(node, yaml.ScalarNode)
            and not node.style
            and isinstance(value, int | float)
            and ODD_NUMBER.fullmatch(node.value)
        ):
            self.odd[place] = line_of_node(node), f"{node.value} is read by YAML as {read_as(node)}; write that number"
        return value

    def _mapping(self, node: yaml.MappingNode, place: Place, above: tuple[int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.faults.append((line_of_node(key), place, "a key that is a list or a mapping; write a name"))
                continue
            if key.tag == f"{TAG}merge":
                parts = self._value(value, place, above)
                for part in (parts,) if isinstance(parts, dict) else parts if isinstance(parts, tuple) else ():
                    merged = {**(part if isinstance(part, dict) else {}), **merged}
                continue
            name, line = str(key.value), line_of_node(key)
            if key.tag not in (TEXT_TAG, f"{TAG}value") and place[-2:] != VALUES_WITH_NAMES:
                self.faults.append((line, (*place, name), f"the key {quote_advice(key)}"))
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


def _composed(text: str) -> yaml.Node | None:
    """The tree of a text. libyaml is ten times faster; its messages are poorer, so that the reader in Python explains.

    Raises yaml.YAMLError and RecursionError.
    """
    fast = getattr(yaml, "CSafeLoader", None)
    if fast is not None:
        with contextlib.suppress(yaml.YAMLError):
            return yaml.compose(text, Loader=fast)
    return yaml.compose(text, Loader=yaml.SafeLoader)


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


def _along(node: yaml.Node | None, place: Sequence[int | str]) -> list[tuple[int, yaml.Node, int]]:
    """The nodes on the way to a place: (parts of the place walked, node, line)."""
    nodes: list[tuple[int, yaml.Node, int]] = []
    for nr, part in enumerate(place, 1):
        if isinstance(node, yaml.MappingNode):
            match = [(k, v) for k, v in node.value if k.value == part]
            if isinstance(part, int):  # of a mapping that is read as a list: values with names
                match = node.value[part : part + 1]
            if not match:
                continue  # a name of pydantic's own, such as the branch of a union
            nodes.append((nr, match[0][1], line_of_node(match[0][0])))
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            nodes.append((nr, node.value[part], line_of_node(node.value[part])))
        else:
            continue
        node = nodes[-1][1]
    return nodes
