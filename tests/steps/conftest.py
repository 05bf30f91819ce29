"""The trained champion and homes around it."""

from __future__ import annotations

from champion_home import chain, nights, put_drop, scoring  # noqa: F401  (fixtures)
