"""`apex pipelines`, `apex plan` and `apex upgrade`: the files of the pipelines."""

from __future__ import annotations

import click

from apex_ml.cli.named_pipeline import named_pipeline
from apex_ml.errors import ApexError, ConfigError
from apex_ml.json_text import json_text
from apex_ml.settings import Settings
from apex_ml.text import one_line


@click.command()
@click.option("--reader-url", is_flag=True, help="Print the URL with which a team reads its pipeline (-p); a secret.")
def pipelines(reader_url: bool) -> None:
    """List the pipelines: name, registered model, description; of one whose file is wrong, why.

    A pipeline without a file whose tables are still in the database is listed with the time since it is gone.
    """
    from apex_ml.pipeline_settings import pipeline_file, pipeline_names
    from apex_ml.pipelines import load_pipeline

    settings = Settings.load()
    if reader_url:
        from apex_ml.platform import pipeline_readers

        name, _ = pipeline_file(settings)
        click.echo(pipeline_readers.reader_url(settings, name))
        return
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
    _show_removed(settings)
    if settings.pipeline or not names:
        pipeline_file(settings)  # an error when it does not exist
    if faulty:
        raise ConfigError("the file of a pipeline is wrong; the list above says where")


def _show_removed(settings: Settings) -> None:
    """List the schemas of pipelines that have no file any more, where the platform has run."""
    from apex_ml.adapters.postgres.platform_schema import known_pipelines

    if not (settings.reader_database_url or settings.pg_reader_password.get_secret_value()):
        return
    try:
        removed = [known for known in known_pipelines(settings) if known.removed_at]
    except ApexError as error:
        reason = str(error).splitlines()[0]
        click.echo(f"Whether tables of removed pipelines are left is not known: {reason}", err=True)
        return
    for known in removed:
        click.echo(
            f"{known.name}  has no file since {known.removed_at:%F}; its tables stay in the schema {known.schema}"
        )


@click.command()
@click.argument("name", required=False)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def plan(ctx: click.Context, name: str | None, form: str) -> None:
    """Show what the contract in the file of pipeline NAME, or of every pipeline, means before `apex up` applies it.

    Compared with the contract of the tables: the differences, the columns that the tables get, whether the champion can
    still score, and what happens next. Nothing is changed. Exits with 30 when `apex up` refuses a contract.
    """
    from apex_ml.pipeline_settings import pipeline_file
    from apex_ml.pipelines import load_all_pipelines
    from apex_ml.platform.embedded.home_record import recorded_contract
    from apex_ml.platform.reports.contract_plan import plan_text
    from apex_ml.services.contract_plan import plan_contract

    settings = Settings.load()
    name = name or named_pipeline(ctx)  # a default hides no other one: its contract may have changed, too
    settings = settings.model_copy(update={"pipeline": name or ""})
    only = pipeline_file(settings)[0] if name or settings.former_contract else None
    loaded, faults = load_all_pipelines(settings)  # also for one: another one may have the same registered model
    loaded = [one for one in loaded if only in (None, one.name)]
    faults = {of: fault for of, fault in faults.items() if only in (None, of)}
    if only in faults:
        raise faults[only]
    plans = [plan_contract(settings, one, recorded_contract(settings, one.name)) for one in loaded]
    if form == "json":
        click.echo(json_text({"plans": [one.to_json() for one in plans]}, indent=1))
    else:
        click.echo("\n".join(map(plan_text, plans)))
    if faults:
        raise ConfigError("; ".join(map(str, faults.values())))
    ctx.exit(ConfigError.exit_code if any(one.refused for one in plans) else 0)


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
