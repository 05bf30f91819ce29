"""Commands on stored data: `apex export`, `apex prune`, `apex remove-drop`."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import click

from apex_ml.errors import ConfigError
from apex_ml.settings import Settings
from apex_ml.wording import counted


@click.command()
@click.argument("what", metavar="RUN_ID|DROP")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Parquet file to write; an existing file is replaced. Default: run-<id>.parquet in the working folder.",
)
def export(what: str, out: Path | None) -> None:
    """Write the scored rows of a run to a parquet file.

    A number is a run_id; a name is that of a drop, whose latest run is exported. The metadata of the file has drop,
    model version and MLflow run.
    """
    from apex_ml.adapters.postgres.connection import transaction
    from apex_ml.adapters.postgres.scored_rows import export_run
    from apex_ml.adapters.postgres.scoring_runs import PostgresScoringRuns
    from apex_ml.pipelines import load_pipeline

    if out is not None and not out.parent.exists():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it, or name another one")
    settings = Settings.load()
    pipeline = load_pipeline(settings)
    schema = pipeline.schema
    with transaction(settings, schema) as session:
        facts = PostgresScoringRuns(session).facts(what)
    path = out or Path(f"run-{facts['run_id']}.parquet")
    written = export_run(settings, schema, int(facts["run_id"]), path, facts)
    click.echo(f"{path}: {written:,} {pipeline.rows} of run {facts['run_id']} ({facts['drop']}, {facts['model']})")


@click.command()
@click.option("--keep", default="90d", show_default=True, metavar="DAYS", help="What is younger stays: 90d, 12w.")
@click.option(
    "--apply", "really", is_flag=True, help="Remove. Without it, the command only shows what would be removed."
)
def prune(keep: str, really: bool) -> None:
    """Remove old partitions of scored rows, old online answers, and unreferenced outputs of old runs.

    Of the pipeline of -p NAME or APEX_PIPELINE; without one, of every pipeline. Copies of the files of locations that
    no pipeline names any more are removed, too.

    A partition is dropped when every run in it is older. The ledger of the drops and the statistics stay, and so does
    everything that a champion, stored scores or the next run need.
    """
    from apex_ml.pipeline_settings import pipeline_file, settings_by_pipeline

    if not (given := re.fullmatch(r"(\d{1,5})([dw])", keep)):
        raise ConfigError(f"--keep {keep!r}: give days or weeks, such as 90d or 12w")
    days = int(given[1]) * (7 if given[2] == "w" else 1)
    settings = Settings.load()
    by_pipeline = settings_by_pipeline(settings)
    if settings.pipeline or len(by_pipeline) < 2:
        pipeline_file(settings)  # an error when there is none
        by_pipeline = {"": settings}
    faults = []
    for name, own in by_pipeline.items():
        if name:
            click.echo(f"pipeline {name}")
        try:
            _prune_pipeline(own, timedelta(days=days), really)
        except ConfigError as error:  # of one pipeline: the others are pruned anyway
            if not name:
                raise
            faults.append(str(error))
    _prune_copies(settings, really)
    if faults:
        raise ConfigError("; ".join(faults))


def _prune_copies(settings: Settings, really: bool) -> None:
    """Show, and with `really` remove, the copies of locations that no pipeline names any more."""
    from apex_ml.pipeline_settings import load_all_pipeline_settings
    from apex_ml.services.former_copies import find_former_copies, remove_former_copies

    pipelines, unreadable = load_all_pipeline_settings(settings)
    former = find_former_copies(settings, pipelines, unreadable)
    for copies in former:
        click.echo(f"copies     {copies.folder}, {copies.bytes / 2**20:,.1f} MiB, of a location that no pipeline names")
    if really:
        remove_former_copies(former)


def _prune_pipeline(settings: Settings, keep: timedelta, really: bool) -> None:
    """Show, and with `really` remove, the old data of the pipeline of the settings."""
    from apex_ml.pipelines import load_pipeline
    from apex_ml.services.run_folder import StepContext
    from apex_ml.steps.prune import find_prunable
    from apex_ml.steps.prune import prune as work

    context = StepContext(settings, load_pipeline(settings), "prune")
    removable = find_prunable(context, keep)
    for part in removable.partitions:
        newest = f"newest of {part.newest:%Y-%m-%d}" if part.newest else "without runs"
        click.echo(f"partition  runs {part.low} to {part.high - 1}, {newest}, {part.bytes / 2**20:,.1f} MiB")
    for stored in removable.runs:
        click.echo(f"run        {stored.name}")
    for run, reason in removable.kept.items():
        click.echo(f"stays      {run}: {reason}")
    what = f"{counted(len(removable.partitions), 'partition')} and {counted(len(removable.runs), 'run')}"
    what += f", {removable.bytes / 2**20:,.1f} MiB"
    if removable.answers:
        what = f"{removable.answers:,} online answers, {what}"
    if not really:
        click.echo(f"Would remove {what}. Nothing is removed yet: add --apply")
        return
    work(context, removable)
    click.echo(f"Removed {what}.")


@click.command("remove-drop")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--invented", is_flag=True, help="All drops of rows that `apex run` invented.")
@click.option(
    "--apply", "really", is_flag=True, help="Remove. Without it, the command only shows what would be removed."
)
def remove_drop(names: tuple[str, ...], invented: bool, really: bool) -> None:
    """Remove drops that should not have been scored: their rows, outcomes, drift, alerts, ledger rows and files.

    A drop that one of them superseded counts again. Runs in MLflow stay.
    """
    from apex_ml.pipelines import load_pipeline
    from apex_ml.services.run_folder import StepContext
    from apex_ml.steps.removal import find_removable, remove

    if not names and not invented:
        raise ConfigError("remove-drop: name drops, or give --invented")
    settings = Settings.load()
    context = StepContext(settings, load_pipeline(settings), "remove-drop")
    noun = context.pipeline.rows
    removable = find_removable(context, names, invented)
    for drop in removable:
        click.echo(f"drop       {drop.name}, {drop.state}, {drop.rows:,} scored {noun}, sha256 {drop.sha256[:12]}")
    what = f"{counted(len(removable), 'drop')} with {sum(drop.rows for drop in removable):,} scored {noun}"
    if not really:
        click.echo(f"Would remove {what}. Nothing is removed yet: add --apply")
        return
    remove(context, removable)
    click.echo(f"Removed {what}.")
