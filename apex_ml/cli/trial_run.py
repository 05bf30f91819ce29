"""`apex try`: a night of a pipeline on a sample, without the platform."""

from __future__ import annotations

from pathlib import Path

import click

from apex_ml.cli.data_check import pipeline_and_data
from apex_ml.cli.progress import shown_progress


@click.command("try")
@click.argument("name")
@click.option(
    "--from",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="The data. Default: the raw folder of the pipeline.",
)
def try_command(name: str, path: Path | None) -> None:
    """Check pipeline NAME's data, then train on a sample: what is quarantined, which features stay, how good it is.

    The scores of the test rows stand beside those of the class prior, logistic regression and XGBoost with defaults.
    All rows are checked; the sample has at most 50,000 examples. Nothing is kept. Exits with 10 when a run would refuse
    the data. Needs no service.
    """
    from rich.console import Console

    from apex_ml.platform.reports.data_check import show_check
    from apex_ml.platform.reports.trial_run import show_trial_run
    from apex_ml.platform.trial_run import try_pipeline

    settings, pipeline, place = pipeline_and_data(name, path)
    console = Console()
    with shown_progress(Console(stderr=True)) as progress:
        result = try_pipeline(settings, pipeline, place, lambda checked: show_check(checked, console), progress)
    show_trial_run(result, console)
