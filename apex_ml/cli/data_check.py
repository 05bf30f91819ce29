"""`apex check`: data against a pipeline's contract, without keeping anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from apex_ml.cli.progress import shown_progress
from apex_ml.settings import Settings

if TYPE_CHECKING:
    from apex_ml.contract.per_use import Use
    from apex_ml.contract.pipeline import Pipeline


@click.command()
@click.argument("name")
@click.option(
    "--data",
    metavar="FILE|FOLDER|URL",
    help="The data. Default: the raw folder of the pipeline.",
)
@click.option(
    "--use",
    type=click.Choice(["train", "score"]),
    default="train",
    show_default=True,
    help="As raw data, or as a drop.",
)
def check(name: str, data: str | None, use: Use) -> None:
    """Check pipeline NAME's contract against data: which rows a run would quarantine, by which rule, with examples.

    Nothing is written, but copies of an object store's files into the home. Exits with 10 when a run would refuse the
    data. Needs no service.
    """
    check_pipeline(name, data, use)


def pipeline_and_data(name: str, data: str | Path | None) -> tuple[Settings, Pipeline, Path]:
    """A pipeline with its settings, and the data for it: those that are given, or its raw folder."""
    from apex_ml.contract.locations import is_object_store
    from apex_ml.pipelines import load_pipeline
    from apex_ml.services.raw_location import is_copied, local_raw

    settings = Settings.load().model_copy(update={"pipeline": name})
    pipeline = load_pipeline(settings)
    if data is None:
        return settings, pipeline, local_raw(settings, pipeline)
    url = str(data) if is_object_store(str(data)) else str(Path(data).absolute())
    return settings, pipeline, local_raw(settings, pipeline, url) if is_copied(url) else Path(data)


def check_pipeline(name: str, data: str | Path | None, use: Use) -> None:
    """Check and show. Raises :class:`~apex_ml.errors.DataError` when a run would refuse the data."""
    from rich.console import Console

    from apex_ml.platform.reports.data_check import show_check
    from apex_ml.services.data_check import check_data, refuse_problems
    from apex_ml.services.pipeline_advice import pipeline_advice
    from apex_ml.text import visible_lines

    settings, pipeline, place = pipeline_and_data(name, data)
    with shown_progress(Console(stderr=True)) as progress:
        checked = check_data(settings, pipeline.contract, place, use, progress)
    show_check(checked, Console())
    if use == "score" and checked.has_no_rows:
        click.echo("WARNING: there is no row: a run would take the drop and score nothing")
    for advice in pipeline_advice(pipeline):
        click.echo(f"WARNING: {visible_lines(advice)}")
    refuse_problems(pipeline.name, checked)
