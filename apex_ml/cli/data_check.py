"""`apex check`: data against a pipeline's contract, without keeping anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from apex_ml.settings import Settings

if TYPE_CHECKING:
    from apex_ml.contract.per_use import Use


@click.command()
@click.argument("name")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="The data. Default: the raw folder of the pipeline.",
)
@click.option(
    "--use",
    type=click.Choice(["train", "score"]),
    default="train",
    show_default=True,
    help="As raw data, or as a drop.",
)
def check(name: str, data: Path | None, use: Use) -> None:
    """Check pipeline NAME's contract against data: which rows a run would quarantine, by which rule, with examples.

    Nothing is written. Exits with 10 when a run would refuse the data. Needs no service.
    """
    check_pipeline(name, data, use)


def check_pipeline(name: str, data: Path | None, use: Use) -> None:
    """Check and show. Raises :class:`~apex_ml.errors.DataError` when a run would refuse the data."""
    from rich.console import Console

    from apex_ml.adapters.storage.locations import local_folder
    from apex_ml.pipelines import load_pipeline
    from apex_ml.platform.reports.data_check import show_check
    from apex_ml.services.data_check import check_data, refuse_problems
    from apex_ml.text import shortened_line

    settings = Settings.load().model_copy(update={"pipeline": name})
    pipeline = load_pipeline(settings)
    place = data or local_folder(pipeline.locations.raw, "locations.raw")
    console = Console()
    with Console(stderr=True).status("files") as status:
        checked = check_data(
            settings, pipeline.contract, place, use, lambda file: status.update(shortened_line(file, 70))
        )
    show_check(checked, console)
    refuse_problems(pipeline.name, checked)
