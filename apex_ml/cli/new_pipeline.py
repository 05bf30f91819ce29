"""`apex init`: a first pipeline for a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from apex_ml.errors import ConfigError, DataError
from apex_ml.settings import Settings
from apex_ml.text import visible
from apex_ml.wording import did_you_mean

if TYPE_CHECKING:
    from apex_ml.core.new_pipeline.choices import Choices
    from apex_ml.core.new_pipeline.proposal import Proposal
    from apex_ml.core.table_profile.values import TableProfile

NONE = "-"
MAX_LEFT_OUT = 5
"""Columns that are left out of which the reason is shown; the file has all of them."""


@click.command()
@click.argument("name")
@click.option(
    "--from",
    "place",
    required=True,
    metavar="FILE|FOLDER|URL",
    help="The table, as parquet, CSV or JSON lines: a file, a folder, or a prefix of an object store such as s3://bucket/raw.",
)
@click.option("--target", required=True, metavar="COLUMN", help="The column to predict.")
@click.option("--entity", metavar="COLUMN", help="What a row is about; its earlier rows are its history.")
@click.option("--timestamp", metavar="COLUMN", help="The day of a row, or its time.")
@click.option("--key", "keys", multiple=True, metavar="COLUMN", help="A column that names a row. Repeat it.")
@click.option(
    "--measure",
    "measures",
    multiple=True,
    metavar="COLUMN",
    help="A column that is known only after the target. Repeat it.",
)
@click.option("--yes", is_flag=True, help="Take every default instead of asking.")
def init(
    name: str,
    place: str,
    target: str,
    entity: str | None,
    timestamp: str | None,
    keys: tuple[str, ...],
    measures: tuple[str, ...],
    yes: bool,
) -> None:
    """Write pipelines/NAME/pipeline.yaml for a table: types, roles, levels and checks, with the evidence as comments.

    Asks what the data cannot say, with a default; as the value of an option, - stands for no column. Refuses a target
    that no model can learn. Then checks the table as `apex check NAME` does. Needs no service.
    """
    from rich.console import Console

    from apex_ml.cli.data_check import check_pipeline
    from apex_ml.cli.profile import compute_profile
    from apex_ml.core.new_pipeline.choices import propose, refuse_target
    from apex_ml.pipeline_settings import FILE, name_fault
    from apex_ml.services.new_pipeline import new_pipeline, refuse_existing, write_pipeline

    settings = Settings.load()
    if fault := name_fault(name):
        raise ConfigError(f"the name {visible(name)} {fault}")
    file = settings.pipelines / name / FILE
    refuse_existing(file)  # before the table is read, which takes time
    path, raw = _local_table(settings, name, place)
    given = Given(entity, timestamp, keys, measures)
    profile = compute_profile(path, target, _column(timestamp), Console(stderr=True))
    refuse_target(profile, target)
    for column in (entity, *keys, *measures):
        _refuse_unknown(profile, column)
    choices = given.replace_in(propose(profile, target, _column(entity), _column(timestamp), _columns(keys)))
    if not yes:
        choices = _ask_on_terminal(profile, choices, given)
    text, proposal = new_pipeline(file, name, profile, choices, raw)
    write_pipeline(file, text)
    _report(file, choices, proposal)
    if yes and choices.measures and not measures:
        names = ", ".join(map(visible, choices.measures))
        click.echo(
            f"  {names}: taken as known only after {visible(target)}, as the data suggests it; --measure names others,"
            " --measure - none"
        )
    check_pipeline(name, path, "train")
    _show_next(settings, name, path)


def _local_table(settings: Settings, name: str, place: str) -> tuple[Path, str | None]:
    """The table as a file or a folder, and the location of raw files for the pipeline; None for the default one."""
    from apex_ml.services.raw_location import local_table

    path, url = local_table(settings, place, name)
    return path, url or (str(path.absolute()) if path.is_dir() else None)


@dataclass(frozen=True)
class Given:
    """The roles that options give: None or empty where they do not, a dash for none."""

    entity: str | None
    timestamp: str | None
    keys: tuple[str, ...]
    measures: tuple[str, ...]

    def replace_in(self, proposed: Choices) -> Choices:
        """The proposal with what the options give."""
        if self.entity is not None:
            proposed = replace(proposed, entity=_column(self.entity))
        if self.timestamp is not None:
            proposed = replace(proposed, timestamp=_column(self.timestamp))
        if self.keys:
            proposed = replace(proposed, key=_columns(self.keys))
        return replace(proposed, measures=_columns(self.measures)) if self.measures else proposed


def _column(name: str | None) -> str | None:
    return None if name == NONE else name


def _columns(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name != NONE)


def _refuse_unknown(profile: TableProfile, name: str | None) -> None:
    names = [column.name for column in profile.columns]
    if name not in (None, NONE, *names):
        raise DataError(
            f"{profile.source.name}: there is no column {visible(str(name))}{did_you_mean(str(name), names)}"
        )


def _ask_on_terminal(profile: TableProfile, proposed: Choices, given: Given) -> Choices:
    """Ask; without a terminal, or answers in its place, say which options answer."""
    try:
        return _ask(profile, proposed, given)
    except click.Abort as error:
        if sys.stdin is not None and sys.stdin.isatty():
            raise  # Ctrl-C
        options = "--entity, --timestamp, --key and --measure"
        raise ConfigError(
            f"apex init asks questions, and there is no terminal to answer them: add --yes to take every default, or"
            f" give {options} (- for none)"
        ) from error


def _ask(profile: TableProfile, proposed: Choices, given: Given) -> Choices:
    """Ask for what no option gives. An answer that is no column is asked for again."""
    names = [column.name for column in profile.columns]

    def one(text: str) -> str:
        if text != NONE and text not in names:
            raise click.BadParameter(f"there is no column {text}{did_you_mean(text, names)}")
        return text

    def listed(text: str) -> list[str]:
        return [one(part) for part in map(str.strip, text.split(",")) if part]

    def several(question: str, default: Sequence[str]) -> tuple[str, ...]:
        return _columns(click.prompt(question, default=",".join(default) or NONE, value_proc=listed))

    if given.entity is None:
        question = "Entity: the column with the thing that a row is about, whose earlier rows count (- for none)"
        answer = click.prompt(question, default=proposed.entity or NONE, value_proc=one)
        proposed = replace(proposed, entity=_column(answer))
    if given.timestamp is None:
        question = "Timestamp: the column with the day or the time of a row (- for none)"
        answer = click.prompt(question, default=proposed.timestamp or NONE, value_proc=one)
        proposed = replace(proposed, timestamp=_column(answer))
    if not given.keys:
        question = "Key: columns that together name a row, with commas (- for none)"
        proposed = replace(proposed, key=several(question, proposed.key))
    if not given.measures:
        question = f"Measures: columns known only after {visible(proposed.target)}, with commas (- for none)"
        proposed = replace(proposed, measures=several(question, proposed.measures))
    return proposed


def _report(file: Path, choices: Choices, proposal: Proposal) -> None:
    """Say what was decided, and what a person should look at."""
    click.echo(f"Written: {visible(str(file))}")
    roles = {
        "target": [choices.target],
        "entity": [choices.entity or NONE],
        "timestamp": [choices.timestamp or NONE],
        "key": [column.name for column in proposal.columns if column.role == "key"],
        "measures": [column.name for column in proposal.columns if column.role == "measure"],
        "features": proposal.features_named(),
        "left out": [left.name for left in proposal.left_out],
    }
    for role, names in roles.items():
        click.echo(f"  {role:9}  {', '.join(map(visible, names)) or NONE}")
    for left in proposal.left_out[:MAX_LEFT_OUT]:
        click.echo(f"  note       {visible(left.name)} (left out): {visible(left.why)}")
    for column in proposal.columns:
        if "derive" in column.body:
            click.echo(f"  derived    {visible(column.name)}: {visible(column.body['derive'])}")
    for column in proposal.columns:
        if column.role in ("entity", "timestamp"):
            of_role, *others = column.notes
            for note in (of_role, *(f"{column.name}: {other}" for other in others)):
                click.echo(f"  note       {visible(note)}")
    click.echo(f"  grain      {proposal.features['grain']}: {visible(proposal.grain_reason)}")
    for warning in proposal.warnings:
        click.echo(f"  WARNING: {visible(warning)}")


def _show_next(settings: Settings, name: str, path: Path) -> None:
    if path.is_dir():
        click.echo(f"Next: apex -p {name} run")
        return
    folder = settings.home / "data" / name / "raw"
    click.echo(f"Next: copy {visible(path.name)} into {visible(str(folder))}, then: apex -p {name} run")
