"""Folders of pipelines for tests about several of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ORDERS = Path(__file__).resolve().parents[2] / "pipelines" / "orders" / "pipeline.yaml"


MODEL = "digital_orders_xgboost"


def text_named(name: str) -> str:
    """The file of the orders as that of another pipeline, with a registered model of its own."""
    text = ORDERS.read_text(encoding="utf-8")
    if name == "orders":
        return text
    return text.replace("name: orders\n", f"name: {name}\n", 1).replace(f"name: {MODEL}\n", f"name: {name}_model\n", 1)


def write_pipelines(folder: Path, names: Iterable[str]) -> None:
    """Write a file for each pipeline: that of the orders under another name."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "pipeline.yaml").write_text(text_named(name), encoding="utf-8")


def break_pipeline(folder: Path, name: str) -> None:
    """Give a pipeline a schedule that is none."""
    file = folder / name / "pipeline.yaml"
    text = file.read_text()
    assert text.count('"0 2 * * *"') == 1
    file.write_text(text.replace('"0 2 * * *"', "never"))
