"""The trained champion and homes around it."""

from __future__ import annotations

from tests.support.champion_home import chain, nights, put_drop, scoring  # noqa: F401  (fixtures)
