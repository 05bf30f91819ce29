"""Words of messages that people read: numbers with their nouns, the name that was probably meant, broken rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any

ALIKE = 0.75
"""Share of two names that must agree before one is suggested for the other."""

_KINDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of at most 4,300 digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "missing": "is missing",
}
"""What pydantic says in the words of a programmer, by the type of its error."""


def violated_rule(error: Mapping[str, Any]) -> str:
    """The rule that a value breaks, in our own words, from an error of pydantic.

    >>> violated_rule({"type": "int_parsing", "msg": "Input should be a valid integer, unable to parse string as …"})
    'must be a whole number'
    >>> violated_rule({"type": "less_than_equal", "msg": "Input should be less than or equal to 1"})
    'must be less than or equal to 1'
    """
    text = str(error["msg"]).removeprefix("Value error, ")
    return _KINDS.get(str(error["type"])) or text.replace("Input should ", "must ", 1)


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "value"), counted(1200, "value"), counted(0, "entry", "entries")
    ('1 value', '1,200 values', '0 entries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that was probably meant; None when none comes near. Case, blanks and `_` do not count.

    >>> nearest("lead_time", ["leadtime", "day"]), nearest("nulable", ["nullable"]), nearest("colour", ["type"])
    ('leadtime', 'nullable', None)
    """
    folded = _folded(name)
    rated = [(SequenceMatcher(None, folded, _folded(other)).ratio(), other) for other in names if other != name]
    best = max(rated, key=lambda r: r[0], default=(0.0, ""))
    return best[1] if best[0] >= ALIKE else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: a question when another name comes near, otherwise nothing.

    >>> did_you_mean("roll", ["role", "type"]), did_you_mean("x", ["role"])
    ('; did you mean role?', '')
    """
    suggestion = nearest(name, names)
    return f"; did you mean {suggestion}?" if suggestion else ""


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
