"""The class prior: the same probabilities for every row. A useful model must beat it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from apex_ml.core.candidates.interface import Candidate, FitContext, Fitted, Part, Scorer
from apex_ml.core.evaluation import class_shares
from apex_ml.json_text import json_text


class _Constant:
    def __init__(self, shares: list[float]) -> None:
        self._shares = np.asarray(shares, np.float32)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The shares for every row."""
        return np.tile(self._shares, (len(x), 1))


class ClassPrior(Candidate):
    """Shares of the classes in training."""

    name = "prior"
    file = "prior.json"

    def fit(self, params: Mapping[str, Any], train: Part, validation: Part, context: FitContext) -> Fitted:
        """Count the classes."""
        shares = class_shares(train.y, len(context.classes))
        return Fitted(json_text(shares.tolist()).encode(), dict(params), {})

    def load(self, content: bytes) -> Scorer:
        """Read the shares."""
        return _Constant(json.loads(content))


CANDIDATE = ClassPrior()
