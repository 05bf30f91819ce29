"""Commands of the platform. A command imports heavy packages when it runs, so that `apex` starts fast."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from apex_ml.cli.named_pipeline import named_pipeline
from apex_ml.discovery import SPLIT_STRATEGIES, module_names
from apex_ml.errors import ConfigError, TransientError
from apex_ml.settings import Settings


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that everything started is stopped again."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.command()
@click.option("--raw", metavar="FOLDER", help="Folder of raw files; remembered for the nightly runs.")
@click.option("--drop", type=click.Path(path_type=Path), help="A file to score in place of the newest day.")
@click.option("--invented", is_flag=True, help="Score 100,000 invented rows, also beside real raw data.")
@click.pass_context
def run(ctx: click.Context, raw: str | None, drop: Path | None, invented: bool) -> None:
    """The main job: start the platform, retrain, score a drop, report.

    Without --raw the folder in the settings is used; an empty one is filled with generated rows. The drop is the
    newest day of the raw data, held back from training; of generated raw data it is generated, too.
    """
    from apex_ml.platform import main_job

    with _terminated_like_interrupted():
        ctx.exit(main_job.run_main_job(Settings.load(), raw, drop, invented))


@click.command()
@click.pass_context
def up(ctx: click.Context) -> None:
    """Start the platform and wait until every service is healthy. Does nothing when it already runs.

    Exits with 30 when the contract of a pipeline is refused, also where the others are up: `apex plan` says why.
    """
    from apex_ml.platform.embedded import start
    from apex_ml.platform.embedded.home_record import refuse_contradiction

    with _terminated_like_interrupted():
        settings = start.up(Settings.load())
    click.echo(f"Airflow   {settings.airflow_address}")
    click.echo(f"MLflow    {settings.mlflow_address}")
    if settings.serving:
        click.echo(f"Online    {settings.serving_for_people}/docs")
    click.echo("SQL       apex sql")
    click.echo(f"passwords {settings.env_file} (Airflow: admin, viewer)")
    ctx.exit(ConfigError.exit_code if refuse_contradiction(settings) else 0)


@click.command()
def down() -> None:
    """Stop the platform; data stays."""
    from apex_ml.platform.embedded import stop

    try:
        settings = Settings.load()
    except ConfigError as error:  # a wrong line in .env must not prevent the stop
        click.echo(f"{error}\nThe platform is stopped anyway.", err=True)
        settings = Settings.defaults_of_home()
    stopped = stop.down(settings)
    click.echo("The platform is down." if stopped else "The platform was not up.")


@click.command()
@click.argument("dag")
def unpause(dag: str) -> None:
    """Unpause DAG, which a user paused, such as <pipeline>_score."""
    from apex_ml.contract.pipeline import DAG_KINDS, dag_id
    from apex_ml.pipeline_settings import settings_by_pipeline
    from apex_ml.platform.airflow_api import AirflowApi
    from apex_ml.wording import did_you_mean

    settings = Settings.load()
    names = settings_by_pipeline(settings)
    ids = [dag_id(name, kind) for name in names for kind in DAG_KINDS]
    if dag not in ids:
        known = f"{'PIPELINE' if len(names) > 1 else ''.join(names)}_{{{','.join(DAG_KINDS)}}}"
        raise ConfigError(f"apex unpause: Apex has no DAG {dag}; its DAGs are {known}{did_you_mean(dag, ids)}")
    with AirflowApi(settings, patience=5.0) as api:
        api.unpause(dag, wait_seconds=0)
    click.echo(f"{dag} is on.")


@click.command()
@click.option(
    "--check",
    is_flag=True,
    help="Exit with 20 when a service, DAG or pool is unhealthy, the inbox is missing, the champion cannot score or is"
    " not what the online service answers with, a drop failed or a deadline passed; for cron.",
)
@click.pass_context
def status(ctx: click.Context, check: bool) -> None:
    """Services, then of each pipeline: what needs attention, champion, waiting drops, last runs.

    `apex -p NAME status` shows the services and that pipeline alone.
    """
    from rich.console import Console

    from apex_ml.platform.reports.status import show

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 250)  # a pipe has no width: rich would fold names at 80
    well = show(Settings.load(), console, named_pipeline(ctx))  # a default hides no pipeline from cron
    ctx.exit(TransientError.exit_code if check and not well else 0)


@click.command()
@click.option(
    "-n", "--lines", default=20, show_default=True, type=click.IntRange(min=1), help="Maximum number of decisions."
)
@click.option("--moves", is_flag=True, help="Only changes of the champion, no rejections.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def champion(lines: int, moves: bool, form: str) -> None:
    """The champion, and every decision about it, newest first: time, user, action, reasons and evidence."""
    from apex_ml.pipelines import load_pipeline
    from apex_ml.platform.reports import champion_history

    settings = Settings.load()
    pipeline = load_pipeline(settings)
    warning = champion_history.heal(settings, pipeline)
    rows = champion_history.history(settings, pipeline, lines, moves_only=moves)
    if form == "json":
        click.echo(champion_history.as_json(settings, pipeline, rows))
    else:
        champion_history.show(settings, pipeline, rows)
    if warning:
        click.echo(f"apex: {warning}", err=True)


@click.command()
@click.argument("service", required=False)
@click.option("-n", "--lines", default=100, show_default=True, type=click.IntRange(min=0), help="So many last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is written.")
def logs(service: str | None, lines: int, follow: bool) -> None:
    """Show the log of SERVICE, or the list of logs."""
    from apex_ml.platform.embedded import log_files

    settings = Settings.load()
    if service is None:
        for name, path in log_files.log_files(settings).items():
            click.echo(f"{name:<24}{path if path.exists() else '(not written yet)'}")
        click.echo(f"The log of each task is a file below {log_files.task_logs(settings)}.")
        return
    path = log_files.log_file(settings, service)
    if follow:
        log_files.follow(path, lines)
    for line in log_files.last_lines(path, lines):
        click.echo(line)


class PsqlCommand(click.Command):
    """A command that passes its arguments to psql as they are, because psql runs queries and files in their order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse only a call for help."""
        if not args or args[0] not in (*ctx.help_option_names, "--"):
            args = ["--", *args]
        return super().parse_args(ctx, args)


@click.command(cls=PsqlCommand, context_settings={"ignore_unknown_options": True})
@click.option(
    "-c",
    "--command",
    metavar="QUERY",
    multiple=True,
    expose_value=False,
    help="Run a query and leave; several in row.",
)
@click.argument("psql_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def sql(ctx: click.Context, psql_options: tuple[str, ...]) -> None:
    """psql on the apex database as the reader; further options go to psql (`apex sql -c QUERY --csv`).

    Exit codes: 10 when a query, a file or an option fails, with the message of psql; 20 when Postgres does not answer.
    """
    from apex_ml.platform.embedded.psql import run_psql

    ctx.exit(run_psql(Settings.load(), psql_options))


@click.command("mlflow-ui")
def mlflow_ui() -> None:
    """Print the address of MLflow, when it answers."""
    from apex_ml.platform.embedded import health

    settings = Settings.load()
    state = health.check(settings, ["mlflow"])["mlflow"]
    if not state.ok:
        raise TransientError(f"MLflow does not answer on {settings.tracking_uri}: {state.detail}; `apex up` starts it")
    click.echo(settings.mlflow_address)


@click.command()
@click.option("--force", is_flag=True, help="Retrain also when there is no new raw data.")
@click.option("--split", type=click.Choice(module_names(SPLIT_STRATEGIES)), help="How examples are split in this run.")
@click.option("--trials", type=click.IntRange(min=0), help="Hyper-parameter trials of this run.")
@click.pass_context
def retrain(ctx: click.Context, force: bool, split: str | None, trials: int | None) -> None:
    """Trigger the pipeline's DAG <pipeline>_retrain and wait for it."""
    from apex_ml.platform import main_job

    ctx.exit(main_job.retrain(Settings.load(), force=force, split=split, trials=trials))


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def backup(folder: Path | None) -> None:
    """Write databases, artifacts and data of the running platform into one file in FOLDER (default: backups)."""
    from apex_ml.platform import backup as backups

    settings = Settings.load()
    click.echo(backups.backup(settings, folder or settings.home / "backups"))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def restore(file: Path) -> None:
    """Replace databases and files by those of a backup. The platform is stopped afterwards."""
    from apex_ml.platform import backup as backups

    settings = Settings.load()
    with _terminated_like_interrupted():
        backups.restore(settings, file)
    click.echo("Restored. `make up` starts the platform.")
    for folder in filter(Path.exists, map(backups.replaced, backups.folders(settings).values())):
        click.echo(f"The replaced files are in {folder}; remove it when you no longer need them.")


@click.command("settings")
@click.option(
    "--format", "form", type=click.Choice(["env", "markdown"]), default="markdown", show_default=True, help="As what."
)
def settings_table(form: str) -> None:
    """Print every setting with its default."""
    from apex_ml.platform.reports import settings_table as table

    click.echo(table.env_example() if form == "env" else table.markdown_table(), nl=False)
