"""How examples are divided into training, validation and test."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from apex_ml.contract.part import ContractPart


class Split(ContractPart):
    """How examples are divided."""

    class Fractions(ContractPart):
        """Shares of the parts."""

        train: float = Field(gt=0, lt=1)
        validation: float = Field(gt=0, lt=1)
        test: float = Field(gt=0, lt=1)

        @model_validator(mode="after")
        def _whole(self) -> Self:
            if abs(self.train + self.validation + self.test - 1) > 1e-9:
                raise ValueError(f"fractions sum to {self.train + self.validation + self.test:g}, not 1")
            return self

    fractions: Fractions
    gap_days: int = Field(0, ge=0)
