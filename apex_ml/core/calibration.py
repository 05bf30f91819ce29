"""Calibrated probabilities: correct to the true prior, then apply no method, temperature or isotonic, the best one.

Temperature scaling: Guo et al., On Calibration of Modern Neural Networks, ICML 2017. Isotonic, one class against the
rest and renormalised: Zadrozny and Elkan, KDD 2002. Rows of `p` are probability vectors, shape (n, k); `y` are class
indexes, shape (n,).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from apex_ml.core.evaluation import row_losses
from apex_ml.core.share_shift import is_shifted, share_ratio
from apex_ml.core.uncertainty import bootstrap_rows, percentile_interval

Method = Literal["none", "temperature", "isotonic"]
METHODS: tuple[Method, ...] = ("none", "temperature", "isotonic")
FOLDS = 5
SMALLEST = 1e-6
"""Floor of an isotonic probability, which keeps the loss finite for a class without cases."""
MIN_ROWS_TO_SHARPEN, MIN_ROWS_OF_ISOTONIC = 50, 200
"""Rows from which probabilities can go nearer to 0 and 1: few rows are easily divided without an error."""
WORTH = 1e-4
"""Nats by which a method must beat a simpler one on held-out folds. Otherwise the simpler one wins."""


@dataclass(frozen=True)
class Calibration:
    """A map from a model's probabilities to calibrated ones. `knots` are (x, y) by class, for isotonic."""

    method: Method = "none"
    temperature: float = 1.0
    knots: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()
    prior_ratio: tuple[float, ...] = ()

    def apply(self, p: np.ndarray) -> np.ndarray:
        """Calibrate n rows; each row of the result sums to 1. float32 in, float32 out."""
        if self.method == "none" and not self.prior_ratio:
            return p
        q = p.astype(np.float64)
        if self.prior_ratio:
            q = _normalised(q * np.asarray(self.prior_ratio))
        if self.method == "temperature":
            q = _tempered(q, self.temperature)
        elif self.method == "isotonic":
            columns = [np.interp(q[:, k], x, y) for k, (x, y) in enumerate(self.knots)]
            q = _normalised(np.maximum(np.stack(columns, axis=1), SMALLEST))
        calibrated: np.ndarray = q.astype(p.dtype)
        return calibrated

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return {
            "method": self.method,
            "temperature": self.temperature,
            "knots": [[list(x), list(y)] for x, y in self.knots],
            "prior_ratio": list(self.prior_ratio),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibration:
        """Read the result of :meth:`as_dict`."""
        knots = tuple((tuple(x), tuple(y)) for x, y in values["knots"])
        return cls(values["method"], values["temperature"], knots, tuple(values["prior_ratio"]))


def _normalised(q: np.ndarray) -> np.ndarray:
    whole: np.ndarray = q / q.sum(axis=1, keepdims=True)
    return whole


def _tempered(q: np.ndarray, temperature: float) -> np.ndarray:
    logits = np.log(np.maximum(q, 1e-15)) / temperature
    return _normalised(np.exp(logits - logits.max(axis=1, keepdims=True)))


def fit(
    method: Method, p: np.ndarray, y: np.ndarray, prior_ratio: tuple[float, ...] = (), *, sharpens: bool = True
) -> Calibration:
    """Fit one method. `prior_ratio` is true prior over training prior by class, where training was weighted.

    A temperature that never `sharpens` is at least 1.
    """
    corrected = Calibration(prior_ratio=prior_ratio).apply(p.astype(np.float64))
    if method == "temperature":
        from scipy.optimize import minimize_scalar

        def loss(log_temperature: float) -> float:
            return float(row_losses(_tempered(corrected, float(np.exp(log_temperature))), y).mean())

        optimum = minimize_scalar(
            loss, bounds=(-2.0 if sharpens else 0.0, 2.0), method="bounded", options={"xatol": 1e-4}
        )
        return Calibration("temperature", float(np.exp(optimum.x)), (), prior_ratio)
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        knots = []
        for k in range(p.shape[1]):
            fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(corrected[:, k], y == k)
            knots.append((tuple(map(float, fitted.X_thresholds_)), tuple(map(float, fitted.y_thresholds_))))
        return Calibration("isotonic", 1.0, tuple(knots), prior_ratio)
    return Calibration("none", 1.0, (), prior_ratio)


def choose(
    p: np.ndarray,
    y: np.ndarray,
    *,
    seed: int,
    prior_ratio: tuple[float, ...] = (),
    shares_last: bool | None = None,
) -> tuple[Calibration, dict[str, float]]:
    """Choose the method by its log loss on held-out folds of the validation part, and fit it on all of it.

    It uses held-out folds because a flexible map always looks best on the rows that it was fitted on. `shares_last`
    says whether class shares that the model does not expect will last. Then they are a part of the calibration. If
    not, its temperature is fitted beside them and used without them. With None it is not known, and they are left to
    the method. Returns the calibration and the log loss of every method that was tried.
    """
    corrected = Calibration(prior_ratio=prior_ratio).apply(p.astype(np.float64))
    shifted = shares_last is not None and is_shifted(corrected, y)

    def fitted(method: Method, rows: np.ndarray) -> Calibration:
        ratio = prior_ratio
        if shifted:
            ratio = tuple((np.asarray(ratio or 1.0) * share_ratio(corrected[rows], y[rows])).tolist())
        return fit(method, p[rows], y[rows], ratio, sharpens=len(y) >= MIN_ROWS_TO_SHARPEN)

    folds = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    losses: dict[str, float] = {}
    only_temperature = len(y) < MIN_ROWS_OF_ISOTONIC or (shifted and not shares_last)
    for method in METHODS[:2] if only_temperature else METHODS:
        held_out = np.empty(len(y))
        for fold in range(FOLDS):
            inside = folds == fold
            if not inside.any() or inside.all():
                continue
            calibration = fitted(method, ~inside)
            held_out[inside] = row_losses(calibration.apply(p[inside].astype(np.float64)), y[inside])
        losses[method] = float(held_out.mean()) if len(y) >= FOLDS else float("inf")
    best: Method = "none"
    for method in METHODS[1:]:
        if method in losses and losses[method] < losses[best] - WORTH:
            best = method
    chosen = fitted(best, np.ones(len(y), bool))
    return chosen if shares_last else replace(chosen, prior_ratio=prior_ratio), losses


def reliability(p: np.ndarray, y: np.ndarray, bins: int = 15) -> list[list[tuple[float, float, int]]]:
    """For each class, equal-mass bins of its probability as (mean probability, observed share, rows)."""
    curves = []
    for k in range(p.shape[1]):
        ranking = np.argsort(p[:, k], kind="stable")
        parts = [part for part in np.array_split(ranking, bins) if len(part)]
        curves.append([(float(p[i, k].mean()), float((y[i] == k).mean()), len(i)) for i in parts])
    return curves


def expected_calibration_error(p: np.ndarray, y: np.ndarray, bins: int = 15) -> float:
    """Classwise expected calibration error with equal-mass bins: mean over classes of |share - probability|.

    Source: Kull et al., Beyond temperature scaling, NeurIPS 2019; equal-mass bins as in Nixon et al., 2019.
    """
    errors = []
    for parts in reliability(p, y, bins):
        total = sum(n for _, _, n in parts)
        errors.append(sum(n * abs(mean - share) for mean, share, n in parts) / max(total, 1))
    return float(np.mean(errors))


def calibration_error_interval(
    p: np.ndarray, y: np.ndarray, entities: np.ndarray, *, seed: int, repeats: int = 200, bins: int = 15
) -> tuple[float, float]:
    """95 % bootstrap interval of :func:`expected_calibration_error`, resampling whole entities (n,)."""
    errors = [expected_calibration_error(p[rows], y[rows], bins) for rows in bootstrap_rows(entities, seed, repeats)]
    return percentile_interval(np.asarray(errors))


def calibration_noise(p: np.ndarray, *, level: float, seed: int, repeats: int = 200, bins: int = 15) -> float:
    """Expected calibration error that chance alone exceeds with probability `level` if `p` is the truth.

    With few rows in a bin even a perfect model has an error. Source: consistency resampling, Bröcker and Smith,
    Weather and Forecasting 2007.
    """
    rng = np.random.default_rng(seed)
    n, k = p.shape
    bounds = np.array([len(part) for part in np.array_split(np.arange(n), bins) if len(part)]).cumsum()
    starts = np.concatenate([[0], bounds[:-1]])
    rankings = [np.argsort(p[:, i], kind="stable") for i in range(k)]
    expected = [np.add.reduceat(p[ranking, i].astype(np.float64), starts) for i, ranking in enumerate(rankings)]
    upto = p.astype(np.float64).cumsum(axis=1)
    values = []
    for _ in range(repeats):
        y = (rng.random((n, 1)) * upto[:, -1:] > upto[:, :-1]).sum(axis=1)
        gaps = [np.abs(np.add.reduceat(y[o] == i, starts, dtype=float) - expected[i]) for i, o in enumerate(rankings)]
        values.append(float(np.mean([gap.sum() / n for gap in gaps])))
    return float(np.quantile(values, 1 - level))
