"""`apex profile`: describe a table before there is a pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from apex_ml.cli.progress import shown_progress
from apex_ml.settings import Settings
from apex_ml.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from apex_ml.core.table_profile.values import TableProfile


@click.command()
@click.argument("place", metavar="FILE|FOLDER|URL")
@click.option("--target", metavar="COLUMN", help="The column to predict: what every other column says about it.")
@click.option(
    "--timestamp", metavar="COLUMN", help="The column with the time of a row. Default: the date that most rows have."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="The page. Default: <name>-profile.html.")
def profile(place: str, target: str | None, timestamp: str | None, out: Path | None) -> None:
    """Describe the table in a parquet, CSV or JSON lines FILE, or in all such files below a FOLDER or a URL.

    Shows types, nulls, values, keys, repeated rows, the relation to a target, suspected leaks and the change over time,
    and writes an HTML page with plots. Needs no service and no pipeline. Of an object store such as s3://bucket/raw the
    objects are copied into the home first.
    """
    from rich.console import Console

    from apex_ml.adapters.pages.profile_page import write_profile_page
    from apex_ml.platform.reports.table_profile import show_profile
    from apex_ml.services.raw_location import local_table

    console = Console()
    path, _ = local_table(Settings.load(), place)
    described = compute_profile(path, target, timestamp, console)
    show_profile(described, console)
    name = re.sub(r"[^\w.-]+", "_", described.source.name)
    name = (
        re.sub(r"\.(parquet|(csv|tsv|txt|jsonl|ndjson)(\.gz|\.zst)?)$", "", name, flags=re.IGNORECASE).strip("._")
        or "table"
    )
    page = out or Path(f"{name}-profile.html")
    write_profile_page(described, page.absolute())
    click.echo(f"Page with plots: {visible(str(page))}")


def compute_profile(path: Path, target: str | None, timestamp: str | None, console: Console) -> TableProfile:
    """Describe a table; a terminal shows what is computed meanwhile."""
    from apex_ml.adapters.duckdb.table_profile import profile_table

    with shown_progress(console) as progress:
        return profile_table(Settings.load(), path, target, timestamp, progress)
