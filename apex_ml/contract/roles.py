"""The roles of columns."""

from __future__ import annotations

from typing import Literal

Role = Literal["entity", "timestamp", "target", "attribute", "measure", "key", "passthrough", "ignore"]
STORED_ROLES: tuple[Role, ...] = ("entity", "timestamp", "key", "passthrough")
"""Roles of the columns that stay beside the score of a row."""
ROLES_OF_A_DROP: tuple[Role, ...] = (*STORED_ROLES, "attribute")
"""Roles of the columns that are known when a row is scored."""
