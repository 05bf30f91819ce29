"""How a name is written where its characters are not allowed, and the names of the columns of a class."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import chain, count

MAX_ENCODED = 59
"""Characters of an encoded name: with a prefix such as ``s_p_`` it still is an identifier of Postgres."""
_PLAIN = re.compile(r"[A-Za-z0-9_.-]")
_LIKE_ENCODED = re.compile(r"x[0-9a-f]+_", re.IGNORECASE)


def encoded(name: str, limit: int = MAX_ENCODED) -> str:
    """Write a name with letters, digits, ``_``, ``-`` and ``.`` of ASCII alone; two names never become one.

    A plain name stays as it is. Another character becomes ``_x<code point>_`` in hexadecimal, and so does a ``_`` that
    would be read as the start of one. A result of more than `limit` characters is cut and ends in a hash of the name.

    >>> encoded("DIGITAL"), encoded("B & C"), encoded("é"), encoded("a_x26_b")
    ('DIGITAL', 'B_x20__x26__x20_C', '_xe9_', 'a_x5f_x26_b')
    """
    written = ""
    for character in reversed(name):  # from the end: whether a `_` starts an escape depends on what follows it
        if not _PLAIN.match(character) or (character == "_" and _LIKE_ENCODED.match(written)):
            character = f"_x{ord(character):x}_"
        written = character + written
    if len(written) <= limit:
        return written
    return f"{written[: limit - 19]}_h{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}_"


def class_labels(classes: Sequence[str]) -> dict[str, str]:
    """What names of columns are made of, by class: no two of them differ by case alone.

    It is the class itself, or with a number for one that differs from an earlier class of the list by case alone. So
    the label of a class depends on the classes before it and never on those after it.

    >>> class_labels(["Yes", "no", "yes", "YES"])
    {'Yes': 'Yes', 'no': 'no', 'yes': 'yes_2', 'YES': 'YES_3'}
    """
    labels: dict[str, str] = {}
    taken: set[str] = set()
    for level in classes:
        numbered = (f"{level}_{number}" for number in count(2))
        label = next(name for name in chain([level], numbered) if name.lower() not in taken)
        labels[level] = label
        taken.add(label.lower())
    return labels


def probability_columns(classes: Sequence[str]) -> dict[str, str]:
    """Names of the columns that hold the probabilities, by class.

    >>> probability_columns(["Yes", "no", "yes"])
    {'Yes': 'p_yes', 'no': 'p_no', 'yes': 'p_yes_2'}
    """
    return {level: f"p_{encoded(label.lower())}" for level, label in class_labels(classes).items()}
