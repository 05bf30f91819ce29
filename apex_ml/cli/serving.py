"""Commands of the online service. A command imports heavy packages when it runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from apex_ml.errors import TransientError
from apex_ml.settings import Settings


@click.command()
def serve() -> None:
    """Serve the champion over HTTP until SIGTERM or Ctrl-C. `apex up` also runs this."""
    from apex_ml.serving.server import serve as run

    run(Settings.load())


@click.command("serve-key")
def serve_key() -> None:
    """Make an API key, and its sha256 for APEX_SERVING_KEYS. The key is shown once and not stored."""
    from apex_ml.api_keys import make_key

    key, sha256 = make_key()
    click.echo(f"key     {key}")
    click.echo(f"sha256  {sha256}")
    click.echo(
        "Give the key to the client. Add the sha256 to APEX_SERVING_KEYS in .env; a comma separates two of them."
    )
    click.echo("A running service reads the changed .env by itself. If it does not run: make up")


@click.command()
@click.option("--concurrency", default=32, show_default=True, type=click.IntRange(1, 1000), help="Connections.")
@click.option("--orders", default=50_000, show_default=True, type=click.IntRange(min=1), help="Orders in all.")
@click.option(
    "--per-request", default=1, show_default=True, type=click.IntRange(1, 1000), help="Orders in one request."
)
@click.option("--rate", default=0.0, type=click.FloatRange(min=0), help="Requests a second; 0: as fast as it goes.")
@click.option("--seconds", type=click.FloatRange(min=1), help="Go on so long, with the orders again and again.")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Parquet file of orders, with their channel where it is known. Default: drawn from the raw orders.",
)
@click.option("--url", help="Address of the service. Default: this platform's.")
@click.option("--seed", default=1, show_default=True, help="Which orders are drawn.")
@click.option("--log/--no-log", default=True, show_default=True, help="Log the metrics to MLflow.")
@click.pass_context
def loadtest(
    ctx: click.Context,
    concurrency: int,
    orders: int,
    per_request: int,
    rate: float,
    seconds: float | None,
    path: Path | None,
    url: str | None,
    seed: int,
    log: bool,
) -> None:
    """Send many requests to the online service, measure it, and log the metrics to MLflow as scoring does.

    Exits with 20 when a request failed.
    """
    from apex_ml.serving import loadtest as work
    from apex_ml.serving.client import Target
    from apex_ml.serving.loadtest_orders import load_orders

    settings = Settings.load()
    target = Target(url or settings.serving_url, settings.serving_key.get_secret_value())
    plan = work.Plan(concurrency, per_request, rate, seconds)
    asked = load_orders(settings, target, orders, path, seed)
    results = asyncio.run(work.ask(target, plan, asked))
    for line in results.lines():
        click.echo(line)
    if log:
        click.echo(f"MLflow               {work.log(settings, target, plan, results)}")
    ctx.exit(0 if results.success_rate == 1 else TransientError.exit_code)
