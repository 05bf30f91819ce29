"""The base of every part of a contract, and the error of parts that disagree."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

Place = tuple[int | str, ...]
"""Where a part stands in a contract's file: its keys and places in lists."""


class ContractPart(BaseModel):
    """A part of a contract: frozen, with no key beyond its own and no value that has to be converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ContradictionError(ValueError):
    """Parts of a contract disagree. `faults` are (place below the part that was read, text)."""

    def __init__(self, faults: Sequence[tuple[Place, str]]) -> None:
        super().__init__("; ".join(text for _, text in faults))
        self.faults = tuple(faults)
