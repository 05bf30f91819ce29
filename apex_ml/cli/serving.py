"""Commands of the online service. A command imports heavy packages when it runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from apex_ml.cli.named_pipeline import named_pipeline
from apex_ml.errors import ConfigError, TransientError
from apex_ml.settings import Settings


@click.command()
def serve() -> None:
    """Serve every pipeline's champion over HTTP until SIGTERM or Ctrl-C; with `apex -p NAME` that one alone.

    `apex up` also runs this.
    """
    from apex_ml.pipelines import pipelines_to_serve
    from apex_ml.serving.server import serve as run

    settings = Settings.load()
    if not os.environ.get("APEX_PIPELINE"):  # one that .env names is the default of commands about one pipeline
        settings = settings.model_copy(update={"pipeline": ""})
    run(settings, *pipelines_to_serve(settings))


@click.command("serve-key")
@click.option(
    "--only",
    multiple=True,
    metavar="PIPELINE",
    help="Limit the key to this pipeline; may be repeated. Default: that of `apex -p NAME`, or all.",
)
@click.pass_context
def serve_key(ctx: click.Context, only: tuple[str, ...]) -> None:
    """Make an API key, and its entry for APEX_SERVING_KEYS. The key is shown once and not stored."""
    from apex_ml.api_keys import make_key
    from apex_ml.pipeline_settings import pipeline_names
    from apex_ml.wording import did_you_mean

    named = named_pipeline(ctx)
    only = only or ((named,) if named else ())
    if only:
        names = pipeline_names(Settings.load())
        if unknown := [name for name in only if name not in names]:
            raise ConfigError(
                f"{unknown[0]}: there is no such pipeline; there are {', '.join(names) or 'none'}"
                f"{did_you_mean(unknown[0], names)}"
            )

    key, sha256 = make_key()
    click.echo(f"key     {key}")
    click.echo(f"sha256  {sha256}{'@' if only else ''}{'+'.join(sorted(set(only)))}")
    click.echo(
        "Give the key to who sends requests. Add what is behind sha256 to APEX_SERVING_KEYS in .env; a comma separates"
        " two of them."
    )
    click.echo("A running service reads the changed .env by itself. If it does not run: make up")


@click.command()
@click.option("--concurrency", default=32, show_default=True, type=click.IntRange(1, 1000), help="Connections.")
@click.option("--rows", default=50_000, show_default=True, type=click.IntRange(min=1), help="Rows in all.")
@click.option("--per-request", default=1, show_default=True, type=click.IntRange(1, 1000), help="Rows in one request.")
@click.option("--rate", default=0.0, type=click.FloatRange(min=0), help="Requests a second; 0: as fast as it goes.")
@click.option("--seconds", type=click.FloatRange(min=1), help="Go on so long, with the rows again and again.")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Parquet file of rows, with their class where it is known. Default: drawn from the raw data.",
)
@click.option("--url", help="Address of the service. Default: this platform's.")
@click.option("--seed", default=1, show_default=True, help="Which rows are drawn.")
@click.option("--log/--no-log", default=True, show_default=True, help="Log the metrics to MLflow.")
@click.pass_context
def loadtest(
    ctx: click.Context,
    concurrency: int,
    rows: int,
    per_request: int,
    rate: float,
    seconds: float | None,
    path: Path | None,
    url: str | None,
    seed: int,
    log: bool,
) -> None:
    """Send many requests for one pipeline to the online service, measure it, and log the metrics to MLflow as scoring
    does.

    Exits with 20 when a request failed.
    """
    from apex_ml.pipelines import load_pipeline
    from apex_ml.serving import loadtest as work
    from apex_ml.serving.client import Target
    from apex_ml.serving.loadtest_rows import load_rows

    settings = Settings.load()
    pipeline = load_pipeline(settings)
    target = Target(url or settings.serving_url, settings.serving_key.get_secret_value())
    plan = work.Plan(concurrency, per_request, rate, seconds)
    asked = load_rows(settings, pipeline, target, rows, path, seed)
    results = asyncio.run(work.ask(target, plan, asked))
    for line in results.lines():
        click.echo(line)
    if log:
        click.echo(f"MLflow               {work.log(settings, pipeline.name, target, plan, results)}")
    ctx.exit(0 if results.success_rate == 1 else TransientError.exit_code)
