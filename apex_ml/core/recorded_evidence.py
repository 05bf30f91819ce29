"""The evidence of a decision as the ledger has it. Light to import, unlike the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RecordedEvidence:
    """The JSON of an :class:`~apex_ml.core.promotion.evidence.Evidence`, of this version or another one.

    Its keys are passed on as they are: no key of another version is lost.
    """

    measurements: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The evidence as JSON-able values."""
        return dict(self.measurements)

    def with_decision(self, promotion_id: int) -> RecordedEvidence:
        """The same evidence with the decision for which the gate measured it.

        >>> RecordedEvidence({"gain": 0.01}).with_decision(7).as_dict()
        {'gain': 0.01, 'decided_in': 7}
        """
        return RecordedEvidence({**self.measurements, "decided_in": promotion_id})
