"""The result of a night on a sample as one HTML file: without scripts, without anything that a browser would load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from apex_ml.adapters.pages import profile_page
from apex_ml.adapters.pages.profile_page import MAX_COLORS, gain_text, label, share_text
from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.core.binary import Threshold
from apex_ml.core.plain_models import PlainModel
from apex_ml.core.selection import FeatureVerdict
from apex_ml.platform.reports.data_check import column_lines, row_counts, rule_rows
from apex_ml.platform.reports.trial_run import example_lines, extra_scores, ranked_verdicts, sample_lines, score_row
from apex_ml.platform.trial_run import TrialRun
from apex_ml.services.data_check import DataCheck

MAX_FEATURES = 200
MAX_CONFUSION = 12
"""Classes up to which the table of predicted by true classes is shown."""
LEFT, RIGHT = 190, 690
"""Edges of the chart of gains, in its own units."""


def write_trial_page(name: str, check: DataCheck, run: TrialRun, path: Path) -> None:
    """Write the page of pipeline `name`; names and values of the data are escaped."""
    write_atomically(path, trial_page(name, check, run).encode())


def trial_page(name: str, check: DataCheck, run: TrialRun) -> str:
    """The page as HTML."""
    folders = [Path(__file__).parent, Path(profile_page.__file__).parent]
    pages = Environment(autoescape=True, loader=FileSystemLoader(folders), trim_blocks=True)
    pages.filters |= {"label": label, "share": share_text, "gain": gain_text}
    done, names = run.development, [label(name) for name in run.development.model.classes]
    verdicts = ranked_verdicts(run)
    points, limit = _reliability(run)
    extra = extra_scores(run.compared)
    return pages.get_template("trial_page.html.j2").render(
        name=name,
        verdict=verdict(run),
        **_gains(run.compared),
        extra=list(extra),
        scores=[score_row(run, nr, extra) for nr in range(len(run.compared))],
        test_rows=run.parts.parts["test"].examples,
        data=[row_counts(check), *sample_lines(run), *example_lines(run), *column_lines(check)],
        rules=rule_rows(check),
        verdicts=verdicts[:MAX_FEATURES],
        hidden=max(len(verdicts) - MAX_FEATURES, 0),
        top_importance=_top_importance(verdicts),
        alone={feature.name: feature.gain for feature in done.single_features},
        used=done.model.encoder.names,
        classes=names,
        class_rows=_class_rows(run, names),
        confusion=_confusion(done.tables.confusion_weighted) if len(names) <= MAX_CONFUSION else [],
        thresholds=done.tables.thresholds,
        positive="" if run.options.positive is None else names[run.options.positive],
        area=_area(done.metrics),
        curves=_curves(done.tables.thresholds),
        calibration=_calibration(run),
        reliability=points,
        limit=limit,
        segments=done.tables.segments,
    )


def verdict(run: TrialRun) -> list[str]:
    """What the scores mean, in sentences: the most important one first."""
    prior, own = run.compared[0], run.compared[-1]
    sentences = [
        f"Apex predicts the right class for {own.accuracy:.1%} of the test rows. Always the most frequent class is"
        f" right for {prior.accuracy:.1%}.",
        f"Its log loss is {own.log_loss:.4f}, {abs(1 - own.log_loss / prior.log_loss):.1%}"
        f" {'below' if own.log_loss <= prior.log_loss else 'above'} that of the class shares alone.",
    ]
    if own.mean_cost is not None and prior.mean_cost is not None:
        sentences.append(
            f"A row costs {own.mean_cost:.4g} on average, by the costs of the pipeline; the most frequent class for all"
            f" rows would cost {prior.mean_cost:.4g}."
        )
    for model in run.compared[1:-1]:
        gain, low, high = model.gain or (0.0, 0.0, 0.0)
        what = "better than" if low > 0 else "worse than" if high < 0 else "not clearly different from"
        sentences.append(f"Apex is {what} {model.way} ({gain:+.4f} nats, {low:+.4f} to {high:+.4f}).")
    return sentences


def _gains(compared: Sequence[PlainModel]) -> dict[str, Any]:
    """Places of the intervals on the chart, and of the line where both are equal."""
    gains = [(model.way, *model.gain) for model in compared if model.gain]
    low = min(0.0, *(row[2] for row in gains))
    reach = max(0.0, *(row[3] for row in gains)) - low or 1.0

    def place(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (value - low) / reach, 1)

    return {
        "zero": place(0.0),
        "gains": [
            {
                "way": way,
                "middle": place(gain),
                "left": place(first),
                "right": place(last),
                "text": f"{gain:+.4f} ({first:+.4f} to {last:+.4f})",
            }
            for way, gain, first, last in gains
        ],
    }


def _top_importance(verdicts: Sequence[FeatureVerdict]) -> float:
    return max([v.importance or 0.0 for v in verdicts], default=0.0) or 1.0


def _class_rows(run: TrialRun, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows, precision, recall and F1 of each class, of the class that a drop would be given."""
    rows: list[tuple[str, ...]] = []
    counts = run.development.tables.confusion_weighted
    for k, name in enumerate(names):
        hits, of_class, predicted = counts[k][k], sum(counts[k]), sum(row[k] for row in counts)
        rows.append(
            (
                name,
                f"{of_class:,}",
                share_text(hits / predicted) if predicted else "never predicted",
                share_text(hits / of_class) if of_class else "",
                f"{2 * hits / (of_class + predicted):.3f}" if of_class + predicted else "",
            )
        )
    return rows


def _confusion(counts: Sequence[Sequence[int]]) -> list[list[tuple[int, float]]]:
    """Each count with its share of the true class."""
    return [[(n, n / max(sum(row), 1)) for n in row] for row in counts]


def _area(metrics: dict[str, float]) -> str:
    if "test_auc" not in metrics:
        return "All test rows are of one class, so that there is no AUC."
    area, low, high = (metrics[name] for name in ("test_auc", "test_auc_low", "test_auc_high"))
    precision, chance = metrics["test_average_precision"], metrics["test_positive_share"]
    return (
        f"AUC {area:.4f} ({low:.4f} to {high:.4f}), average precision {precision:.4f}; chance gives 0.5 and"
        f" {chance:.4f}."
    )


def _curves(rows: Sequence[Threshold]) -> dict[str, str]:
    """Precision and recall as points of the chart of thresholds."""

    def points(name: str) -> str:
        places = [(row.threshold, getattr(row, name)) for row in rows]
        return " ".join(f"{40 + 650 * x:.1f},{190 - 180 * y:.1f}" for x, y in places if y is not None)

    return {"precision": points("precision"), "recall": points("recall")}


def _calibration(run: TrialRun) -> str:
    metrics, method = run.development.metrics, run.development.model.calibration.method
    return (
        f"Calibrated by: {method}. Mean distance of probability and observed share: {metrics['test_ece']:.4f}"
        f" ({metrics['test_ece_low']:.4f} to {metrics['test_ece_high']:.4f})."
    )


def _reliability(run: TrialRun) -> tuple[list[tuple[str, list[tuple[float, float, str]]]], str]:
    """For each of the first classes the points of its chart; also the largest value of both axes."""
    bins = run.development.tables.reliability_after[:MAX_COLORS]
    largest = max([max(p, share) for points in bins for p, share, _ in points], default=1.0)
    limit = min(1.0, -(-largest * 10 // 1) / 10) or 1.0
    charts = [
        [
            (
                round(30 + 180 * p / limit, 1),
                round(190 - 180 * share / limit, 1),
                f"probability {p:.3f}, observed {share:.3f}, {rows:,} rows",
            )
            for p, share, rows in points
        ]
        for points in bins
    ]
    names = map(label, run.development.model.classes)
    return list(zip(names, charts, strict=False)), f"{limit:g}"
