"""Years of weekly quality, drawn directly: nothing is trained, yet evaluated by the rules of the step monitor.

Clients differ in ways that the model does not know, and some order far more often than others, so that the orders of a
week, and those of different weeks, are not independent. The model is calibrated over all clients. Its expectation comes
from a test part of one order a client, as in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apex_ml.core.degradation import Expectation, Rule, Sustained, WeekQuality, sustained, week_quality
from apex_ml.core.evaluation import row_losses

CLASSES = ("a", "b", "c")
P = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7], [0.4, 0.3, 0.3]])
CLIENT_SPREAD = 0.5
"""Deviation of a client's own logits, which no feature shows."""


@dataclass
class Year:
    """One champion's year: its expectation, then week after week of orders with outcomes."""

    seed: int
    clients: int = 15_000
    test_orders: int = 2_250
    orders_a_week: int = 6_000
    weeks: int = 52

    def __post_init__(self) -> None:
        self.random = np.random.default_rng([self.seed, 11])
        self.group = self.random.integers(0, len(P), self.clients)
        logits = np.log(P[self.group]) + self.random.normal(0, CLIENT_SPREAD, (self.clients, len(CLASSES)))
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        self.chances = chances / chances.sum(axis=1, keepdims=True)
        self.model = np.stack([self.chances[self.group == g].mean(axis=0) for g in range(len(P))])
        self.often = self.random.gamma(1.0, 1.0, self.clients)
        self.often /= self.often.sum()
        tested = self.random.choice(self.clients, self.test_orders, replace=False)
        losses = row_losses(self.model[self.group[tested]], self._outcomes(tested))
        self.expected = Expectation.of(losses, tested)

    def _outcomes(self, clients: np.ndarray, spoiled: float = 0.0) -> np.ndarray:
        drawn = (self.random.random((len(clients), 1)) > self.chances[clients].cumsum(axis=1)[:, :-1]).sum(axis=1)
        redrawn = self.random.integers(0, len(CLASSES), len(clients))
        return np.where(self.random.random(len(clients)) < spoiled, redrawn, drawn)

    def week(self, rule: Rule, spoiled: float = 0.0) -> WeekQuality:
        """One week; a share of its outcomes is drawn evenly when it is spoiled."""
        clients = self.random.choice(self.clients, self.orders_a_week, p=self.often)
        p = self.model[self.group[clients]]
        return week_quality(
            p, self._outcomes(clients, spoiled), p.argmax(axis=1), clients, CLASSES, self.expected, rule
        )

    def live(self, rule: Rule, spoiled: float = 0.0, since: int = 0) -> tuple[list[WeekQuality], list[Sustained]]:
        """The verdicts of all weeks, and the evidence over them; spoiled from a week on, counted from 0."""
        weeks = [self.week(rule, spoiled if n >= since else 0.0) for n in range(self.weeks)]
        points = [(week.log_loss, week.log_loss_error) for week in weeks]
        return weeks, sustained(points, self.expected.log_loss, self.expected.standard_error, rule)


def first_alarm(weeks: list[Sustained]) -> int | None:
    """Number of the first week, counted from 0, after which the evidence suffices."""
    return next((n for n, s in enumerate(weeks) if s.alarm), None)
