"""`apex simulate`, with `apex simulate year` below it."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click

from apex_ml.cli.simulate import simulate as orders
from apex_ml.json_text import json_text
from apex_ml.settings import Settings


@click.command()
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same year.")
@click.option("--weeks", default=52, show_default=True, type=click.IntRange(min=2), help="Weeks to live through.")
@click.option("--drift-week", type=int, help="From this week on orders behave differently. Default: 20, or half way.")
@click.option("--fast", is_flag=True, help="6,000 orders of 4,000 clients a week; otherwise 25,000 of 15,000.")
@click.option(
    "--start",
    type=click.DateTime(["%Y-%m-%d"]),
    default="2024-01-01",
    show_default=True,
    help="First day of the eight weeks of history before the year.",
)
@click.option(
    "--home", type=click.Path(path_type=Path), help="New folder of the year's platform. Default: .apex/year-SEED."
)
def year(seed: int, weeks: int, drift_week: int | None, fast: bool, start: datetime, home: Path | None) -> None:
    """Simulate a year of scoring, outcomes, monitoring and retraining, with a drift in the middle.

    It uses separate Postgres and MLflow servers, no scheduler, and the same steps. To inspect the year afterwards:
    APEX_HOME=FOLDER apex up.
    """
    from apex_ml.platform.simulated_year import Plan, simulate_year

    folder = (home or Settings.load().state / f"year-{seed}").absolute()
    drift_week = min(20, weeks // 2 + 1) if drift_week is None else drift_week
    plan = Plan(seed=seed, weeks=weeks, drift_week=drift_week, start=start.date())
    if not fast:
        plan = replace(plan, clients=15_000, orders_a_week=25_000)
    began = time.monotonic()
    summary = simulate_year(folder, plan, click.echo)
    content = replace(summary, seconds=round(time.monotonic() - began, 1)).to_json()
    (folder / "year.json").write_text(json_text(content, indent=1) + "\n", encoding="utf-8")
    for name, value in content.items():
        if name not in ("plan", "weeks"):
            click.echo(f"{name.replace('_', ' '):<32}{'none' if value is None else value}")
    click.echo(f"written to {folder / 'year.json'}; to inspect it: APEX_HOME={shlex.quote(str(folder))} apex up")


simulate = click.Group(
    "simulate",
    params=orders.params,
    callback=click.pass_context(lambda ctx, **given: None if ctx.invoked_subcommand else ctx.invoke(orders, **given)),
    invoke_without_command=True,
    commands={"year": year},
    help=orders.help,
)
