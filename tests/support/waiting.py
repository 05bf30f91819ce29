"""Wait for what comes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(done: Callable[[], Any], seconds: float, what: str = "") -> Any:
    """Wait for something that is not nothing; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"not after {seconds:.0f} s{what and ': '}{what}"
        time.sleep(0.1)
    return found
