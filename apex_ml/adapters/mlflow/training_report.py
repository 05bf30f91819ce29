"""HTML reports: one self-contained page with the numbers and the plots of a folder."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader

from apex_ml.adapters.mlflow import plots
from apex_ml.core.promotion import PromotionDecision
from apex_ml.json_text import json_file

if TYPE_CHECKING:
    from apex_ml.core.development import Development

NORMAL_95 = 1.96
"""Standard errors on either side of a mean between which the truth lies 95 times in 100."""


def training_report(folder: Path, run: str, done: Development, positive: int | None = None) -> Path:
    """Write ``report.html`` with every PNG of the folder inside; values are escaped.

    `positive` is the index of the positive one of two classes.
    """
    info, classes = done.model.info, done.model.classes
    names = {} if positive is None else {"positive": classes[positive], "negative": classes[1 - positive]}
    return _write(folder, "training", run=run, done=done, m=done.metrics, info=info, classes=classes, **names)


def decision_report(
    folder: Path, run: str, challenger: int, champion: int | None, decision: PromotionDecision, classes: tuple[str, ...]
) -> Path:
    """Write what was decided about a challenger and why: ``decision.json``, plots as PNG, and ``report.html``."""
    written, curves = decision.evidence.as_dict(), decision.curves
    content = {
        "challenger": challenger,
        "champion": champion,
        "promote": decision.promote,
        "reasons": decision.reasons,
        "evidence": written,
        "reliability": curves,
    }
    (folder / "decision.json").write_bytes(json_file(content))
    compared, absolute = decision.evidence.comparison, decision.evidence.absolute
    if compared is not None and {"gain", "gain_error", "segments", "recall"} <= set(written):
        reach = NORMAL_95 * compared.gain_error
        rows = [("all rows", compared.gain, compared.gain - reach, compared.gain + reach)]
        rows += [(f"{s.segment} {s.level}", s.gain, s.low, s.high) for s in compared.segments]
        plots.gains(rows, decision.evidence.margin, folder / "1_gains.png")
        recalls = {
            "challenger": [recall.challenger for recall in compared.recall.values()],
            "champion": [recall.champion for recall in compared.recall.values()],
        }
        plots.classes_beside(
            list(compared.recall), recalls, "Recall: rows of a class that are named so", folder / "2_recall.png"
        )
    if absolute is not None and "classes" in written:
        means = {
            "mean probability": [c.mean_probability for c in absolute.classes.values()],
            "share of the rows": [c.share for c in absolute.classes.values()],
        }
        plots.classes_beside(
            list(absolute.classes), means, "Challenger's probabilities and observed shares", folder / "3_classes.png"
        )
    if curves:
        plots.reliability(curves, classes, "Reliability on the holdout", folder / "4_reliability.png")
    return _write(folder, "decision", run=run, challenger=challenger, champion=champion, decision=decision, e=written)


def _write(folder: Path, kind: str, **content: Any) -> Path:
    pictures = [(p.stem, base64.b64encode(p.read_bytes()).decode()) for p in sorted(folder.glob("*.png"))]
    pages = Environment(autoescape=True, loader=FileSystemLoader(Path(__file__).parent))
    path = folder / "report.html"
    path.write_text(pages.get_template(f"{kind}_report.html.j2").render(plots=pictures, **content), encoding="utf-8")
    return path
