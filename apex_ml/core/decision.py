"""Decision weights choose the predicted class. They do not change the probabilities.

On imbalanced data a rare class may never be the most probable one. Where a pipeline asks for it (``model.decision:
macro_f1``), the predicted class is the argmax of weight × probability, with weights tuned for macro-F1 on validation.
Without, it is the most probable class: all weights are 1.
"""

from __future__ import annotations

import numpy as np

GRID = np.exp(np.linspace(np.log(0.25), np.log(4.0), 33))


def decide(p: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """Index of the predicted class, shape (n,). Of equal products the first class wins."""
    predicted: np.ndarray = (p * np.asarray(weights, p.dtype)).argmax(axis=1)
    return predicted


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
