"""Commands on what is in Postgres: `apex export`."""

from __future__ import annotations

from pathlib import Path

import click

from apex_ml.settings import Settings


@click.command()
@click.argument("what", metavar="RUN_ID|DROP")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Parquet file to write, replacing one that is there. Default: run-<id>.parquet in the working folder.",
)
def export(what: str, out: Path | None) -> None:
    """Write the scored orders of a run to a parquet file.

    A number is a run_id; a name is a drop's, of which the latest run is taken. The file's own metadata tells drop,
    model version and MLflow run.
    """
    from apex_ml.adapters import scored, warehouse

    settings = Settings.load()
    facts = warehouse.run_facts(settings, what)
    path = out or Path(f"run-{facts['run_id']}.parquet")
    written = scored.export_run(settings, int(facts["run_id"]), path, facts)
    click.echo(f"{path}: {written:,} orders of run {facts['run_id']} ({facts['drop']}, {facts['model']})")
