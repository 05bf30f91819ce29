"""Wait for something that happens on its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(
    condition: Callable[[], Any],
    seconds: float,
    what: str = "",
    *,
    pause: float = 0.1,
    explain: Callable[[], str] | None = None,
) -> Any:
    """Poll a condition until it returns a true value, and return that value.

    Raises AssertionError after `seconds`, with `what` was expected and what `explain` reports of the state by then.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() >= deadline:
            message = f"not after {seconds:.0f} s{what and ': '}{what}"
            raise AssertionError(f"{message}\n{explain()}" if explain else message)
        time.sleep(pause)
    return value
