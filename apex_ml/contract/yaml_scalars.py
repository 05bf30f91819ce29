"""What YAML makes of a plain word: `NO` is false, `010` is eight, `12:30` is 750."""

from __future__ import annotations

import re
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"
TEXT_TAG = f"{TAG}str"
ODD_NUMBER = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Numbers that YAML reads in base 8 or base 60."""


def construct(node: yaml.Node) -> Any:
    """The plain value that YAML makes of a node."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def line_of_node(node: yaml.Node) -> int:
    """Line of a node, from 1."""
    return int(node.start_mark.line) + 1


def short_tag(node: yaml.Node) -> str:
    """The tag of a node as YAML writes it: !!int."""
    return str(node.tag).replace(TAG, "!!")


def read_as(node: yaml.Node) -> str:
    """What YAML reads a node as, in words."""
    kind = str(node.tag).removeprefix(TAG)
    if kind == "null":
        return "nothing"
    try:
        value = construct(node)
    except (yaml.YAMLError, ValueError):
        return f"no {kind}"  # reported as a separate fault
    if kind == "bool":
        return str(value).lower()
    return f"the number {value}" if kind in ("int", "float") else f"the date {value}"


def quote_advice(node: yaml.Node) -> str:
    """The fault of a text that YAML reads as another type, and its remedy."""
    return f"{node.value or 'nothing'} is read by YAML as {read_as(node)}; quote it: '{node.value}'"
