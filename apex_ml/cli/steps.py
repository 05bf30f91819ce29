"""The steps as commands: `apex validate`, `apex elt`, …"""

from __future__ import annotations

import getpass
import json
from datetime import datetime
from typing import TYPE_CHECKING

import click

from apex_ml.cli.step_process import log_next_monitoring, print_result, run_step_command, start_step
from apex_ml.discovery import SPLIT_STRATEGIES, module_names
from apex_ml.errors import ConfigError
from apex_ml.services.json_record import JsonRecord

if TYPE_CHECKING:  # a step imports its libraries when it starts
    from apex_ml.services.run_folder import StepContext

_RUN = click.option(
    "--run", "run", required=True, metavar="RUN", help="Name of the run; its folder under data/<pipeline>/processed."
)


@click.command()
@_RUN
@click.option(
    "--raw",
    metavar="FOLDER",
    help="Folder of raw files. Default: data/<pipeline>/raw, or that of its file.",
)
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Point in time of the run. Default: the day after the newest row.",
)
@click.option("--force", is_flag=True, help="Go on even when there is no raw data that the last run has not seen.")
@click.option(
    "--without-newest-day",
    is_flag=True,
    help="Write the rows of the newest day as a drop instead of training on them.",
)
def validate(run: str, raw: str | None, as_of: datetime | None, force: bool, without_newest_day: bool) -> None:
    """Check the raw files: accepted rows, quarantined rows with reasons, Data Docs."""
    from apex_ml.steps.validate import validate as work

    given = {"raw": raw or None, "as_of": as_of.date() if as_of else None}
    run_step_command("validate", work, run, **given, force=force, without_newest_day=without_newest_day)


@click.command()
@_RUN
def elt(run: str) -> None:
    """Make examples with point-in-time features, and the history snapshot for scoring."""
    from apex_ml.steps.elt import elt as work

    run_step_command("elt", work, run)


@click.command()
@_RUN
@click.option("--newest", is_flag=True, help="Take the raw rows of the newest validated run instead of RUN's own.")
def outcomes(run: str, newest: bool) -> None:
    """Match the outcomes in raw rows with their scores, where entity and date are unique on both sides."""
    from apex_ml.steps.outcomes import outcomes as work

    run_step_command("outcomes", work, run, newest=newest)


@click.command()
@_RUN
@click.option(
    "--strategy",
    type=click.Choice(module_names(SPLIT_STRATEGIES)),
    help="Default: that of the pipeline. Only temporal is promotable.",
)
def split(run: str, strategy: str | None) -> None:
    """Divide the examples into train, validation and test."""
    from apex_ml.steps.split import split as work

    run_step_command(
        "split", lambda context: work(context, strategy=strategy or context.pipeline.options.model.split), run
    )


@click.command()
@_RUN
@click.option("--trials", type=click.IntRange(min=0), help="Hyper-parameter trials. Default: that of the pipeline.")
@click.option("--reproduce", is_flag=True, help="Train again with the run's recorded settings and compare the bytes.")
def train(run: str, trials: int | None, reproduce: bool) -> None:
    """Fit, evaluate and register a model version."""
    from apex_ml.steps.reproduce import reproduce as again
    from apex_ml.steps.train import train as work

    if reproduce:
        run_step_command("train", again, run)
        return
    run_step_command(
        "train",
        lambda context: work(context, trials=context.pipeline.options.model.trials if trials is None else trials),
        run,
    )


_WHO = click.option("--who", metavar="NAME", help="Recorded as the user who decided. Default: the OS user.")
_REASON = click.option("--reason", metavar="TEXT", help="Why; kept in the ledger.")


@click.command()
@click.option("--run", metavar="RUN", help="Name of the run whose model comes before the gate.")
@_WHO
@click.option("--force", is_flag=True, help="Promote VERSION, by default the latest challenger, without the gate.")
@_REASON
@click.option("--hold", is_flag=True, help="Decide, but leave a promotion to a later call.")
@click.option("--declined", metavar="NAME", help="Who refused a promotion that was held; it is rejected.")
@click.argument("version", type=click.IntRange(min=1), required=False)
def promote(
    run: str | None,
    who: str | None,
    force: bool,
    reason: str | None,
    hold: bool,
    declined: str | None,
    version: int | None,
) -> None:
    """Compare the run's model with the champion and promote it on evidence; or, with --force, by manual override.

    Examples: apex promote --run NAME; apex promote --force --reason "the new region needs it" 7
    """
    from apex_ml.steps.manual_override import MANUAL
    from apex_ml.steps.manual_override import force as forced
    from apex_ml.steps.promote import promote as work

    who = who or getpass.getuser()
    if hold and declined or force and (hold or declined):
        raise ConfigError("promote: --force, --hold and --declined exclude each other")
    if force:
        if not reason:
            raise ConfigError("promote --force: give --reason; the ledger records why the gate was bypassed")
        run_step_command("promote", forced, run or MANUAL, version=version, reason=reason, who=who)
        return
    if run is None:
        raise ConfigError("promote: give --run, the run of the challenger; or --force --reason")
    if reason is not None or version is not None:
        raise ConfigError("promote: --reason and VERSION go with --force; the gate gives its own reasons")
    run_step_command("promote", work, run, who=who, hold=hold, declined=declined)


@click.command()
@click.option("--run", metavar="RUN", required=True, help="Name of the run; a second call does not decide again.")
@_WHO
@click.argument("version", type=click.IntRange(min=1), required=False)
def reconsider(run: str, who: str | None, version: int | None) -> None:
    """Decide again about a challenger, by the outcomes of drops that it scored in shadow.

    VERSION is the newest challenger with enough outcomes by default.
    """
    from apex_ml.steps.reconsider import reconsider as work

    run_step_command("reconsider", work, run, version=version, who=who or getpass.getuser())


@click.command()
@click.option("--run", metavar="RUN", help="Name of the run; a second call with the same name moves nothing.")
@click.option("--to", type=click.IntRange(min=1), metavar="VERSION", help="Default: the champion before this one.")
@click.option("--reason", metavar="TEXT", required=True, help="Why; kept in the ledger.")
@_WHO
def rollback(run: str | None, to: int | None, reason: str, who: str | None) -> None:
    """Make an earlier version champion again. A running scoring keeps its version."""
    from apex_ml.steps.manual_override import MANUAL
    from apex_ml.steps.manual_override import rollback as work

    run_step_command("rollback", work, run or MANUAL, to=to, reason=reason, who=who or getpass.getuser())


@click.command()
@click.option(
    "--run", metavar="RUN", default="manual", show_default=True, help="Name of the run, kept with the scores."
)
@click.option("--list", "only_list", is_flag=True, help="List the waiting drops in chunks; score nothing.")
@click.option("--drops", metavar="JSON", help="Names of drops in the inbox, as a JSON list. Default: all that wait.")
@click.option("--rescore", metavar="DROP", help="Score a finished drop again (its name, id or sha256), as a new run.")
@click.option("--bad-later", is_flag=True, help="With --drops: end with 0 although drops are bad; --report names them.")
@click.option("--report", is_flag=True, help="List the bad drops of the run and how many it scored; score nothing.")
def score(run: str, only_list: bool, drops: str | None, rescore: str | None, bad_later: bool, report: bool) -> None:
    """Score the drops in the inbox into Postgres, each exactly once.

    Bad drops are moved to quarantine and reported at the end, with exit code 10; the other drops are scored.
    """
    from apex_ml.steps.list_drops import list_drops
    from apex_ml.steps.score import report as report_run
    from apex_ml.steps.score import rescore as again
    from apex_ml.steps.score import score as work

    if sum((only_list, drops is not None, rescore is not None, report)) > 1:
        raise ConfigError("--list, --drops, --rescore and --report: give one of them")
    if bad_later and drops is None:
        raise ConfigError("--bad-later goes with --drops")
    context = start_step("score", run)
    if rescore is not None:
        _print_scored(context, again(context, rescore))
    elif only_list:
        print_result(context, list_drops(context))
    elif report:
        print_result(context, report_run(context))
    elif drops is None:
        listed = list_drops(context)
        names = [name for chunk in listed.chunks for name in chunk.drops]
        _print_scored(context, work(context, names, before=listed.bad) if names or listed.bad else listed)
    else:
        try:
            names = json.loads(drops)
        except ValueError as error:
            raise ConfigError(f'--drops {drops[:80]!r}: not JSON; give a list such as ["a.parquet"]') from error
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ConfigError(f"--drops {drops[:80]!r}: give a JSON list of names")
        _print_scored(context, work(context, names, bad_is_error=not bad_later))


def _print_scored(context: StepContext, result: JsonRecord) -> None:
    print_result(context, result)
    log_next_monitoring(context, result, "scored")


@click.command()
@click.option(
    "--run", metavar="RUN", default="manual", show_default=True, help="Name of the run, kept with the scores."
)
def shadow(run: str) -> None:
    """Let challengers score the champion's drops, for the days of the option shadow.days after their training."""
    from apex_ml.steps.shadow import shadow as work

    run_step_command("shadow", work, run)


@click.command()
@click.option("--run", metavar="RUN", default="manual", show_default=True, help="Name of the run, shown in the result.")
def monitor(run: str) -> None:
    """Check drift and quality of new data; raise, resolve and send alerts."""
    from apex_ml.steps.monitor import monitor as work

    run_step_command("monitor", work, run)
