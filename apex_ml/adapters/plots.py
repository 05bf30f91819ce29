"""Plots of a training run, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import xgboost as xgb
from matplotlib.figure import Figure

from apex_ml.core.estimator import Model

BLUE, ORANGE = "#1f6fb2", "#d9822b"


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def learning_curve(curve: Mapping[str, Sequence[float]], best: int, path: Path) -> None:
    """Log loss on train and validation by boosting round, the chosen round marked."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for (part, values), colour in zip(curve.items(), (BLUE, ORANGE), strict=False):
        axes.plot(range(1, len(values) + 1), values, label=part, color=colour)
    axes.axvline(best + 1, color="grey", linestyle=":", label=f"chosen: {best + 1} rounds")
    axes.set(xlabel="boosting round", ylabel="log loss (nats)", title="Learning curve")
    axes.legend()
    _save(figure, path)


def confusion_matrix(matrix: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> None:
    """Counts on the test part, true class by most probable class, shaded by share of the true class."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(5.5, 4.5))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        dark = shares[row, column] > 0.5
        text = f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix, test part")
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    _save(figure, path)


def importance(model: Model, path: Path) -> None:
    """Total gain of each feature over all trees, as a share."""
    booster = xgb.Booster(model_file=bytearray(model.booster))
    gains = booster.get_score(importance_type="total_gain")
    values = np.array([float(np.sum(gains.get(f"f{i}", 0.0))) for i in range(len(model.encoder.names))])
    shares = values / max(values.sum(), 1e-12)
    order = np.argsort(shares)
    figure, axes = plt.subplots(figsize=(7, 0.3 * len(order) + 1.2))
    axes.barh([model.encoder.names[i] for i in order], shares[order], color=BLUE)
    axes.set(xlabel="share of total gain", title="Feature importance (gain)")
    _save(figure, path)
