"""The gate decides whether the challenger becomes champion. Pure: every number is an argument.

Both models score the same newest rows. The lower bound of the mean paired difference of their losses, clustered by
entity, must exceed the margin. A gate that tests every night at the same level would err more and more often.
Therefore the level of one night is a part of the level of the year.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from apex_ml.contract.policy import Promotion
from apex_ml.core.calibration import reliability
from apex_ml.core.decision import decide as predict_class
from apex_ml.core.evaluation import prior_losses, row_losses
from apex_ml.core.promotion.absolute import absolute_gates, probability_fault, serving_faults
from apex_ml.core.promotion.comparison import (
    higher_cost,
    losing_segments,
    lower_recalls,
    new_classes_reason,
    stale_reason,
)
from apex_ml.core.promotion.contenders import (
    Contender,
    Holdout,
    Serving,
    drop_seen,
    in_classes,
    over_shared_classes,
)
from apex_ml.core.promotion.evidence import ComparisonEvidence, Evidence
from apex_ml.core.uncertainty import Clusters, lower_bound


@dataclass(frozen=True)
class PromotionDecision:
    """The decision, its reasons and its evidence. With `promote` the reasons support it; otherwise they oppose it.

    `curves` is the data of the report's plots: the reliability of each model, as
    :func:`~apex_ml.core.calibration.reliability` gives it.
    """

    promote: bool
    reasons: tuple[str, ...]
    evidence: Evidence
    curves: Mapping[str, list[list[tuple[float, float, int]]]] = field(default_factory=dict)


def level_of_look(policy: Promotion, looks: int) -> float:
    """Error probability that the gate may spend on its look number `looks` (from 1) since the last promotion.

    `single` spends all of `alpha` on every look. `sequential` spends half of it early, as 1 / (k (k + 1)), when a new
    kind of model is most likely to be better. It spends the other half evenly over the looks of a year, so that it also
    finds a late improvement. By Boole's inequality, which holds under any dependence of the looks, the error
    probability of the year since the last promotion is at most `alpha`, and that of a later year at most half of that.
    Spending by looks: Lan and DeMets, Biometrika 1983.
    """
    if policy.mode == "single":
        return policy.alpha
    k = max(looks, 1)
    return policy.alpha / 2 * (1 / (k * (k + 1)) + 1 / policy.looks_a_year)


def decide(
    challenger: Contender,
    champion: Contender | None,
    holdout: Holdout,
    policy: Promotion,
    serving: Serving,
    *,
    looks: int = 1,
    seed: int = 0,
    champion_fault: str = "",
) -> PromotionDecision:
    """Decide by the policy whether the challenger replaces the champion.

    Rows that either model has seen are dropped and counted. Without a champion, or with one whose probabilities are
    not finite, only the absolute gates apply. So they do with a `champion_fault`, which says why the champion cannot
    score these rows. A champion that lacks classes is compared on the rows of the others. A rejection gives all its
    reasons. Evidence that is not finite rejects the challenger, and is not written.
    """
    decision = _decide(challenger, champion, holdout, policy, serving, looks, seed, champion_fault)
    unknown = decision.evidence.not_finite()
    if not unknown:
        return decision
    fault = f"too few rows, these values are not finite: {', '.join(unknown)}"
    reasons = (fault,) if decision.promote else (*decision.reasons, fault)
    return replace(decision, promote=False, reasons=reasons)


def _decide(
    challenger: Contender,
    champion: Contender | None,
    holdout: Holdout,
    policy: Promotion,
    serving: Serving,
    looks: int,
    seed: int,
    champion_fault: str,
) -> PromotionDecision:
    p, champion_p, holdout, seen_rows = drop_seen(challenger, champion, holdout)
    evidence = Evidence(seen_rows, len(holdout), policy.margin, looks, policy.mode)
    against = serving_faults(challenger, policy, serving)
    if fault := _holdout_fault(p, holdout, serving):
        return PromotionDecision(False, (fault, *against), evidence)
    losses = row_losses(p, holdout.y)
    faults, absolute = absolute_gates(p, losses, holdout, policy, serving, seed)
    against += faults
    evidence = replace(evidence, absolute=absolute)
    curves = {"challenger": reliability(p, holdout.y)}
    loss, prior_loss = absolute.prior.challenger_log_loss, absolute.prior.prior_log_loss
    prior = f"the class prior is beaten: {loss:.4f} against {prior_loss:.4f}"
    reason = "there is no champion"
    if champion is not None and champion_p is not None:
        champion_fault = champion_fault or _champion_fault(champion, champion_p, holdout, serving)
    if champion_fault:
        evidence = replace(evidence, champion_fault=champion_fault.removeprefix("gives "))
        reason, champion_p = f"the champion {champion_fault}, so there is no comparison", None
    if champion is None or champion_p is None:
        return PromotionDecision(not against, tuple(against) or (f"{reason} and {prior}",), evidence, curves)
    curves["champion"] = reliability(in_classes(champion_p, champion.classes, serving.classes), holdout.y)
    pair = (replace(challenger, p=p), replace(champion, p=champion_p))
    new_classes = {
        level: int((holdout.y == place).sum())
        for place, level in enumerate(serving.classes)
        if level not in champion.classes
    }
    if champion.classes != serving.classes and challenger.classes == serving.classes:
        ours, theirs, holdout = over_shared_classes(*pair, holdout, serving.classes)
        pair = (ours, theirs)
        losses, serving = row_losses(pair[0].p, holdout.y), replace(serving, classes=pair[0].classes)
    reason, faults, compared = _compare(*pair, losses, holdout, policy, serving, looks, seed, new_classes)
    against += faults
    evidence = replace(evidence, comparison=compared)
    return PromotionDecision(not against, tuple(against) or (reason, prior), evidence, curves)


def _champion_fault(champion: Contender, p: np.ndarray, holdout: Holdout, serving: Serving) -> str:
    """Why the champion cannot be compared; empty when it can. It may lack classes that are new."""
    if gone := [level for level in champion.classes if level not in serving.classes]:
        return f"predicts {', '.join(gone)}, which the contract does not have"
    if fault := probability_fault(p, len(champion.classes)):
        return f"gives {fault}"
    known = [place for place, level in enumerate(serving.classes) if level in champion.classes]
    if len(np.unique(holdout.y[np.isin(holdout.y, known)])) < 2:
        return "knows fewer than two of the classes of the holdout"
    return ""


def _holdout_fault(p: np.ndarray, holdout: Holdout, serving: Serving) -> str:
    """Why the challenger cannot be evaluated on these rows; empty when it can."""
    if not len(holdout):
        return "the holdout is empty: no row is newer than both models' data"
    if fault := probability_fault(p, len(serving.classes)):
        return f"the challenger gives {fault}"
    present = np.unique(holdout.y)
    if len(present) == 1:
        only = serving.classes[int(present[0])]
        return f"the holdout has rows of one class only ({only}): no model can be evaluated on it"
    if holdout.entities is not None and len(np.unique(holdout.entities)) < 2:
        return (
            f"the holdout's {len(holdout)} rows are all of one entity, so that significance cannot be tested:"
            " add raw files with rows of more"
        )
    return ""


def _compare(
    challenger: Contender,
    champion: Contender,
    losses: np.ndarray,
    holdout: Holdout,
    policy: Promotion,
    serving: Serving,
    looks: int,
    seed: int,
    new_classes: Mapping[str, int],
) -> tuple[str, list[str], ComparisonEvidence]:
    """The reason for the challenger, the reasons against it, and the evidence of the paired losses.

    `new_classes` are those that the champion does not know, with their rows in the holdout.
    """
    champion_losses = row_losses(champion.p, holdout.y)
    differences = champion_losses - losses
    clusters = Clusters.of(differences, holdout.entities)
    gain = lower_bound(clusters, level_of_look(policy, looks), seed)
    # one rule for both: a champion of other costs predicts other classes by intention
    predicted = _predicted(challenger), _predicted(replace(champion, costs=challenger.costs or champion.costs))
    lower, recalls = lower_recalls(predicted, holdout, policy, serving)
    mean_cost = None
    if challenger.costs:  # a class that is found less often is no fault when the errors cost less
        lower, mean_cost = higher_cost(predicted, challenger.costs, holdout, policy)
    losing, segments = losing_segments(differences, holdout, policy)
    # a champion that is worse than the prior has a high recall only because it predicts the class too often
    over_champion = Clusters.of(champion_losses - prior_losses(holdout.prior, holdout.y), holdout.entities)
    is_behind_prior = lower_bound(over_champion, policy.alpha, seed).low > 0
    evidence = ComparisonEvidence(
        champion_log_loss=float(champion_losses.mean()),
        gain=gain.mean,
        gain_low=gain.low,
        gain_error=clusters.standard_error,
        level=gain.level,
        method=gain.method,
        recall=recalls,
        segments=tuple(segments),
        champion_behind_prior=is_behind_prior,
        new_classes=tuple(new_classes),
        mean_cost=mean_cost,
    )
    against = losing if is_behind_prior else lower + losing
    bound = f"{gain.mean:+.5f} nats, lower bound {gain.low:+.5f} (level {gain.level:.2g}, {gain.method})"
    if gain.low > policy.margin:
        return f"the gain over the champion is {bound}: above the margin {policy.margin:g}", against, evidence
    if stale := stale_reason(challenger, champion, differences, holdout, policy, seed):
        return stale, against, replace(evidence, stale=True)
    if reason := new_classes_reason(new_classes, differences, holdout, policy, seed):
        return reason, against, evidence
    against.append(f"the gain over the champion is {bound}: not above the margin {policy.margin:g}")
    return "", against, evidence


def _predicted(model: Contender) -> np.ndarray:
    """Index of the predicted class of each row, by the model's costs or decision weights."""
    return predict_class(model.p, model.weights, model.costs)
