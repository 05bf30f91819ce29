"""Gates that do not depend on the champion: servable, better than the class prior, without leak, calibrated."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from apex_ml.contract.policy import Promotion
from apex_ml.core.calibration import calibration_noise, expected_calibration_error
from apex_ml.core.evaluation import class_shares, prior_losses, row_losses
from apex_ml.core.promotion.contenders import Contender, Holdout, Serving
from apex_ml.core.promotion.evidence import AbsoluteEvidence, CalibrationEvidence, ClassShare, PriorEvidence
from apex_ml.core.uncertainty import Clusters
from apex_ml.wording import counted

SUM_TOLERANCE = 1e-3


def probability_fault(p: np.ndarray, classes: int) -> str:
    """Why `p`, (n, k), are not probabilities of this number of classes; empty when they are."""
    if p.ndim != 2 or p.shape[1] != classes:
        return f"probabilities of {p.shape[-1]} classes, but the contract has {classes} classes"
    if not np.isfinite(p).all():
        return f"probabilities that are not numbers, for {counted(int((~np.isfinite(p)).any(axis=1).sum()), 'row')}"
    wrong = (p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > SUM_TOLERANCE)
    return f"probabilities that do not add up to 1, for {counted(int(wrong.sum()), 'row')}" if wrong.any() else ""


def serving_faults(challenger: Contender, policy: Promotion, serving: Serving) -> list[str]:
    """Reasons that do not depend on the quality of the model."""
    against = []
    if not challenger.promotable:
        against.append("the run's split is not temporal: reported, never promoted")
    if challenger.classes != serving.classes:
        against.append(
            f"its classes {', '.join(challenger.classes)} are not those of tables and API: {', '.join(serving.classes)}"
        )
    if forbidden := sorted(set(challenger.features) & set(policy.forbidden_features)):
        against.append(f"it uses forbidden features: {', '.join(forbidden)}")
    if unknown := sorted(set(challenger.features) - set(serving.features)):
        against.append(f"it needs features that scoring does not have: {', '.join(unknown)}")
    if challenger.us_per_row is not None and challenger.us_per_row > policy.max_us_per_row:
        against.append(
            f"it takes {challenger.us_per_row:.0f} µs a row, more than the budget of {policy.max_us_per_row:g}"
        )
    return against


def absolute_gates(
    p: np.ndarray, losses: np.ndarray, holdout: Holdout, policy: Promotion, serving: Serving, seed: int
) -> tuple[list[str], AbsoluteEvidence]:
    """Reasons against a model, independent of the champion, and the evidence; `p` are its probabilities, (n, k)."""
    against, prior = _prior_faults(losses, holdout, policy)
    floor_faults, floor = _floor_faults(losses, p.shape[1], holdout, policy)
    optimum_faults, excess = _optimum_faults(losses, holdout, policy)
    calibration_faults, calibration = _calibration_faults(p, holdout, policy, seed)
    against += floor_faults + optimum_faults + calibration_faults
    against += _swapped_classes(p, losses, holdout, policy, serving)
    biased, classes = _biased_classes(p, holdout, policy, serving)
    return against + biased, AbsoluteEvidence(
        prior=prior, floor_log_loss=floor, excess_over_optimum=excess, calibration=calibration, classes=classes
    )


def _prior_faults(losses: np.ndarray, holdout: Holdout, policy: Promotion) -> tuple[list[str], PriorEvidence]:
    prior = prior_losses(holdout.prior, holdout.y)
    gain, loss = Clusters.of(prior - losses, holdout.entities), float(losses.mean())
    low = gain.lower(policy.alpha)
    evidence = PriorEvidence(
        prior_log_loss=float(prior.mean()), challenger_log_loss=loss, gain_over_prior=gain.mean, gain_over_prior_low=low
    )
    if low > 0:
        return [], evidence
    return [
        f"the class prior is not beaten beyond chance: {loss:.4f} against {prior.mean():.4f}"
        f" ({confidence(policy.alpha)} lower bound of the gain {low:+.5f})"
    ], evidence


def _floor_faults(
    losses: np.ndarray, classes: int, holdout: Holdout, policy: Promotion
) -> tuple[list[str], float | None]:
    """The reason against a loss below the floor, and the floor."""
    if policy.floor is None:
        return [], None
    # compared with the holdout's own class shares: a model that learned that they shifted is not a leak
    shares = prior_losses(class_shares(holdout.y, classes), holdout.y)
    floor = policy.floor * float(shares.mean())
    if Clusters.of(losses - policy.floor * shares, holdout.entities).upper(policy.alpha) >= 0:
        return [], floor
    return [
        f"its log loss {losses.mean():.4f} is significantly below {floor:.4f}, {policy.floor:.1%} of the log loss of"
        f" the class shares alone, {shares.mean():.4f} (promotion.floor). A model without a leak does not reach that"
        " on this data. If the rows are really so easy to predict, lower promotion.floor in the contract"
    ], floor


def _optimum_faults(losses: np.ndarray, holdout: Holdout, policy: Promotion) -> tuple[list[str], float | None]:
    """The reason against a loss below the optimum, and the mean excess over it."""
    if holdout.optimum is None or not (known := np.isfinite(holdout.optimum)).any():
        return [], None
    best = holdout.optimum[known]
    excess = Clusters.of(losses[known] - best, None if holdout.entities is None else holdout.entities[known])
    if excess.upper(policy.alpha) >= 0:
        return [], excess.mean
    return [
        f"its log loss {losses[known].mean():.4f} is below {best.mean():.4f} beyond chance, the best that can be known"
        " of these rows: it must know the target"
    ], excess.mean


def _calibration_faults(
    p: np.ndarray, holdout: Holdout, policy: Promotion, seed: int
) -> tuple[list[str], CalibrationEvidence]:
    error = expected_calibration_error(p, holdout.y)
    if error <= policy.max_ece:
        return [], CalibrationEvidence(error)
    noise = calibration_noise(p, level=policy.alpha, seed=seed)
    evidence = CalibrationEvidence(error, noise)
    if error - noise <= policy.max_ece:
        return [], evidence
    return [
        f"its calibration error is {error:.3f}, of which {noise:.3f} may be chance: the rest is more than"
        f" {policy.max_ece:g} (promotion.max_ece)"
    ], evidence


def _swapped_classes(
    p: np.ndarray, losses: np.ndarray, holdout: Holdout, policy: Promotion, serving: Serving
) -> list[str]:
    """Pairs of classes whose probabilities fit better when exchanged."""
    against = []
    k = len(serving.classes)
    for a, b in combinations(range(k), 2):
        swapped = p.copy()
        swapped[:, [a, b]] = p[:, [b, a]]
        gain = Clusters.of(losses - row_losses(swapped, holdout.y), holdout.entities)
        if gain.lower(policy.alpha / k) > 0:
            against.append(
                f"{serving.classes[a]} and {serving.classes[b]} look swapped: with the two exchanged its log loss"
                f" falls from {losses.mean():.4f} to {losses.mean() - gain.mean:.4f}"
            )
    return against


def _biased_classes(
    p: np.ndarray, holdout: Holdout, policy: Promotion, serving: Serving
) -> tuple[list[str], dict[str, ClassShare]]:
    """Classes whose mean probability is far from their observed share, and both numbers of every class."""
    against = []
    k = len(serving.classes)
    observed = np.eye(k)[holdout.y]
    shares, means = observed.mean(axis=0), p.mean(axis=0, dtype=np.float64)
    classes = {name: ClassShare(float(shares[i]), float(means[i])) for i, name in enumerate(serving.classes)}
    for i, name in enumerate(serving.classes):
        bias = Clusters.of(p[:, i].astype(np.float64) - observed[:, i], holdout.entities)
        bias_low = abs(bias.mean) - bias.half_width(policy.alpha / k)
        if shares[i] > 0 and bias_low > 0 and means[i] < policy.collapse * shares[i]:
            against.append(
                f"{name} has collapsed: {means[i]:.1%} mean probability where {shares[i]:.1%} of the rows are"
            )
        elif bias_low > policy.max_bias:
            against.append(
                f"{name} is off by {bias.mean:+.1%}: {means[i]:.1%} mean probability, {shares[i]:.1%} of the rows"
            )
    return against, classes


def confidence(alpha: float) -> str:
    """The confidence of a one-sided bound, as text.

    >>> confidence(0.05)
    '95 %'
    """
    return f"{100 * (1 - alpha):g} %"
