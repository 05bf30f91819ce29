"""The base of every part of a contract, and the error for contradictions."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

Place = tuple[int | str, ...]
"""Place of a part in a contract's file: its keys and its positions in lists."""


class ContractPart(BaseModel):
    """A part of a contract: frozen, without unknown keys and without conversion of values."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ContradictionError(ValueError):
    """Parts of a contract contradict each other. `faults` are (place below the current part, text)."""

    def __init__(self, faults: Sequence[tuple[Place, str]]) -> None:
        super().__init__("; ".join(text for _, text in faults))
        self.faults = tuple(faults)
