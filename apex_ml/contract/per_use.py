"""Values of a contract that may differ by use: training, scoring."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from apex_ml.contract.part import ContractPart

Use = Literal["train", "score"]
Severity = Literal["error", "warning"]

USES: tuple[Use, ...] = ("train", "score")


def _per_use(value: Any) -> Any:
    return value if isinstance(value, dict) else {"train": value, "score": value}


class _BoolPerUse(ContractPart):
    train: bool
    score: bool

    def on(self, use: Use) -> bool:
        """Return the value for one use."""
        return bool(getattr(self, use))


class _SeverityPerUse(ContractPart):
    train: Severity
    score: Severity

    def on(self, use: Use) -> Severity:
        """Return the value for one use."""
        value: Severity = getattr(self, use)
        return value


class _FloatPerUse(ContractPart):
    train: float = Field(ge=0, le=1)
    score: float = Field(ge=0, le=1)

    def on(self, use: Use) -> float:
        """Return the value for one use."""
        return float(getattr(self, use))


BoolPerUse = Annotated[_BoolPerUse, BeforeValidator(_per_use, json_schema_input_type=_BoolPerUse | bool)]
SeverityPerUse = Annotated[
    _SeverityPerUse, BeforeValidator(_per_use, json_schema_input_type=_SeverityPerUse | Severity)
]
FloatPerUse = Annotated[_FloatPerUse, BeforeValidator(_per_use, json_schema_input_type=_FloatPerUse | float)]
ALWAYS = _BoolPerUse(train=True, score=True)
NEVER = _BoolPerUse(train=False, score=False)
BOTH_ERROR = _SeverityPerUse(train="error", score="error")
