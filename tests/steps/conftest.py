"""The trained champion and homes around it."""

from __future__ import annotations

from tests.support.home_with_champion import chain, nights, put_drop, scoring  # noqa: F401  (fixtures)
