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


def finite(value: Any) -> Any:
    """The same value with None in place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value
