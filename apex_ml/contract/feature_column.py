"""One input of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Encoding = Literal["levels", "frequency"]


@dataclass(frozen=True)
class FeatureColumn:
    """One input of a model. Categorical columns are strings; `levels` is None when they are learned from data."""

    name: str
    kind: Literal["categorical", "numeric"]
    levels: tuple[str, ...] | None = None
    encoding: Encoding = "levels"
    """What a model sees of a categorical column: a code for each level, or the level's share of the training rows."""
    min_rows: int | None = None
    """Training rows that a learned level needs; None where the contract does not say."""
    shares: tuple[float, ...] = ()
    """Of the encoding frequency: the share of the training rows of each level."""

    @property
    def has_codes(self) -> bool:
        """Whether a model sees codes of levels rather than numbers."""
        return self.kind == "categorical" and self.encoding == "levels"

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON, without those that few columns have."""
        content: dict[str, Any] = {"name": self.name, "kind": self.kind, "levels": self.levels}
        if self.encoding != "levels":
            content |= {"encoding": self.encoding, "shares": self.shares}
        return content if self.min_rows is None else content | {"min_rows": self.min_rows}
