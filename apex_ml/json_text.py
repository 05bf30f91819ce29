"""The one writer of JSON: for Postgres, MLflow, manifests, requests, answers and logs.

Python's own writes NaN and Infinity, which are no JSON: Postgres, browsers and other languages refuse them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def json_text(
    value: Any,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    separators: tuple[str, str] | None = None,
    default: Callable[[Any], Any] | None = None,
    ensure_ascii: bool = True,
) -> str:
    """Write a value as JSON; a number that is not finite becomes null.

    >>> json_text({"low": float("-inf"), "n": [1, float("nan")]})
    '{"low": null, "n": [1, null]}'
    """

    def write(content: Any) -> str:
        return json.dumps(
            content,
            indent=indent,
            sort_keys=sort_keys,
            separators=separators,
            default=default,
            ensure_ascii=ensure_ascii,
            allow_nan=False,
        )

    try:
        return write(value)
    except ValueError:  # a number is not finite, which is rare: only then the value is walked through
        return write(finite(value))


def json_file(value: Any, *, default: Callable[[Any], Any] | None = None) -> bytes:
    """Write a value as the content of a file that people read: indented, UTF-8, letters as they are.

    Half a character, as in a file name that is not UTF-8, stays an escape: no other bytes stand for it.

    >>> print(json_file({"región": "Ñuñoa"}).decode())
    {
     "región": "Ñuñoa"
    }
    """
    return json_text(value, indent=1, default=default, ensure_ascii=False).encode("utf-8", "backslashreplace")


def finite(value: Any) -> Any:
    """The same value with None in place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value
