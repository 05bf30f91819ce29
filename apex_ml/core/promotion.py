"""The gate: is the challenger to become champion? Pure; every number comes in as an argument.

Both models score the same newest orders. What decides is the lower bound of the mean paired difference of their losses,
with orders of one client taken together: it must exceed the margin. A gate that looks every night would err more and
more often, so the level of a night is a part of the year's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from apex_ml.contract.policy import Promotion
from apex_ml.core.calibration import calibration_noise, expected_calibration_error, reliability
from apex_ml.core.decision import decide as name_class
from apex_ml.core.evaluation import class_shares, order_losses, prior_losses
from apex_ml.core.uncertainty import Clusters, lower_bound
from apex_ml.wording import counted

SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Holdout:
    """Newest orders with their outcome.

    `y` are class indexes (n,), `prior` the class shares of the challenger's training (k,), `entities` what to cluster
    by (n,), `days` the orders' days (n,), `segments` levels by the name of an attribute, (n,) each. `orders` are keys
    of the orders, as in :func:`~apex_ml.core.training_keys.order_keys`, and `optimum` the losses of the best a model
    can know, where a simulator tells it, NaN where it does not; (n,) each.
    """

    y: np.ndarray
    prior: np.ndarray
    entities: np.ndarray | None = None
    days: np.ndarray | None = None
    segments: Mapping[str, np.ndarray] = field(default_factory=dict)
    orders: np.ndarray | None = None
    optimum: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray) -> Holdout:
        """The chosen rows."""

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Holdout(
            self.y[rows],
            self.prior,
            of(self.entities),
            of(self.days),
            {name: levels[rows] for name, levels in self.segments.items()},
            of(self.orders),
            of(self.optimum),
        )


@dataclass(frozen=True)
class Contender:
    """A model under comparison: its probabilities on the holdout, (n, k), and what the gate must know of it.

    `tuned_until` is the last day of its training and validation; `as_of` the day its data looked from; both in days
    since 1970-01-01. `seen` are the keys of the orders it was fitted and tuned on, sorted. `promotable` is False for a
    run whose split leaks the future; then only the keys tell what it has seen. `weights` are its decision weights.
    """

    p: np.ndarray
    classes: tuple[str, ...]
    features: tuple[str, ...] = ()
    tuned_until: int | None = None
    as_of: int | None = None
    us_per_order: float | None = None
    promotable: bool = True
    seen: np.ndarray | None = None
    weights: tuple[float, ...] = ()

    def has_seen(self, holdout: Holdout) -> np.ndarray:
        """Which holdout orders it was fitted or tuned on, (n,)."""
        seen = np.zeros(len(holdout), bool)
        if self.tuned_until is not None and holdout.days is not None and self.promotable:
            seen |= holdout.days <= self.tuned_until
        if self.seen is not None and holdout.orders is not None:
            seen |= np.isin(holdout.orders, self.seen)
        return seen


@dataclass(frozen=True)
class Serving:
    """What the tables and the API can serve: the contract's classes and features."""

    classes: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True)
class PromotionDecision:
    """What to do, why, and the numbers behind it. With `promote` the reasons speak for it, otherwise against.

    `figures` is what a report draws beside the evidence: reliability of each model, as
    :func:`~apex_ml.core.calibration.reliability` gives it.
    """

    promote: bool
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


def level_of_look(policy: Promotion, looks: int) -> float:
    """Error probability that the gate may spend on its look number `looks` (from 1) since the last promotion.

    `single` spends all of `alpha` on every look. `sequential` spends half of it early, as 1 / (k (k + 1)), when a new
    kind of model is likeliest to be better, and the other half evenly over the looks of a year, so that a late
    improvement is found, too. By Boole's inequality, which holds under any dependence of the looks, a year since the
    last promotion errs with a probability of at most `alpha`, and a later one of at most half of that. Spending by
    looks: Lan and DeMets, Biometrika 1983.
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
) -> PromotionDecision:
    """Decide by the policy whether the challenger replaces the champion.

    Rows that either model has seen are dropped and counted. Without a champion, or with one whose probabilities are not
    numbers, only the absolute gates hold, and no comparison is made up. All reasons against are told at once. Evidence
    that is not finite rejects the challenger, and is left out.
    """
    decision = _decide(challenger, champion, holdout, policy, serving, looks, seed)
    evidence, unknown = _finite(decision.evidence)
    if not unknown:
        return decision
    fault = f"these cannot be told from so few orders, they are not finite: {', '.join(unknown)}"
    reasons = (fault,) if decision.promote else (*decision.reasons, fault)
    return replace(decision, promote=False, reasons=reasons, evidence=evidence)


def _finite(evidence: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The evidence without what holds a number that is not finite, and the names of what was left out."""
    unknown = [name for name, value in evidence.items() if not _is_finite(value)]
    return {name: value for name, value in evidence.items() if name not in unknown}, unknown


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _decide(
    challenger: Contender,
    champion: Contender | None,
    holdout: Holdout,
    policy: Promotion,
    serving: Serving,
    looks: int,
    seed: int,
) -> PromotionDecision:
    p, theirs, holdout, evidence = _unseen(challenger, champion, holdout)
    evidence |= {"holdout_orders": len(holdout), "margin": policy.margin, "looks": looks, "mode": policy.mode}
    against = _cannot_serve(challenger, policy, serving)
    if not len(holdout):
        return PromotionDecision(
            False, ("the holdout is empty: no order is newer than both models' data", *against), evidence
        )
    if fault := _no_probabilities(p, len(serving.classes)):
        return PromotionDecision(False, (f"the challenger gives {fault}", *against), evidence)
    present = np.unique(holdout.y)
    if len(present) == 1:
        only = serving.classes[int(present[0])]
        return PromotionDecision(
            False, (f"the holdout has orders of one class only ({only}): nothing can be told apart", *against), evidence
        )
    if holdout.entities is not None and len(np.unique(holdout.entities)) < 2:
        return PromotionDecision(
            False,
            (
                f"the holdout's {len(holdout)} orders are all of one entity: chance cannot be told from progress; give"
                " raw files with orders of more",
                *against,
            ),
            evidence,
        )
    losses = order_losses(p, holdout.y)
    told, absolute = _absolute_gates(p, losses, holdout, policy, serving, seed)
    against += told
    evidence |= absolute
    if theirs is not None and (fault := _no_probabilities(theirs, len(serving.classes))):
        evidence["champion_fault"] = fault
        theirs = None
        speaks = f"the champion gives {fault}, so that it is not compared"
    else:
        speaks = "there is no champion"
    figures = {"challenger": reliability(p, holdout.y)}
    prior = f"the class prior is beaten: {evidence['challenger_log_loss']:.4f} against {evidence['prior_log_loss']:.4f}"
    if theirs is None:
        return PromotionDecision(not against, tuple(against) or (f"{speaks} and {prior}",), evidence, figures)
    figures["champion"] = reliability(theirs, holdout.y)
    level = level_of_look(policy, looks)
    champion_losses = order_losses(theirs, holdout.y)
    differences = Clusters.of(champion_losses - losses, holdout.entities)
    gain = lower_bound(differences, level, seed)
    evidence |= {
        "champion_log_loss": float(champion_losses.mean()),
        "gain": gain.mean,
        "gain_low": gain.low,
        "gain_error": differences.standard_error,
        "level": level,
        "method": gain.method,
    }
    named = (
        name_class(p, challenger.weights or (1.0,) * p.shape[1]),
        name_class(theirs, (champion and champion.weights) or (1.0,) * p.shape[1]),
    )
    fewer, recalls = _fewer_found(named, holdout, policy, serving)
    losing, segments = _losing_segments(champion_losses - losses, holdout, policy)
    # a champion that is surely worse than knowing nothing finds the orders of a class only by naming it too often
    behind = lower_bound(
        Clusters.of(champion_losses - prior_losses(holdout.prior, holdout.y), holdout.entities), policy.alpha, seed
    )
    evidence |= {"recall": recalls, "segments": segments, "champion_behind_prior": behind.low > 0}
    against += losing if behind.low > 0 else fewer + losing
    bound = f"{gain.mean:+.5f} nats, surely at least {gain.low:+.5f} (level {level:.2g}, {gain.method})"
    if gain.low > policy.margin:
        reason = f"the gain over the champion is {bound}: more than the margin {policy.margin:g}"
    elif stale := _stale(challenger, champion, champion_losses - losses, holdout, policy, seed):
        reason = stale
        evidence["stale"] = True
    else:
        reason = ""
        against.append(f"the gain over the champion is {bound}: not surely more than the margin {policy.margin:g}")
    return PromotionDecision(not against, tuple(against) or (reason, prior), evidence, figures)


def _unseen(
    challenger: Contender, champion: Contender | None, holdout: Holdout
) -> tuple[np.ndarray, np.ndarray | None, Holdout, dict[str, Any]]:
    """Drop the orders that either model was fitted or tuned on, by their dates and by their keys, and count them."""
    theirs = None if champion is None else champion.p
    ours_seen = challenger.has_seen(holdout)
    theirs_seen = np.zeros(len(holdout), bool) if champion is None else champion.has_seen(holdout)
    dropped = ours_seen | theirs_seen
    evidence = {
        "seen_orders_dropped": int(dropped.sum()),
        "seen_by_challenger": int(ours_seen.sum()),
        "seen_by_champion": int(theirs_seen.sum()),
    }
    if not dropped.any():
        return challenger.p, theirs, holdout, evidence
    kept = np.flatnonzero(~dropped)
    return challenger.p[kept], None if theirs is None else theirs[kept], holdout.take(kept), evidence


def _no_probabilities(p: np.ndarray, classes: int) -> str:
    if p.ndim != 2 or p.shape[1] != classes:
        return f"probabilities of {p.shape[-1]} classes, not of {classes} classes as the contract has"
    if not np.isfinite(p).all():
        return f"probabilities that are not numbers, for {counted(int((~np.isfinite(p)).any(axis=1).sum()), 'order')}"
    wrong = (p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > SUM_TOLERANCE)
    return f"probabilities that do not add up to 1, for {counted(int(wrong.sum()), 'order')}" if wrong.any() else ""


def _cannot_serve(challenger: Contender, policy: Promotion, serving: Serving) -> list[str]:
    """Reasons that have nothing to do with how good the model is."""
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
    if challenger.us_per_order is not None and challenger.us_per_order > policy.max_us_per_order:
        against.append(
            f"it takes {challenger.us_per_order:.0f} µs an order, more than the budget of {policy.max_us_per_order:g}"
        )
    return against


def _absolute_gates(
    p: np.ndarray, losses: np.ndarray, holdout: Holdout, policy: Promotion, serving: Serving, seed: int
) -> tuple[list[str], dict[str, Any]]:
    """What a model must be, whoever is champion."""
    against: list[str] = []
    prior = prior_losses(holdout.prior, holdout.y)
    over_prior = Clusters.of(prior - losses, holdout.entities)
    over_prior_low = over_prior.lower(policy.alpha)
    loss = Clusters.of(losses, holdout.entities)
    evidence: dict[str, Any] = {
        "prior_log_loss": float(prior.mean()),
        "challenger_log_loss": loss.mean,
        "gain_over_prior": over_prior.mean,
        "gain_over_prior_low": over_prior_low,
    }
    if not over_prior_low > 0:
        against.append(
            f"the class prior is not surely beaten: {loss.mean:.4f} against {prior.mean():.4f}"
            f" (gain at least {over_prior_low:+.5f})"
        )
    if policy.floor is not None:
        # beside the holdout's own class shares: whoever learned that they have shifted does not know the target by that
        shares = prior_losses(class_shares(holdout.y, p.shape[1]), holdout.y)
        above = Clusters.of(losses - policy.floor * shares, holdout.entities)
        evidence["floor_log_loss"] = float(policy.floor * shares.mean())
        if above.upper(policy.alpha) < 0:
            against.append(
                f"its log loss {loss.mean:.4f} is surely below {policy.floor * shares.mean():.4f},"
                f" {policy.floor:.1%} of what the class shares alone give, {shares.mean():.4f} (promotion.floor), which"
                " nothing honest reaches on this data: it must know the target; where another model of these orders"
                " honestly does as well, lower promotion.floor in the contract"
            )
    known = np.zeros(len(holdout), bool) if holdout.optimum is None else np.isfinite(holdout.optimum)
    if holdout.optimum is not None and known.any():
        best = holdout.optimum[known]
        clients = None if holdout.entities is None else holdout.entities[known]
        excess = Clusters.of(losses[known] - best, clients)
        evidence["excess_over_optimum"] = excess.mean
        if excess.upper(policy.alpha) < 0:
            against.append(
                f"its log loss {losses[known].mean():.4f} is surely below {best.mean():.4f}, the best that can be"
                " known of these orders: it must know the target"
            )
    calibration_error = expected_calibration_error(p, holdout.y)
    evidence["challenger_ece"] = calibration_error
    if calibration_error > policy.max_ece:
        noise = calibration_noise(p, level=policy.alpha, seed=seed)
        evidence["calibration_noise"] = noise
        if calibration_error - noise > policy.max_ece:
            against.append(
                f"its calibration error is {calibration_error:.3f}, of which {noise:.3f} may be chance:"
                f" surely more than {policy.max_ece:g} (promotion.max_ece)"
            )
    against += _class_faults(p, holdout, policy, serving, evidence)
    return against, evidence


def _class_faults(
    p: np.ndarray, holdout: Holdout, policy: Promotion, serving: Serving, evidence: dict[str, Any]
) -> list[str]:
    """Collapsed, swapped and biased classes, told by mean probability beside observed share."""
    against: list[str] = []
    k = len(serving.classes)
    came = np.eye(k)[holdout.y]
    shares, means = came.mean(axis=0), p.mean(axis=0, dtype=np.float64)
    evidence["classes"] = {
        name: {"share": float(shares[i]), "mean_probability": float(means[i])} for i, name in enumerate(serving.classes)
    }
    loss = float(order_losses(p, holdout.y).mean())
    for a, b in combinations(range(k), 2):
        swapped = p.copy()
        swapped[:, [a, b]] = p[:, [b, a]]
        better = Clusters.of(order_losses(p, holdout.y) - order_losses(swapped, holdout.y), holdout.entities)
        if better.lower(policy.alpha / k) > 0:
            against.append(
                f"{serving.classes[a]} and {serving.classes[b]} look swapped: read the other way round its log loss"
                f" falls from {loss:.4f} to {loss - better.mean:.4f}"
            )
    for i, name in enumerate(serving.classes):
        bias = Clusters.of(p[:, i].astype(np.float64) - came[:, i], holdout.entities)
        surely = abs(bias.mean) - bias.half_width(policy.alpha / k)
        if shares[i] > 0 and surely > 0 and means[i] < policy.collapse * shares[i]:
            against.append(
                f"{name} has collapsed: {means[i]:.1%} mean probability where {shares[i]:.1%} of the orders are"
            )
        elif surely > policy.max_bias:
            against.append(
                f"{name} is off by {bias.mean:+.1%}: {means[i]:.1%} mean probability, {shares[i]:.1%} of the orders"
            )
    return against


def _fewer_found(
    named: tuple[np.ndarray, np.ndarray], holdout: Holdout, policy: Promotion, serving: Serving
) -> tuple[list[str], dict[str, Any]]:
    """Classes that are surely found less often; `named` are those that challenger and champion name, (n,) each.

    The level is divided by the number of classes (Bonferroni).
    """
    against: list[str] = []
    ours, theirs = named
    recalls: dict[str, Any] = {}
    for i, name in enumerate(serving.classes):
        chosen = holdout.y == i
        if not chosen.any():
            continue
        change = (ours[chosen] == i).astype(np.float64) - (theirs[chosen] == i)
        found = Clusters.of(change, None if holdout.entities is None else holdout.entities[chosen])
        recalls[name] = {
            "challenger": float((ours[chosen] == i).mean()),
            "champion": float((theirs[chosen] == i).mean()),
        }
        high = found.upper(policy.alpha / len(serving.classes))
        if high < -policy.max_recall_drop:
            against.append(
                f"it finds fewer orders of {name}: recall {recalls[name]['challenger']:.3f} against"
                f" {recalls[name]['champion']:.3f}"
            )
    return against, recalls


def _losing_segments(gains: np.ndarray, holdout: Holdout, policy: Promotion) -> tuple[list[str], list[dict[str, Any]]]:
    """Segments that surely lose more than the margin, by the paired differences, (n,).

    The level is divided by the number of segments (Bonferroni).
    """
    against: list[str] = []
    levels = [(name, level) for name, values in holdout.segments.items() for level in np.unique(values)]
    segments = []
    for name, level in levels:
        chosen = holdout.segments[name] == level
        if chosen.sum() < policy.segment_orders:
            continue
        gain = Clusters.of(gains[chosen], None if holdout.entities is None else holdout.entities[chosen])
        if len(gain) < 2:  # all of one entity: no error of the mean can be told
            continue
        far = gain.half_width(policy.alpha / len(levels))
        segments.append(
            {
                "segment": name,
                "level": str(level),
                "orders": int(chosen.sum()),
                "gain": gain.mean,
                "low": gain.mean - far,
                "high": gain.mean + far,
            }
        )
        if gain.mean + far < -policy.margin:
            against.append(f"orders with {name} {level} surely lose: {gain.mean:+.5f} nats")
    return against, segments


def _stale(
    challenger: Contender,
    champion: Contender | None,
    difference: np.ndarray,
    holdout: Holdout,
    policy: Promotion,
    seed: int,
) -> str:
    """The reason for replacing an old champion by one that is surely no worse; empty where that does not hold."""
    if champion is None or policy.stale_after_days is None or challenger.as_of is None or champion.as_of is None:
        return ""
    age = challenger.as_of - champion.as_of
    if age <= policy.stale_after_days:
        return ""
    bound = lower_bound(Clusters.of(difference, holdout.entities), policy.alpha, seed)
    if not bound.low > -policy.non_inferiority:
        return ""
    return (
        f"the champion is {counted(age, 'day')} old, more than {policy.stale_after_days}, and the challenger is surely"
        f" not worse by more than {policy.non_inferiority:g} nats (gain at least {bound.low:+.5f})"
    )
