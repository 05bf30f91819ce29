"""`apex try`: a night of a pipeline on a sample, without the platform."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from apex_ml.cli.data_check import pipeline_and_data
from apex_ml.cli.progress import shown_progress
from apex_ml.text import visible

if TYPE_CHECKING:
    from apex_ml.services.data_check import DataCheck


@click.command("try")
@click.argument("name")
@click.option(
    "--from",
    "given",
    metavar="FILE|FOLDER|URL",
    help="The data. Default: the raw folder of the pipeline.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="The page. Default: <name>-try.html.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="The time that it may take, about; a training that would take longer ends early.",
)
def try_command(name: str, given: str | None, out: Path | None, minutes: float) -> None:
    """Check pipeline NAME's data, then train on a sample: what is quarantined, which features stay, how good it is.

    The scores of the test rows stand beside those of the class prior, logistic regression and XGBoost with defaults.
    All rows are checked; the sample has at most 50,000 examples. Also writes an HTML page with plots, and keeps nothing
    else. Exits with 10 when a run would refuse the data. Needs no service.
    """
    from rich.console import Console

    from apex_ml.platform.reports.data_check import show_check
    from apex_ml.platform.reports.trial_page import write_trial_page
    from apex_ml.platform.reports.trial_run import show_trial_run
    from apex_ml.platform.trial_run import try_pipeline

    settings, pipeline, place = pipeline_and_data(name, given)
    console = Console()
    checks: list[DataCheck] = []

    def on_check(check: DataCheck) -> None:
        checks.append(check)
        show_check(check, console)

    with shown_progress(Console(stderr=True)) as progress:
        result = try_pipeline(settings, pipeline, place, on_check, progress, seconds=60 * minutes)
    show_trial_run(result, console)
    page = out or Path(f"{name}-try.html")
    write_trial_page(name, checks[0], result, page.absolute())
    click.echo(f"Page with plots: {visible(str(page))}")
