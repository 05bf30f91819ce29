"""The gate: every way in which a challenger is or is not promoted, and how often it errs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom

from apex_ml.contract.policy import Promotion
from apex_ml.core.evaluation import row_losses
from apex_ml.core.promotion import (
    Contender,
    Holdout,
    PromotionDecision,
    Serving,
    decide,
    level_of_look,
)
from apex_ml.core.promotion.evidence import ComparisonEvidence, Evidence, Recall, SeenRows, SegmentGain
from apex_ml.core.training_keys import pack_keys, row_keys, unpack_keys

CLASSES = ("DIGITAL", "TELEFONO", "VENDEDOR")
TRUE = np.array([[0.35, 0.25, 0.40], [0.55, 0.15, 0.30], [0.75, 0.05, 0.20]])
SHARES = np.array([0.5, 0.35, 0.15])
PRIOR = SHARES @ TRUE
N = 20_000
POLICY = Promotion(margin=0.001, floor=0.9)
SINGLE = Promotion(margin=0.001, floor=0.9, mode="single")
SERVING = Serving(CLASSES, ("ripeness", "country"))


def scene(n: int = N, seed: int = 1) -> tuple[np.ndarray, Holdout]:
    """True probabilities and the orders they bring forth, two a client."""
    random = np.random.default_rng(seed)
    truth = TRUE[random.choice(3, n, p=SHARES)]
    y = (random.random((n, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    country = np.where(random.random(n) < 0.5, "PE", "GT")
    return truth, Holdout(y, PRIOR, random.integers(0, n // 2 + 1, n), np.arange(n), {"country": country})


TRUTH, HOLDOUT = scene()
KEYS = np.arange(N, dtype=np.uint64)


def blurred(weight: float, truth: np.ndarray = TRUTH) -> np.ndarray:
    """Less sure probabilities that name the same classes: worse in log loss alone."""
    p = truth ** (1 - weight)
    return p / p.sum(axis=1, keepdims=True)


def model(p: np.ndarray, **about: Any) -> Contender:
    return Contender(p, CLASSES, ("ripeness",), **about)


def gate(
    challenger: Contender,
    champion: Contender | None = None,
    holdout: Holdout = HOLDOUT,
    policy: Promotion = POLICY,
    **more: Any,
) -> PromotionDecision:
    return decide(challenger, champion, holdout, policy, SERVING, **more)


def columns(*order: int) -> np.ndarray:
    return TRUTH[:, list(order)]


def _with(value: float) -> np.ndarray:
    p = TRUTH.copy()
    p[7, 0] = value
    return p


def _without_telephone() -> np.ndarray:
    p = TRUTH.copy()
    p[:, 1] = 0.02
    return p / p.sum(axis=1, keepdims=True)


def _knowing() -> np.ndarray:
    return 0.8 * TRUTH + 0.2 * np.eye(3)[HOLDOUT.y]


def _biased() -> np.ndarray:
    p = TRUTH * np.array([1.0, 1.0, 1.45])
    return p / p.sum(axis=1, keepdims=True)


def _overconfident() -> np.ndarray:
    p = TRUTH**3
    return p / p.sum(axis=1, keepdims=True)


def of_class(k: int) -> Holdout:
    return HOLDOUT.take(np.flatnonzero(HOLDOUT.y == k))


NEVER: dict[str, tuple[Callable[[], tuple[Contender, Holdout]], str]] = {
    "as bad as the prior": (
        lambda: (model(np.tile(PRIOR, (N, 1))), HOLDOUT),
        "prior is not beaten beyond chance",
    ),
    "worse than the prior": (
        lambda: (model(np.full((N, 3), 1 / 3)), HOLDOUT),
        "prior is not beaten beyond chance",
    ),
    "it knows the target": (
        lambda: (model(_knowing()), HOLDOUT),
        r"significantly below 0\.9\d+.*A model without a leak does not reach that",
    ),
    "better than the truth": (
        lambda: (model(_knowing()), replace(HOLDOUT, optimum=row_losses(TRUTH, HOLDOUT.y))),
        "below .* beyond chance, the best that can be known",
    ),
    "nan": (lambda: (model(_with(np.nan)), HOLDOUT), "not numbers, for 1 row$"),
    "infinite": (lambda: (model(_with(np.inf)), HOLDOUT), "not numbers, for 1 row$"),
    "negative": (lambda: (model(_with(-0.2)), HOLDOUT), "do not add up to 1, for 1 row$"),
    "another number of classes": (lambda: (model(TRUTH[:, :2]), HOLDOUT), "but the contract has 3 classes"),
    "swapped": (lambda: (model(columns(0, 2, 1)), HOLDOUT), "TELEFONO and VENDEDOR look swapped"),
    "swapped with digital": (lambda: (model(columns(1, 0, 2)), HOLDOUT), "DIGITAL and TELEFONO look swapped"),
    "collapsed": (lambda: (model(_without_telephone()), HOLDOUT), r"TELEFONO has collapsed: \d\.\d% mean probability"),
    "biased": (lambda: (model(_biased()), HOLDOUT), r"VENDEDOR is off by \+\d"),
    "overconfident": (
        lambda: (model(_overconfident()), HOLDOUT),
        "calibration error .* the rest is more than 0.05",
    ),
    "no orders": (lambda: (model(TRUTH[:0]), HOLDOUT.take(np.arange(0))), "the holdout is empty"),
    "all orders seen": (lambda: (model(TRUTH, tuned_until=N), HOLDOUT), "the holdout is empty"),
    "all orders seen, under other dates": (
        lambda: (
            model(TRUTH, training_keys=np.arange(N, dtype=np.uint64)),
            replace(HOLDOUT, rows=np.arange(N, dtype=np.uint64)),
        ),
        "the holdout is empty",
    ),
    "one class": (lambda: (model(TRUTH[HOLDOUT.y == 1]), of_class(1)), r"one class only \(TELEFONO\)"),
    "one client": (
        lambda: (model(TRUTH), replace(HOLDOUT, entities=np.zeros(N, np.int64))),
        f"{N} rows are all of one entity",
    ),
    "a split that leaks": (lambda: (model(TRUTH, promotable=False), HOLDOUT), "not temporal"),
    "other classes": (lambda: (replace(model(TRUTH), classes=("a", "b", "c")), HOLDOUT), "classes a, b, c are not"),
    "an unknown feature": (lambda: (replace(model(TRUTH), features=("weather",)), HOLDOUT), "does not have: weather"),
    "too slow": (lambda: (model(TRUTH, us_per_row=2000.0), HOLDOUT), "2000 µs a row"),
}


@pytest.mark.parametrize(("make", "words"), NEVER.values(), ids=NEVER)
@pytest.mark.parametrize("champion", [None, 0.0, 1.0], ids=["no champion", "a good one", "a useless one"])
def test_invalid_challengers_are_never_promoted(make: Any, words: str, champion: float | None) -> None:
    challenger, holdout = make()
    theirs = None if champion is None else model(blurred(champion)[: len(holdout)])
    decision = gate(challenger, theirs, holdout)
    assert not decision.promote
    assert len([r for r in decision.reasons if re.search(words, r)]) == 1, decision.reasons
    json.dumps(decision.evidence.as_dict(), allow_nan=False)  # what the ledger takes


def test_evidence_that_is_not_finite_rejects_and_is_named() -> None:
    segments = (SegmentGain("country", "PE", 2, 0.1, np.nan, 0.2),)
    recall = {"DIGITAL": Recall(0.5, 0.25)}
    compared = ComparisonEvidence(1.0, 0.0, -np.inf, 0.1, 0.05, "normal", recall, segments, False)
    evidence = Evidence(SeenRows(3, 2, 1), 7, 0.0, 1, "single", comparison=compared)
    assert evidence.as_dict() == {
        "seen_rows_dropped": 3,
        "seen_by_challenger": 2,
        "seen_by_champion": 1,
        "holdout_rows": 7,
        "margin": 0.0,
        "looks": 1,
        "mode": "single",
        "champion_log_loss": 1.0,
        "gain": 0.0,
        "gain_error": 0.1,
        "level": 0.05,
        "method": "normal",
        "recall": {"DIGITAL": {"challenger": 0.5, "champion": 0.25}},
        "champion_behind_prior": False,
        "holdout_orders": 7,  # the former keys
        "seen_orders_dropped": 3,
    }
    assert evidence.not_finite() == ("gain_low", "segments")


def test_a_segment_of_one_client_is_not_evaluated() -> None:
    alone = HOLDOUT.segments | {"alone": np.where(np.arange(N) < 600, "one", "rest")}
    entities = np.where(np.arange(N) < 600, -1, np.arange(N))
    decision = gate(model(TRUTH), model(blurred(0.5)), replace(HOLDOUT, segments=alone, entities=entities))
    assert decision.promote
    levels = {s["level"] for s in decision.evidence.as_dict()["segments"] if s["segment"] == "alone"}
    assert levels == {"rest"}


def test_the_first_model_needs_the_absolute_gates_alone() -> None:
    decision = gate(model(TRUTH))
    assert decision.promote and "there is no champion and the class prior is beaten" in decision.reasons[0]
    assert "champion_log_loss" not in decision.evidence.as_dict() and "gain" not in decision.evidence.as_dict()


@pytest.mark.parametrize("fault", [np.nan, np.inf, -1.0])
def test_a_champion_without_probabilities_can_be_replaced_and_is_not_compared(fault: float) -> None:
    decision = gate(model(TRUTH), model(_with(fault)))
    assert decision.promote and "so there is no comparison" in decision.reasons[0]
    assert "gain" not in decision.evidence.as_dict()


@pytest.mark.parametrize(
    ("weight", "policy", "promoted"),
    [(0.5, POLICY, True), (0.5, SINGLE, True), (0.0, POLICY, False), (0.05, POLICY, False), (0.05, SINGLE, False)],
)
def test_a_better_model_is_promoted_by_its_lower_bound(weight: float, policy: Promotion, promoted: bool) -> None:
    decision = gate(model(TRUTH), model(blurred(weight)), policy=policy)
    assert decision.promote is promoted
    assert (decision.evidence.as_dict()["gain_low"] > policy.margin) is promoted
    assert (": above the margin" in decision.reasons[0]) is promoted
    assert (": not above the margin" in decision.reasons[0]) is not promoted


@pytest.mark.parametrize("margin", [0.0, 0.001])
def test_a_tie_is_never_promoted(margin: float) -> None:
    decision = gate(model(TRUTH), model(TRUTH), policy=Promotion(margin=margin))
    assert not decision.promote and decision.evidence.as_dict()["gain"] == 0


def test_rows_that_a_model_has_seen_are_dropped_and_counted() -> None:
    decision = gate(model(TRUTH, tuned_until=99), model(blurred(0.5), tuned_until=499))
    assert decision.evidence.as_dict()["seen_rows_dropped"] == 500
    assert decision.evidence.as_dict()["holdout_rows"] == N - 500


def test_redelivered_orders_are_dropped_by_their_keys() -> None:
    keys = row_keys(HOLDOUT.entities, HOLDOUT.days)
    observed = unpack_keys(pack_keys(np.concatenate([keys[100:103], keys[101:102], keys[:1] + np.uint64(1)])))
    decision = gate(
        model(TRUTH, tuned_until=99),
        model(blurred(0.5), training_keys=observed),
        replace(HOLDOUT, rows=keys),
        looks=5,
    )
    evidence = decision.evidence.as_dict()
    assert (evidence["seen_by_challenger"], evidence["seen_by_champion"]) == (100, 3)
    assert evidence["seen_rows_dropped"] == 103 and evidence["holdout_rows"] == N - 103


def test_for_a_random_split_only_the_keys_count() -> None:
    """A manually moved alias makes such a champion. Its last day is that of all data, and it can be replaced."""
    keys = row_keys(HOLDOUT.entities, HOLDOUT.days)
    champion = model(blurred(0.5), tuned_until=N, promotable=False, training_keys=np.unique(keys[::4]))
    decision = gate(model(TRUTH), champion, replace(HOLDOUT, rows=keys))
    assert decision.promote and decision.evidence.as_dict()["holdout_rows"] == pytest.approx(0.75 * N, rel=0.01)


def test_keys_are_the_same_in_every_release_and_for_every_type() -> None:
    keys = row_keys(np.array(["C1", "C2"], dtype=object), np.array([3, 4], np.int32))
    assert keys.tolist() == row_keys(np.array(["C1", "C2"]), np.array([3, 4], np.int64)).tolist()
    assert keys.tolist() == [12182563344011692289, 15442743658585874633]
    assert len(set(row_keys(np.arange(1000) % 10, np.arange(1000) // 10).tolist())) == 1000


def test_a_forbidden_feature() -> None:
    decision = gate(model(TRUTH), policy=Promotion(margin=0, forbidden_features=("ripeness",)))
    assert decision.reasons == ("it uses forbidden features: ripeness",)


def test_a_worse_segment_rejects_the_challenger() -> None:
    where = (HOLDOUT.segments["country"] == "GT")[:, None]
    decision = gate(model(np.where(where, blurred(0.4), TRUTH)), model(np.where(where, TRUTH, blurred(0.9))))
    assert not decision.promote
    assert [r for r in decision.reasons if "country GT lose beyond chance" in r] == list(decision.reasons)
    assert decision.evidence.as_dict()["gain_low"] > 0.001


def test_a_class_with_lower_recall_rejects_the_challenger() -> None:
    """A better log loss does not buy the loss of a class."""
    champion = model(blurred(0.3), weights=(1.0, 99.0, 1.0))
    decision = gate(model(TRUTH), champion)
    assert any("it finds fewer rows of TELEFONO: recall 0.000 against 1.000" in r for r in decision.reasons)
    assert not decision.evidence.as_dict()["champion_behind_prior"]


def test_by_cost_a_challenger_whose_errors_cost_more_is_rejected() -> None:
    """A better log loss does not buy dear errors: a TELEFONO that is missed costs nine times as much as another one."""
    costs = ((0.0, 1.0, 1.0), (9.0, 0.0, 9.0), (1.0, 1.0, 0.0))
    misses = np.where(TRUTH[:, [1]] == TRUE[1, 1], [0.60, 0.06, 0.34], TRUTH)
    champion = model(blurred(0.6), costs=costs)
    result = gate(model(misses, costs=costs), champion)
    written = result.evidence.as_dict()
    assert written["gain_low"] > POLICY.margin and not result.promote
    assert any("its errors cost more: " in reason for reason in result.reasons), result.reasons
    expected = np.asarray(costs)[HOLDOUT.y, np.where(TRUTH[:, 1] == TRUE[0, 1], 1, 0)].mean()
    assert written["mean_cost"]["challenger"] == pytest.approx(expected)
    assert written["mean_cost"]["champion"] < expected - 0.1
    better = gate(model(TRUTH, costs=costs), champion)
    assert better.promote, better.reasons


def test_costs_that_changed_do_not_reject_the_challenger_for_its_recall() -> None:
    costs = ((0.0, 1.0, 1.0), (9.0, 0.0, 9.0), (1.0, 1.0, 0.0))
    champion = model(blurred(0.3))
    result = gate(model(TRUTH, costs=costs), champion)
    recall = result.evidence.as_dict()["recall"]
    assert result.promote, result.reasons
    # both classes are chosen by the costs of the challenger
    assert recall["TELEFONO"]["challenger"] == pytest.approx(recall["TELEFONO"]["champion"], abs=0.2)
    cost = result.evidence.as_dict()["mean_cost"]
    assert cost["challenger"] <= cost["champion"]
    assert "mean_cost" not in gate(model(TRUTH), champion).evidence.as_dict()


def test_recall_is_not_compared_with_a_champion_worse_than_the_prior() -> None:
    """After a drift it names a class that has become rare: no better model can find as many of them."""
    champion = blurred(0.9)
    champion[:, 1] += 0.9
    champion /= champion.sum(axis=1, keepdims=True)
    decision = gate(model(TRUTH), model(champion))
    assert decision.evidence.as_dict()["recall"]["TELEFONO"] == {"challenger": 0.0, "champion": 1.0}
    assert decision.evidence.as_dict()["champion_behind_prior"] and decision.promote, decision.reasons


@pytest.mark.parametrize(
    ("age", "after", "challenger", "promoted"),
    [(91, 90, TRUTH, True), (90, 90, TRUTH, False), (400, None, TRUTH, False), (91, 90, blurred(0.3), False)],
)
def test_an_old_champion_is_replaced_by_one_that_is_no_worse(
    age: int, after: int | None, challenger: np.ndarray, promoted: bool
) -> None:
    policy = Promotion(margin=0.001, stale_after_days=after)
    decision = gate(model(challenger, as_of=1000), model(TRUTH, as_of=1000 - age), policy=policy)
    assert decision.promote is promoted
    assert ("days old" in decision.reasons[0]) is promoted


def test_a_rejection_has_all_reasons() -> None:
    bad = Contender(np.full((N, 3), 1 / 3), CLASSES, ("weather",), us_per_row=5000.0, promotable=False)
    decision = gate(bad, model(TRUTH))
    expected = ("not temporal", "weather", "µs a row", "class prior", "not above the margin")
    assert all(any(words in r for r in decision.reasons) for words in expected)


def test_evidence_is_json_and_reproducible() -> None:
    first, second = (gate(model(TRUTH), model(blurred(0.2)), seed=3) for _ in range(2))
    assert json.dumps(first.evidence.as_dict()) == json.dumps(second.evidence.as_dict())
    keys = set(first.evidence.as_dict())
    assert {"holdout_rows", "gain", "gain_low", "level", "method", "recall", "segments"} <= keys


# the floor, a share of the log loss of the class shares: loss of the prior in nats, leak or not, message


def rare(share: float, odds: tuple[float, float], n: int = 40_000) -> tuple[np.ndarray, Holdout]:
    """True probabilities of a rare class in two equal groups, and orders that keep them exactly."""
    low, high = (share * 2 * part / sum(odds) for part in odds)
    half = n // 2
    truth = np.repeat([[1 - low, low], [1 - high, high]], half, axis=0)
    y = np.concatenate([np.arange(half) < round(low * half), np.arange(half) < round(high * half)]).astype(int)
    order = np.random.default_rng(4).permutation(n)
    return truth[order], Holdout(y[order], np.array([1 - share, share]))


LEAK = "A model without a leak does not reach that"
FLOORS = [
    # share of the rare class, odds of its groups, floor, what the challenger adds of the target, words of the rejection
    (0.01, (1, 2), 0.925, 0.0, ""),
    (0.01, (1, 2), 0.925, 0.2, LEAK),
    (0.001, (1, 3), 0.925, 0.0, ""),
    (0.5, (1, 1.4), 0.925, 0.0, ""),
    (0.5, (1, 1.4), 0.925, 0.1, LEAK),
    (0.01, (1, 1), 0.925, 0.0, "prior is not beaten beyond chance"),
    # a model without a leak of easily predictable orders: the floor belongs to other data and can be left out
    (0.01, (1, 30), 0.925, 0.0, "lower promotion.floor"),
    (0.01, (1, 30), 0.5, 0.0, ""),
    (0.01, (1, 30), None, 0.0, ""),
]


@pytest.mark.parametrize(("share", "odds", "floor", "knows", "words"), FLOORS)
def test_the_floor_is_relative_to_the_class_shares(
    share: float, odds: tuple[float, float], floor: float | None, knows: float, words: str
) -> None:
    truth, holdout = rare(share, odds)
    p = (1 - knows) * truth + knows * np.eye(2)[holdout.y]
    policy = Promotion(margin=0.0, floor=floor)
    decision = decide(Contender(p, ("NO", "YES")), None, holdout, policy, Serving(("NO", "YES"), ()))
    assert decision.promote is (words == ""), decision.reasons
    assert words in " ".join(decision.reasons)
    if words != LEAK and "lower" not in words:
        assert LEAK not in " ".join(decision.reasons)


def test_a_shifted_class_mix_is_no_leak() -> None:
    """The prior of training is far away. A model that learned the new shares is far below it, without a leak."""
    truth, holdout = rare(0.05, (1, 1.5))
    moved = replace(holdout, prior=np.array([0.5, 0.5]))
    policy = Promotion(margin=0.0, floor=0.925)
    decision = decide(Contender(truth, ("NO", "YES")), None, moved, policy, Serving(("NO", "YES"), ()))
    evidence = decision.evidence.as_dict()
    assert decision.promote and evidence["challenger_log_loss"] < 0.4 * evidence["prior_log_loss"]


# the parts


def test_the_level_of_a_year_of_looks_adds_up_to_alpha() -> None:
    levels = [level_of_look(POLICY, k) for k in range(1, 1096)]
    assert all(a > b for a, b in zip(levels, levels[1:], strict=False))
    assert 0.049 < sum(levels[:365]) <= 0.05
    assert sum(levels[365:730]) <= 0.0252 and sum(levels[730:]) <= 0.0252
    assert level_of_look(SINGLE, 1) == level_of_look(SINGLE, 900) == 0.05


# how often it errs; `make bench-gate` does the same at length


def test_single_looks_at_equal_models_promote_at_most_alpha() -> None:
    """Both have equal random errors. The margin is 0, so that only alpha limits promotions."""
    random = np.random.default_rng(11)
    policy = Promotion(margin=0.0, mode="single", segment_rows=10**9)
    looks = promoted = 0
    for seed in range(120):
        truth, holdout = scene(2_000, seed=seed + 100)
        tables = [np.exp(np.log(TRUE) + random.normal(0, 0.05, TRUE.shape)) for _ in range(2)]
        worse, better = sorted((t / t.sum(axis=1, keepdims=True) for t in tables), key=_true_loss, reverse=True)
        group = np.argmin(np.abs(truth[:, :1] - TRUE[:, 0]), axis=1)
        decision = gate(model(worse[group]), model(better[group]), holdout, policy, seed=seed)
        looks += 1
        promoted += decision.promote
    assert promoted <= binom.ppf(0.999, looks, policy.alpha)
    assert promoted > 0, "a gate that never errs at a margin of 0 does not look"


def test_a_gain_at_the_margin_is_promoted_in_at_most_alpha_of_single_looks() -> None:
    """The hardest case: the true gain is the margin itself."""
    weight = _weight_of(POLICY.margin)
    promoted = [
        gate(model(truth), model(blurred(weight, truth)), holdout, SINGLE, seed=seed).promote
        for seed in range(80)
        for truth, holdout in [scene(4_000, seed=seed + 900)]
    ]
    assert sum(promoted) <= binom.ppf(0.999, len(promoted), POLICY.alpha)


def test_a_single_look_detects_a_better_model() -> None:
    """0.3 % better beyond the margin, 30,000 orders."""
    weight = _weight_of(_true_loss(TRUE) * 0.003 + POLICY.margin)
    results = []
    for seed in range(12):
        truth, holdout = scene(30_000, seed=seed + 500)
        results.append(gate(model(truth), model(blurred(weight, truth)), holdout, SINGLE).promote)
    assert np.mean(results) >= 0.9


def _true_loss(table: np.ndarray) -> float:
    return float(-(SHARES @ (TRUE * np.log(table)).sum(axis=1)))


def _weight_of(gain: float) -> float:
    """Blur of the truth that loses the given nats."""
    return float(brentq(lambda w: _true_loss(blurred(w, TRUE)) - _true_loss(TRUE) - gain, 0.0, 1.0))


# a champion of a contract with fewer classes

WITH_WEB = Serving((*CLASSES, "WEB"), SERVING.features)


def with_web(share: float = 0.1, seed: int = 7) -> tuple[np.ndarray, Holdout]:
    """The scene with a share of rows of a fourth class, which no feature predicts."""
    truth = np.column_stack([TRUTH * (1 - share), np.full(N, share)])
    y = np.where(np.random.default_rng(seed).random(N) < share, 3, HOLDOUT.y)
    return truth, replace(HOLDOUT, y=y, prior=np.array([*PRIOR * (1 - share), share]))


def four(p: np.ndarray, **about: Any) -> Contender:
    return Contender(p, WITH_WEB.classes, ("ripeness",), **about)


def test_a_challenger_with_a_new_class_replaces_an_equal_champion() -> None:
    truth, holdout = with_web()
    decision = decide(four(truth), model(TRUTH), holdout, POLICY, WITH_WEB)
    assert decision.promote, decision.reasons
    web = int((holdout.y == 3).sum())
    assert decision.reasons[0].startswith(f"the champion does not know WEB ({web:,} rows), and on the rows of the")
    compared = decision.evidence.comparison
    assert compared is not None and compared.new_classes == ("WEB",)
    # given that the class is an old one, both models are equal
    assert abs(compared.gain) < 1e-6 and compared.recall.keys() == set(CLASSES)
    assert len(decision.curves["champion"]) == 4


def test_a_challenger_with_a_new_class_must_not_be_worse_on_the_others() -> None:
    truth, holdout = with_web()
    worse = np.column_stack([blurred(0.3) * 0.9, np.full(N, 0.1)])
    decision = decide(four(worse), model(TRUTH), holdout, POLICY, WITH_WEB)
    assert not decision.promote and "the gain over the champion is -" in decision.reasons[-1]


def test_a_new_class_without_rows_is_no_reason() -> None:
    truth = np.column_stack([TRUTH, np.full(N, 1e-6)])
    holdout = replace(HOLDOUT, prior=np.array([*PRIOR * (1 - 1e-6), 1e-6]))
    decision = decide(four(truth / truth.sum(axis=1, keepdims=True)), model(TRUTH), holdout, POLICY, WITH_WEB)
    assert not decision.promote and "not above the margin" in decision.reasons[-1]


def test_classes_in_another_order_are_compared_by_their_names() -> None:
    champion = Contender(columns(2, 0, 1), ("VENDEDOR", "DIGITAL", "TELEFONO"), ("ripeness",), weights=(1.0, 1.0, 1.0))
    decision = gate(model(TRUTH), champion)
    compared = decision.evidence.comparison
    assert not decision.promote and compared is not None and abs(compared.gain) < 1e-9
    assert all(recall.challenger == recall.champion for recall in compared.recall.values())


def test_a_champion_that_cannot_score_is_replaced_by_the_absolute_gates_alone() -> None:
    fault = "cannot score by the present contract: it needs the feature x (the contract has no column x)"
    decision = gate(model(TRUTH), None, champion_fault=fault)
    assert decision.promote and decision.reasons[0].startswith(f"the champion {fault}, so there is no comparison and")
    assert decision.evidence.champion_fault == fault and decision.evidence.comparison is None
    assert not gate(model(np.tile(PRIOR, (N, 1))), None, champion_fault=fault).promote


def test_a_champion_of_a_lost_class_is_not_compared() -> None:
    champion = Contender(TRUTH, ("DIGITAL", "TELEFONO", "FAX"), ("ripeness",))
    decision = gate(model(TRUTH), champion)
    assert decision.promote and "predicts FAX, which the contract does not have" in decision.reasons[0]
