"""Compare the challenger with the champion: recall by class, costs, segments, and the age of the champion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from apex_ml.contract.policy import Promotion
from apex_ml.core.decision import Costs, row_costs
from apex_ml.core.promotion.absolute import confidence
from apex_ml.core.promotion.contenders import Contender, Holdout, Serving
from apex_ml.core.promotion.evidence import MeanCost, Recall, SegmentGain
from apex_ml.core.uncertainty import Clusters, lower_bound
from apex_ml.wording import counted


def lower_recalls(
    predicted: tuple[np.ndarray, np.ndarray], holdout: Holdout, policy: Promotion, serving: Serving
) -> tuple[list[str], dict[str, Recall]]:
    """Classes with a lower recall, beyond chance; `predicted` are the classes of challenger and champion, (n,) each.

    The level is divided by the number of classes (Bonferroni).
    """
    against: list[str] = []
    ours, theirs = predicted
    recalls: dict[str, Recall] = {}
    for i, name in enumerate(serving.classes):
        chosen = holdout.y == i
        if not chosen.any():
            continue
        change = (ours[chosen] == i).astype(np.float64) - (theirs[chosen] == i)
        clusters = Clusters.of(change, None if holdout.entities is None else holdout.entities[chosen])
        recall = Recall(float((ours[chosen] == i).mean()), float((theirs[chosen] == i).mean()))
        recalls[name] = recall
        if clusters.upper(policy.alpha / len(serving.classes)) < -policy.max_recall_drop:
            against.append(
                f"it finds fewer rows of {name}: recall {recall.challenger:.3f} against {recall.champion:.3f}"
            )
    return against, recalls


def higher_cost(
    predicted: tuple[np.ndarray, np.ndarray], costs: Costs, holdout: Holdout, policy: Promotion
) -> tuple[list[str], MeanCost]:
    """The mean cost with each model, and a reason against a challenger that costs more, beyond chance.

    `predicted` are the classes of challenger and champion, (n,) each.
    """
    ours, theirs = (row_costs(holdout.y, classes, costs) for classes in predicted)
    cost = MeanCost(float(ours.mean()), float(theirs.mean()))
    if Clusters.of(ours - theirs, holdout.entities).lower(policy.alpha) <= 0:
        return [], cost
    return [f"its errors cost more: {cost.challenger:.4g} a row against {cost.champion:.4g}"], cost


def losing_segments(gains: np.ndarray, holdout: Holdout, policy: Promotion) -> tuple[list[str], list[SegmentGain]]:
    """Segments that lose more than the margin, beyond chance, by the paired differences, (n,).

    The level is divided by the number of segments (Bonferroni).
    """
    against: list[str] = []
    levels = [(name, level) for name, values in holdout.segments.items() for level in np.unique(values)]
    segments: list[SegmentGain] = []
    for name, level in levels:
        chosen = holdout.segments[name] == level
        if chosen.sum() < policy.segment_rows:
            continue
        gain = Clusters.of(gains[chosen], None if holdout.entities is None else holdout.entities[chosen])
        if len(gain) < 2:  # with one entity the error of the mean is not defined
            continue
        far = gain.half_width(policy.alpha / len(levels))
        segments.append(
            SegmentGain(
                segment=name,
                level=str(level),
                rows=int(chosen.sum()),
                gain=gain.mean,
                low=gain.mean - far,
                high=gain.mean + far,
            )
        )
        if gain.mean + far < -policy.margin:
            against.append(f"rows with {name} {level} lose beyond chance: {gain.mean:+.5f} nats")
    return against, segments


def stale_reason(
    challenger: Contender,
    champion: Contender | None,
    difference: np.ndarray,
    holdout: Holdout,
    policy: Promotion,
    seed: int,
) -> str:
    """The reason to replace an old champion by a model that is not worse; empty where there is none."""
    if champion is None or policy.stale_after_days is None or challenger.as_of is None or champion.as_of is None:
        return ""
    age = challenger.as_of - champion.as_of
    if age <= policy.stale_after_days:
        return ""
    bound = lower_bound(Clusters.of(difference, holdout.entities), policy.alpha, seed)
    if not bound.low > -policy.non_inferiority:
        return ""
    return (
        f"the champion is {counted(age, 'day')} old, more than {policy.stale_after_days}, and the challenger is not"
        f" worse by more than {policy.non_inferiority:g} nats ({confidence(policy.alpha)} lower bound of the gain"
        f" {bound.low:+.5f})"
    )


def new_classes_reason(
    new_classes: Mapping[str, int], difference: np.ndarray, holdout: Holdout, policy: Promotion, seed: int
) -> str:
    """The reason for a model that knows classes which the champion lacks; empty where there is none.

    `new_classes` has their rows in the holdout, `difference` the paired differences on the rows of the other
    classes, (n,): there the model must not be worse. Of the new ones the champion knows nothing.
    """
    with_rows = {level: rows for level, rows in new_classes.items() if rows}
    if not with_rows:
        return ""
    bound = lower_bound(Clusters.of(difference, holdout.entities), policy.alpha, seed)
    if not bound.low > -policy.non_inferiority:
        return ""
    names = ", ".join(f"{level} ({counted(rows, 'row')})" for level, rows in with_rows.items())
    return (
        f"the champion does not know {names}, and on the rows of the other classes the challenger is not worse by"
        f" more than {policy.non_inferiority:g} nats ({confidence(policy.alpha)} lower bound of the gain"
        f" {bound.low:+.5f})"
    )
