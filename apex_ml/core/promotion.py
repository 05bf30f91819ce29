"""The gate: is the challenger to become champion? Pure; every number comes in as an argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apex_ml.contract.model import Promotion
from apex_ml.core.evaluation import order_losses, prior_losses


@dataclass(frozen=True)
class Holdout:
    """Orders that no model under comparison was trained or tuned on: class indexes (n,), prior shares (k,)."""

    y: np.ndarray
    prior: np.ndarray


@dataclass(frozen=True)
class PromotionDecision:
    """What to do, why, and the numbers behind it. With `promote` the reasons speak for it, otherwise against."""

    promote: bool
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)


def decide(
    challenger: np.ndarray,
    champion: np.ndarray | None,
    holdout: Holdout,
    policy: Promotion,
    *,
    promotable: bool = True,
) -> PromotionDecision:
    """Compare the two models' probabilities, shape (n, k), on the same holdout orders.

    Without a champion only the absolute gates hold: the class prior must be beaten. With one, the challenger's mean log
    loss must be lower by more than the margin. `promotable` is False for a run whose split leaks the future.
    """
    n = len(holdout.y)
    evidence: dict[str, Any] = {"holdout_orders": n, "margin": policy.margin}
    if n == 0:
        return PromotionDecision(False, ("the holdout is empty: no order is newer than both models' data",), evidence)
    if not np.isfinite(challenger).all():
        return PromotionDecision(False, ("the challenger gives probabilities that are not numbers",), evidence)
    prior_loss = float(prior_losses(holdout.prior, holdout.y).mean())
    challenger_loss = float(order_losses(challenger, holdout.y).mean())
    evidence |= {"prior_log_loss": prior_loss, "challenger_log_loss": challenger_loss}
    against: list[str] = []
    if not promotable:
        against.append("the run's split is not temporal: reported, never promoted")
    if challenger_loss >= prior_loss:
        against.append(f"the class prior is not beaten: {challenger_loss:.4f} against {prior_loss:.4f}")
    if champion is None:
        reasons = (
            f"there is no champion and the class prior is beaten: {challenger_loss:.4f} against {prior_loss:.4f}",
        )
        return PromotionDecision(not against, tuple(against) or reasons, evidence)
    champion_loss = float(order_losses(champion, holdout.y).mean())
    gain = champion_loss - challenger_loss
    evidence |= {"champion_log_loss": champion_loss, "gain": gain}
    if not gain > policy.margin:
        against.append(f"the gain over the champion is {gain:+.5f} nats, not more than the margin {policy.margin:g}")
    reasons = (f"the gain over the champion is {gain:+.5f} nats, more than the margin {policy.margin:g}",)
    return PromotionDecision(not against, tuple(against) or reasons, evidence)
