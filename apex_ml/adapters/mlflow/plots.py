"""Plots of a training run, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from apex_ml.core.binary import Threshold
    from apex_ml.core.explanation import Contribution
    from apex_ml.core.selection import FeatureVerdict

BLUE, ORANGE = "#1f6fb2", "#d9822b"
matplotlib.rcParams["text.parse_math"] = False  # names of classes and columns are no formulas


def _label(name: str, longest: int = 48) -> str:
    """A name as a label: cut when it is long, and never one of those that matplotlib leaves out of a legend."""
    name = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return f" {name}" if name.startswith("_") else name


def _class_labels(classes: Sequence[str]) -> list[str]:
    return [_label(name, 20) for name in classes]


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


def confusion_matrix(matrix: Sequence[Sequence[int]], classes: Sequence[str], named: str, path: Path) -> None:
    """Counts on the test part, true class by named class, shaded by share of the true class."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(5.5, 4.5))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        dark = shares[row, column] > 0.5
        text = f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set(xlabel=named, ylabel="true class", title="Confusion matrix, test part")
    axes.set_xticks(range(len(classes)), _class_labels(classes))
    axes.set_yticks(range(len(classes)), _class_labels(classes))
    _save(figure, path)


def reliability(
    series: Mapping[str, Sequence[Sequence[tuple[float, float, int]]]], classes: Sequence[str], title: str, path: Path
) -> None:
    """Observed share against probability in equal-mass bins, one panel a class, every series in its own colour."""
    figure, panels = plt.subplots(1, len(classes), figsize=(4 * len(classes), 4), squeeze=False)
    for k, axes in enumerate(panels[0]):
        for (label, curves), colour, marker in zip(series.items(), (ORANGE, BLUE), "os", strict=False):
            axes.plot(
                [b[0] for b in curves[k]], [b[1] for b in curves[k]], marker, color=colour, label=label, alpha=0.8
            )
        largest = max([b[i] for curves in series.values() for b in curves[k] for i in (0, 1)], default=1.0) * 1.1
        axes.plot([0, largest], [0, largest], ":", color="grey")
        axes.set(xlabel="probability", ylabel="observed share", title=_class_labels(classes)[k])
        axes.legend()
    figure.suptitle(title)
    _save(figure, path)


def thresholds(rows: Sequence[Threshold], positive: str, path: Path) -> None:
    """Precision and recall of every threshold of the positive class's probability, and the ROC curve beside them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    at = [row.threshold for row in rows]
    precise = [(row.threshold, row.precision) for row in rows if row.precision is not None]
    left.plot([x for x, _ in precise], [y for _, y in precise], color=BLUE, label="precision")
    left.plot(at, [row.recall for row in rows], color=ORANGE, label="recall")
    left.set(xlabel=f"predict {_label(positive, 20)} from this probability", ylim=(0, 1.02), title="Thresholds")
    left.legend()
    # the two ends of the curve: no row is predicted positive, and every row is
    rates = [(0.0, 0.0), *sorted((row.false_positive_rate, row.recall) for row in rows), (1.0, 1.0)]
    right.plot([x for x, _ in rates], [y for _, y in rates], color=BLUE)
    right.plot([0, 1], [0, 1], ":", color="grey")
    right.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC curve, test part")
    _save(figure, path)


def gains(rows: Sequence[tuple[str, float, float, float]], margin: float, path: Path) -> None:
    """Gains over the champion, as (name, gain, low, high), beside zero and the margin; the first row decides."""
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(rows) + 1.6))
    for place, (_, gain, low, high) in enumerate(rows):
        colour = BLUE if place == 0 else "#7f93a3"
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([gain], [place], "o", color=colour)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.axvline(margin, color=ORANGE, linestyle="--", label=f"margin {margin:g}")
    axes.set_yticks(range(len(rows)), [_label(name) for name, *_ in rows])
    axes.invert_yaxis()
    axes.set(xlabel="log loss of the champion less that of the challenger (nats)", title="Gain over the champion")
    axes.legend()
    _save(figure, path)


def classes_beside(classes: Sequence[str], series: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """Bars of every series side by side, by class."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    width = 0.8 / len(series)
    for place, ((name, values), colour) in enumerate(zip(series.items(), (BLUE, ORANGE, "#8a949c"), strict=False)):
        bars = axes.bar(np.arange(len(classes)) + place * width, values, width, label=name, color=colour)
        axes.bar_label(bars, fmt="{:.1%}", fontsize=8)
    axes.margins(y=0.12)
    axes.set_xticks(np.arange(len(classes)) + width * (len(series) - 1) / 2, _class_labels(classes))
    axes.set(ylabel="share", title=title)
    axes.legend()
    _save(figure, path)


def importance(rises: Mapping[str, float], path: Path) -> None:
    """Rise of the test log loss when a feature is permuted."""
    ranking = sorted(rises, key=lambda name: rises[name])
    figure, axes = plt.subplots(figsize=(7, 0.35 * len(ranking) + 1.4))
    axes.barh(range(len(ranking)), [rises[name] for name in ranking], color=BLUE)
    axes.set_yticks(range(len(ranking)), list(map(_label, ranking)))
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="rise of the log loss when permuted (nats)", title="Permutation importance, test part")
    _save(figure, path)


def contributions(rows: Sequence[Contribution], path: Path) -> None:
    """Mean absolute contribution of every feature, one bar a class."""
    classes = list(rows[0].classes)
    figure, axes = plt.subplots(figsize=(8, 0.14 * (len(classes) + 1) * len(rows) + 1.6))
    places, height = np.arange(len(rows)), 0.8 / len(classes)
    for k, name in enumerate(classes):
        values = [row.classes[name] for row in reversed(rows)]
        axes.barh(places + (len(classes) / 2 - k - 0.5) * height, values, height, label=_label(name, 20))
    axes.set_yticks(places, [_label(row.feature) for row in reversed(rows)])
    axes.set(xlabel="mean absolute contribution (log odds)", title=f"Contributions, {rows[0].rows:,} test rows")
    axes.legend()
    _save(figure, path)


def selection(verdicts: Sequence[FeatureVerdict], path: Path) -> None:
    """Importance of every feature beside the noise of the best permuted copy."""
    ranking = sorted(verdicts, key=lambda v: v.importance or 0.0)
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(ranking) + 1.4))
    colours = [BLUE if v.kept else "#b8c4ce" for v in ranking]
    axes.barh(range(len(ranking)), [v.importance or 0.0 for v in ranking], color=colours)
    axes.set_yticks(range(len(ranking)), [_label(v.name) for v in ranking])
    axes.axvline(ranking[0].noise, color=ORANGE, linestyle="--", label="best permuted copy")
    axes.set_xscale("symlog", linthresh=max(ranking[0].noise, 1e-6))
    axes.set(
        xlabel="rise of the validation log loss when permuted (nats)", title="Features kept (blue) and dropped (grey)"
    )
    axes.legend()
    _save(figure, path)
