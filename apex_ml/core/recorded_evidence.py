"""The evidence of a decision as the ledger has it. Light to import, unlike the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

FORMER_KEYS = {"holdout_rows": "holdout_orders", "seen_rows_dropped": "seen_orders_dropped"}
"""Keys that the first edition wrote under another name. The view model_history reads the former one."""


def under_both_names(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The evidence with each renamed measurement under its present and its former key.

    >>> under_both_names({"gain": 0.01, "holdout_orders": 300})
    {'gain': 0.01, 'holdout_orders': 300, 'holdout_rows': 300}
    """
    both = dict(evidence)
    for present, former in FORMER_KEYS.items():
        for key, other in ((present, former), (former, present)):
            if key in evidence:
                both.setdefault(other, evidence[key])
    return both


@dataclass(frozen=True)
class RecordedEvidence:
    """The JSON of an :class:`~apex_ml.core.promotion.evidence.Evidence`, of this version or another one.

    Its keys are passed on as they are: no key of another version is lost. A renamed one is there under both names.
    """

    measurements: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """The evidence in a JSON object."""
        return cls(under_both_names(content))

    def as_dict(self) -> dict[str, Any]:
        """The evidence as JSON-able values."""
        return dict(self.measurements)

    def with_decision(self, promotion_id: int) -> RecordedEvidence:
        """The same evidence with the decision for which the gate measured it.

        >>> RecordedEvidence({"gain": 0.01}).with_decision(7).as_dict()
        {'gain': 0.01, 'decided_in': 7}
        """
        return RecordedEvidence({**self.measurements, "decided_in": promotion_id})
