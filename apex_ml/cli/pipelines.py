"""`apex pipelines` and `apex upgrade`: the files of the pipelines."""

from __future__ import annotations

import click

from apex_ml.errors import ConfigError
from apex_ml.settings import Settings
from apex_ml.text import one_line


@click.command()
def pipelines() -> None:
    """List the pipelines: name, registered model, description; of one whose file is wrong, why."""
    from apex_ml.pipeline_settings import pipeline_file, pipeline_names
    from apex_ml.pipelines import load_pipeline

    settings = Settings.load()
    if settings.former_contract:
        loaded = load_pipeline(settings)
        click.echo(f"{loaded.name}  {loaded.model_name}  {one_line(loaded.contract.description)}  ({loaded.file})")
        return
    names = pipeline_names(settings)
    width = max(map(len, names), default=0)
    faulty = False
    for name in names:
        try:
            loaded = load_pipeline(settings.model_copy(update={"pipeline": name}))
        except ConfigError as error:
            faulty = True
            click.echo(f"{name:{width}}  {error}")
        else:
            click.echo(f"{name:{width}}  {loaded.model_name}  {one_line(loaded.contract.description)}")
    if settings.pipeline or not names:
        pipeline_file(settings)  # an error when it does not exist
    if faulty:
        raise ConfigError("the file of a pipeline is wrong; the list above says where")


@click.command()
@click.option("--apply", "really", is_flag=True, help="Write. Without it, the command only shows what would change.")
def upgrade(really: bool) -> None:
    """Move settings of the first edition from .env into the pipeline's file, pipelines/<name>/pipeline.yaml.

    Folders of this machine stay in .env, under their present variables.
    """
    from apex_ml.platform.upgrade import apply_upgrade, find_upgrade

    settings = Settings.load()
    planned = find_upgrade(settings)
    if not planned.is_needed:
        click.echo("Nothing to upgrade: .env has no setting of the first edition.")
        return
    for line in planned.lines():
        click.echo(line)
    if not really:
        click.echo("Nothing is written yet: add --apply")
        return
    apply_upgrade(settings, planned)
    click.echo(f"Written: {planned.file} and {settings.env_file}. `apex up` restarts what has changed.")
