"""HTML reports: one self-contained page with the numbers and the plots of a folder."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment

from apex_ml.core.development import Development

TEMPLATE = Path(__file__).with_name("training_report.html.j2")


def training_report(folder: Path, run: str, done: Development) -> Path:
    """Write ``report.html`` with every PNG of the folder inside; values are escaped."""
    pictures = [(p.stem, base64.b64encode(p.read_bytes()).decode()) for p in sorted(folder.glob("*.png"))]
    page = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = page.render(
        run=run, done=done, m=done.metrics, about=done.model.about, classes=done.model.classes, plots=pictures
    )
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path
