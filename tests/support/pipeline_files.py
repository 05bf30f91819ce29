"""Folders of pipelines for tests about several of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ORDERS = Path(__file__).resolve().parents[2] / "pipelines" / "orders" / "pipeline.yaml"


def write_pipelines(folder: Path, names: Iterable[str]) -> None:
    """Write a file for each pipeline: that of the orders under another name."""
    text = ORDERS.read_text()
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "pipeline.yaml").write_text(text.replace("name: orders", f"name: {name}", 1))


def break_pipeline(folder: Path, name: str) -> None:
    """Give a pipeline a schedule that is none."""
    file = folder / name / "pipeline.yaml"
    text = file.read_text()
    assert text.count('"0 2 * * *"') == 1
    file.write_text(text.replace('"0 2 * * *"', "never"))
