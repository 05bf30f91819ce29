"""The gate: every way in which a challenger is or is not promoted."""

from __future__ import annotations

import numpy as np
import pytest

from apex_ml.contract.model import Promotion
from apex_ml.core.promotion import Holdout, decide

N = 100
Y = np.arange(N) % 2
HOLDOUT = Holdout(Y, np.array([0.5, 0.5]))
EMPTY = Holdout(Y[:0], np.array([0.5, 0.5]))
POLICY = Promotion(margin=0.001)
PRIOR_LOSS = np.log(2)


def of_loss(loss: float) -> np.ndarray:
    """Probabilities whose log loss is exactly this for every order."""
    chosen = np.exp(-loss)
    return np.where(Y[:, None] == np.arange(2), chosen, 1 - chosen)


NAN = of_loss(0.1)
NAN = np.where(np.arange(N)[:, None] == 7, np.nan, NAN)
INF = np.where(np.isnan(NAN), np.inf, NAN)

DECISIONS = [
    # name, challenger, champion, holdout, promotable, promoted, words
    ("first", of_loss(0.5), None, HOLDOUT, True, True, "there is no champion and the class prior is beaten"),
    ("first-as-bad-as-the-prior", of_loss(PRIOR_LOSS), None, HOLDOUT, True, False, "class prior is not beaten"),
    ("first-worse-than-the-prior", of_loss(0.8), None, HOLDOUT, True, False, "class prior is not beaten"),
    ("first-not-promotable", of_loss(0.5), None, HOLDOUT, False, False, "not temporal"),
    ("first-on-an-empty-holdout", of_loss(0.5)[:0], None, EMPTY, True, False, "the holdout is empty"),
    ("first-nan", NAN, None, HOLDOUT, True, False, "not numbers"),
    ("first-infinite", INF, None, HOLDOUT, True, False, "not numbers"),
    ("better", of_loss(0.5), of_loss(0.502), HOLDOUT, True, True, "more than the margin 0.001"),
    ("tie", of_loss(0.5), of_loss(0.5), HOLDOUT, True, False, "+0.00000 nats, not more than the margin"),
    ("below-the-margin", of_loss(0.5), of_loss(0.5009), HOLDOUT, True, False, "not more than the margin"),
    ("worse", of_loss(0.6), of_loss(0.5), HOLDOUT, True, False, "-0.10000 nats"),
    (
        "much-better-than-a-bad-champion-but-worse-than-the-prior",
        of_loss(0.8),
        of_loss(2.0),
        HOLDOUT,
        True,
        False,
        "class prior",
    ),
    ("better-but-not-promotable", of_loss(0.4), of_loss(0.5), HOLDOUT, False, False, "not temporal"),
    ("better-on-an-empty-holdout", of_loss(0.4)[:0], of_loss(0.5)[:0], EMPTY, True, False, "the holdout is empty"),
    ("nan-against-a-champion", NAN, of_loss(0.5), HOLDOUT, True, False, "not numbers"),
]


@pytest.mark.parametrize(
    ("challenger", "champion", "holdout", "promotable", "promoted", "words"),
    [d[1:] for d in DECISIONS],
    ids=[d[0] for d in DECISIONS],
)
def test_decisions(
    challenger: np.ndarray,
    champion: np.ndarray | None,
    holdout: Holdout,
    promotable: bool,
    promoted: bool,
    words: str,
) -> None:
    found = decide(challenger, champion, holdout, POLICY, promotable=promotable)
    assert found.promote is promoted
    assert found.reasons and any(words in reason for reason in found.reasons)
    assert found.evidence["holdout_orders"] == len(holdout.y)


def test_a_gain_of_exactly_the_margin_is_not_promoted() -> None:
    # margin and losses are taken so that the gain is the margin to the last bit
    champion, challenger = of_loss(0.5), of_loss(0.25)
    base = decide(challenger, champion, HOLDOUT, POLICY)
    exact = Promotion(margin=base.evidence["gain"])
    assert not decide(challenger, champion, HOLDOUT, exact).promote
    just_below = Promotion(margin=float(np.nextafter(exact.margin, 0)))
    assert decide(challenger, champion, HOLDOUT, just_below).promote


def test_a_tie_is_not_promoted_without_any_margin() -> None:
    assert not decide(of_loss(0.5), of_loss(0.5), HOLDOUT, Promotion(margin=0.0)).promote


def test_all_reasons_against_are_told() -> None:
    found = decide(of_loss(0.8), of_loss(0.5), HOLDOUT, POLICY, promotable=False)
    assert len(found.reasons) == 3


def test_evidence_holds_the_numbers() -> None:
    found = decide(of_loss(0.4), of_loss(0.5), HOLDOUT, POLICY)
    assert found.evidence == {
        "holdout_orders": N,
        "margin": 0.001,
        "prior_log_loss": pytest.approx(PRIOR_LOSS),
        "challenger_log_loss": pytest.approx(0.4),
        "champion_log_loss": pytest.approx(0.5),
        "gain": pytest.approx(0.1),
    }


def test_a_comparison_with_something_that_is_no_number_promotes_nothing() -> None:
    assert not decide(of_loss(0.4), NAN, HOLDOUT, POLICY).promote
