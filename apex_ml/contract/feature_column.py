"""One input of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FeatureColumn:
    """One input of a model. Categorical columns are strings; `levels` is None when they are learned from data."""

    name: str
    kind: Literal["categorical", "numeric"]
    levels: tuple[str, ...] | None = None
