"""Words of messages that people read: numbers with their nouns, and the name that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

ALIKE = 0.75
"""Share of two names that must agree before one is suggested for the other."""


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
    found = nearest(name, names)
    return f"; did you mean {found}?" if found else ""


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
