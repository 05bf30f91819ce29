"""Choose the predicted class by weights or by costs. Neither changes the probabilities.

On imbalanced data a rare class may never be the most probable one. Where a pipeline asks for it (``model.decision:
macro_f1``), the predicted class is the argmax of weight × probability, with weights tuned for macro-F1 on validation.
With ``model.decision: cost`` it is the class with the lowest expected cost. Otherwise it is the most probable class:
all weights are 1.
"""

from __future__ import annotations

import numpy as np

GRID = np.exp(np.linspace(np.log(0.25), np.log(4.0), 33))


Costs = tuple[tuple[float, ...], ...]
"""Cost of each true class (row) that is predicted as each class (column)."""


def decide(p: np.ndarray, weights: tuple[float, ...] = (), costs: Costs = ()) -> np.ndarray:
    """Index of the predicted class, shape (n,): by costs where there are any, else by weights, without both the argmax.

    Of equally good classes the first one wins.
    """
    predicted: np.ndarray
    if costs:
        predicted = expected_costs(p, costs).argmin(axis=1)
    else:
        predicted = (p * np.asarray(weights or (1.0,) * p.shape[1], p.dtype)).argmax(axis=1)
    return predicted


def expected_costs(p: np.ndarray, costs: Costs) -> np.ndarray:
    """Expected cost of predicting each class, float64, shape (n, k).

    The sum is taken class by class: a product of matrices adds in an order that depends on the number of rows, so that
    one row could get another class than the same row in a drop.
    """
    matrix = np.asarray(costs, np.float64)
    expected = np.zeros(p.shape)
    for actual in range(p.shape[1]):
        expected += p[:, actual, None].astype(np.float64) * matrix[actual]
    return expected


def row_costs(y: np.ndarray, predicted: np.ndarray, costs: Costs) -> np.ndarray:
    """Cost of every row, shape (n,), by its class and its predicted class."""
    chosen: np.ndarray = np.asarray(costs, np.float64)[y, predicted]
    return chosen


def macro_f1(y: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean F1 over the classes; a class that is neither observed nor predicted counts as 0."""
    from sklearn.metrics import f1_score

    return float(f1_score(y, predicted, labels=np.arange(classes), average="macro", zero_division=0))


def tune(p: np.ndarray, y: np.ndarray, sweeps: int = 3) -> tuple[float, ...]:
    """Weights that give the highest macro-F1, by coordinate ascent over a fixed grid; the first class has weight 1.

    Deterministic. Returns equal weights unless others are better by more than 0.001.
    """
    classes = p.shape[1]
    plain = np.ones(classes)
    if len(y) == 0:
        return tuple(plain.tolist())
    weights, best = plain.copy(), macro_f1(y, decide(p, tuple(plain)), classes)
    start = best
    for _ in range(sweeps):
        before = best
        for k in range(1, classes):
            for value in GRID:
                tried = weights.copy()
                tried[k] = value
                score = _fast_macro_f1(p, y, tried)
                if score > best + 1e-9:
                    best, weights = score, tried
        if best <= before:
            break
    chosen = weights if best > start + 1e-3 else plain
    return tuple(map(float, chosen))


def _fast_macro_f1(p: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    classes = p.shape[1]
    predicted = (p * weights.astype(p.dtype)).argmax(axis=1)
    counts = np.bincount(y * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    hits = np.diag(counts)
    total = counts.sum(axis=0) + counts.sum(axis=1)
    return float(np.mean(2 * hits / np.maximum(total, 1)))
