"""Replace single values in the text of a YAML file: everything else stays as it is, byte by byte."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

Options = Mapping[tuple[str, str], object]


def with_values(text: str, values: Options) -> str:
    """The text with other values of keys of sections, ``{("model", "trials"): 5}``.

    A value that is there is replaced where it stands. A new key is the first one of its section, and a new section the
    last one of the file. Comments, blank lines, indentation and the ends of lines stay.

    >>> print(with_values("model:\\n  # why\\n  trials: 0  # none\\n", {("model", "trials"): 5, ("shadow", "days"): 7}))
    model:
      # why
      trials: 5  # none
    <BLANKLINE>
    shadow:
      days: 7
    <BLANKLINE>
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    for (section, key), value in values.items():
        text = _with_value(text, section, key, value_text(value), newline)
    return text


def value_text(value: object) -> str:
    """A value as YAML on one line, quoted where YAML would read something else.

    >>> value_text(("a", "b")), value_text("on"), value_text("*/15 * * * *"), value_text(True)
    ('[a, b]', "'on'", "'*/15 * * * *'", 'true')
    """
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def _with_value(text: str, section: str, key: str, value: str, newline: str) -> str:
    tree = yaml.compose(text, Loader=yaml.SafeLoader)
    entry_of_section = _entry(tree, section)
    if entry_of_section is None:
        end = "" if text.endswith(("\n", "\r")) or not text else newline
        return f"{text}{end}{newline}{section}:{newline}  {key}: {value}{newline}"
    header, content = entry_of_section
    if isinstance(content, yaml.MappingNode):
        entry = _entry(content, key)
        if entry is not None:
            return _replaced(text, entry[1], value)
        first = content.value[0][0].start_mark if content.value else None
        if content.flow_style or first is None:
            start = content.start_mark.index + 1
            return f"{text[:start]}{key}: {value}{', ' if content.value else ''}{text[start:]}"
        indent = " " * first.column
    else:  # a section without keys
        indent = "  "
        if content.end_mark.index > content.start_mark.index:
            text = _replaced(text, content, "")
    line_end = text.find("\n", header.end_mark.index)
    if line_end < 0:
        return f"{text}{newline}{indent}{key}: {value}{newline}"
    return f"{text[: line_end + 1]}{indent}{key}: {value}{newline}{text[line_end + 1 :]}"


def _entry(node: yaml.Node | None, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    """The nodes of a key and of its value in a mapping."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next(((name, value) for name, value in node.value if name.value == key), None)


def _replaced(text: str, node: yaml.Node, value: str) -> str:
    """The text with a value in the place of a node. A list in lines ends with its last item, not with its comments."""
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        end = node.value[-1].end_mark.index
    space = " " if start == end and not text[:start].endswith(" ") else ""
    return text[:start] + space + value + text[end:]
