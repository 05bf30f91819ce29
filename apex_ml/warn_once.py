"""A warning that many calls would repeat."""

from __future__ import annotations

import logging
from functools import cache


@cache
def warn_once(logger: logging.Logger, text: str) -> None:
    """Log a warning, once in this process."""
    logger.warning("%s", text)
