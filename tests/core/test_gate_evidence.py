"""The JSON of the gate's evidence, as the ledger, MLflow and the manifests keep it: keys, their order, and values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apex_ml.contract.policy import Promotion
from apex_ml.core.evaluation import row_losses
from apex_ml.core.promotion import Contender, Holdout, PromotionDecision, Serving, decide

KNOWN = Path(__file__).with_name("gate_evidence.json")
CLASSES = ("DIGITAL", "TELEFONO", "VENDEDOR")
TRUE = np.array([[0.35, 0.25, 0.40], [0.55, 0.15, 0.30], [0.75, 0.05, 0.20]])
SHARES = np.array([0.5, 0.35, 0.15])
N = 4_000
SERVING = Serving(CLASSES, ("ripeness",))


def _scene() -> tuple[np.ndarray, Holdout]:
    random = np.random.default_rng(5)
    truth = TRUE[random.choice(3, N, p=SHARES)]
    y = (random.random((N, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    country = np.where(random.random(N) < 0.5, "PE", "GT")
    return truth, Holdout(y, SHARES @ TRUE, random.integers(0, N // 2, N), np.arange(N), {"country": country})


TRUTH, HOLDOUT = _scene()


def _powered(power: float) -> np.ndarray:
    p = TRUTH**power
    return p / p.sum(axis=1, keepdims=True)


def _model(p: np.ndarray, **about: Any) -> Contender:
    return Contender(p, CLASSES, ("ripeness",), **about)


def _gate(
    challenger: Contender, champion: Contender | None, holdout: Holdout = HOLDOUT, **policy: Any
) -> PromotionDecision:
    return decide(challenger, champion, holdout, Promotion(margin=0.001, **policy), SERVING, looks=2, seed=3)


CASES: dict[str, Callable[[], PromotionDecision]] = {
    "no champion, with floor and optimum": lambda: _gate(
        _model(TRUTH), None, replace(HOLDOUT, optimum=row_losses(TRUTH, HOLDOUT.y)), floor=0.9
    ),
    "better": lambda: _gate(_model(TRUTH, tuned_until=9), _model(_powered(0.3), tuned_until=49)),
    "equal, single looks": lambda: _gate(_model(TRUTH), _model(TRUTH), mode="single"),
    "overconfident": lambda: _gate(_model(_powered(3)), _model(TRUTH)),
    "an old champion": lambda: _gate(
        _model(TRUTH, as_of=1000), _model(_powered(0.97), as_of=900), stale_after_days=90, non_inferiority=0.01
    ),
    "a champion without probabilities": lambda: _gate(_model(TRUTH), _model(TRUTH * np.nan)),
    "no orders": lambda: _gate(_model(TRUTH, tuned_until=N), _model(TRUTH)),
}


@pytest.mark.parametrize("case", CASES)
def test_evidence_is_written_as_it_always_was(case: str) -> None:
    written = json.loads(json.dumps(CASES[case]().evidence.as_dict(), allow_nan=False))
    known = json.loads(KNOWN.read_text(encoding="utf-8"))[case]
    assert json.dumps(_rounded(written)) == json.dumps(_rounded(known))


def _rounded(value: Any) -> Any:
    """The same value with ten digits of every number: the last bits may differ between processors."""
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
