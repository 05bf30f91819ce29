"""The steps as commands: `apex validate`, `apex elt`, …

Each prints its result as one line, ``APEX_RESULT {json}``, for the program that started it; at a terminal, as text.
"""

from __future__ import annotations

import getpass
import json
import logging
import logging.handlers
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from apex_ml import faults
from apex_ml.adapters.storage.files import map_disk_errors
from apex_ml.cli.result_text import result_text
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.services.json_record import JsonRecord
from apex_ml.settings import Settings, split_strategies
from apex_ml.text import VisibleFormatter

if TYPE_CHECKING:  # a step imports its libraries when it begins
    from apex_ml.services.run_folder import StepContext

logger = logging.getLogger(__name__)
RESULT_MARK = "APEX_RESULT"
_RUN = click.option(
    "--run", "run", required=True, metavar="RUN", help="Name of the run; its folder under data/processed."
)


def _start(step: str, run: str) -> StepContext:
    """Settings, contract and logging of a step's process."""
    from apex_ml.pipelines import load_pipeline
    from apex_ml.services.run_folder import StepContext

    settings = Settings.load()
    faults.arm(settings.fault or None)
    _log_to_file(settings, step, run)
    return StepContext(settings, load_pipeline(settings), run)


class _LogFile(logging.handlers.WatchedFileHandler):
    """A log that cannot be written, as on a full disk, fails no step: stderr has every line, too."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # the file could not be opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        else:
            click.echo(f"apex: {self.baseFilename}: cannot be written: {error.strerror}", err=True)


def _log_to_file(settings: Settings, step: str, run: str) -> None:
    """One line an event: to stderr for the task log, and to logs/steps.log with time, step and run."""
    root = logging.getLogger("apex_ml")
    root.setLevel(logging.INFO)
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(VisibleFormatter("%(levelname)s %(message)s"))
    root.handlers = [console]
    with map_disk_errors(settings.logs):
        settings.logs.mkdir(parents=True, exist_ok=True)
    file = _LogFile(settings.logs / "steps.log", encoding="utf-8", delay=True)
    line = f"%(asctime)s.%(msecs)03dZ %(levelname)s step={step} run={run} pid=%(process)d %(message)s"
    formatter = VisibleFormatter(line, datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    file.setFormatter(formatter)
    root.addHandler(file)


def _print(result: JsonRecord) -> None:
    # the reports of single files and the profile stay in the manifest: the result line is small
    small = {k: v for k, v in result.to_json().items() if k not in ("reports", "profile")}
    click.echo(result_text(small) if sys.stdout.isatty() else f"{RESULT_MARK} {json_text(small, default=str)}")


def _say_what_follows(context: StepContext, result: JsonRecord, done: str) -> None:
    """Say when a command by hand is followed by monitoring: only the tasks of Airflow wake the DAGs that wait for them.

    `done` names the entry of the result that says whether there is something to monitor.
    """
    from apex_ml.steps.manual_override import MANUAL

    if context.run == MANUAL and result.to_json().get(done):
        schedule = context.settings.monitor_schedule
        logger.info("A command by hand does not start apex_monitor. It runs next at %s (cron, UTC).", schedule)
        logger.info("To look at drift and quality now: apex monitor")


def _command(step: str, work: Callable[..., JsonRecord], run: str, **arguments: Any) -> None:
    context = _start(step, run)
    result = work(context, **arguments)
    _print(result)
    _say_what_follows(context, result, "moved")


@click.command()
@_RUN
@click.option("--raw", metavar="FOLDER", help="Folder of raw parquet files. Default: APEX_RAW_URL or data/raw.")
@click.option(
    "--as-of", type=click.DateTime(["%Y-%m-%d"]), help="The day to look from. Default: the day after the newest order."
)
@click.option("--force", is_flag=True, help="Go on even when there is no raw data that the last run has not seen.")
@click.option(
    "--without-newest-day", is_flag=True, help="Hold the orders of the newest day back from training, as a drop."
)
def validate(run: str, raw: str | None, as_of: datetime | None, force: bool, without_newest_day: bool) -> None:
    """Check the raw files: accepted rows, quarantined rows with reasons, Data Docs."""
    from apex_ml.steps.validate import validate as work

    given = {"raw": raw or None, "as_of": as_of.date() if as_of else None}
    _command("validate", work, run, **given, force=force, without_newest_day=without_newest_day)


@click.command()
@_RUN
def elt(run: str) -> None:
    """Make examples with features point in time, and the history snapshot for scoring."""
    from apex_ml.steps.elt import elt as work

    _command("elt", work, run)


@click.command()
@_RUN
@click.option("--newest", is_flag=True, help="Take the raw orders of the newest validated run instead of RUN's own.")
def outcomes(run: str, newest: bool) -> None:
    """Match the outcomes in raw orders with their scores, where client and date are unique on both sides."""
    from apex_ml.steps.outcomes import outcomes as work

    _command("outcomes", work, run, newest=newest)


@click.command()
@_RUN
@click.option(
    "--strategy",
    type=click.Choice(split_strategies()),
    help="Default: APEX_SPLIT. Only temporal is promotable.",
)
def split(run: str, strategy: str | None) -> None:
    """Divide the examples into train, validation and test."""
    from apex_ml.steps.split import split as work

    _command("split", work, run, strategy=strategy or Settings.load().split)


@click.command()
@_RUN
@click.option("--trials", type=click.IntRange(min=0), help="Hyper-parameter trials. Default: APEX_TRIALS.")
@click.option("--reproduce", is_flag=True, help="Train again with the run's recorded settings and compare the bytes.")
def train(run: str, trials: int | None, reproduce: bool) -> None:
    """Fit, evaluate and register a model version."""
    from apex_ml.steps.reproduce import reproduce as again
    from apex_ml.steps.train import train as work

    if reproduce:
        _command("train", again, run)
        return
    _command("train", work, run, trials=Settings.load().trials if trials is None else trials)


_WHO = click.option("--who", metavar="NAME", help="Recorded as the one who decided. Default: the OS user.")
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
            raise ConfigError("promote --force: give --reason; the ledger keeps why the gate was not asked")
        _command("promote", forced, run or MANUAL, version=version, reason=reason, who=who)
        return
    if run is None:
        raise ConfigError("promote: give --run, the run whose model comes before the gate; or --force --reason")
    if reason is not None or version is not None:
        raise ConfigError("promote: --reason and VERSION go with --force; the gate gives its own reasons")
    _command("promote", work, run, who=who, hold=hold, declined=declined)


@click.command()
@click.option("--run", metavar="RUN", required=True, help="Name of the run; a second call decides nothing anew.")
@_WHO
@click.argument("version", type=click.IntRange(min=1), required=False)
def reconsider(run: str, who: str | None, version: int | None) -> None:
    """Decide again on a challenger, by the outcomes of drops that it scored in the champion's shadow.

    VERSION is the newest challenger with enough outcomes by default.
    """
    from apex_ml.steps.reconsider import reconsider as work

    _command("reconsider", work, run, version=version, who=who or getpass.getuser())


@click.command()
@click.option("--run", metavar="RUN", help="Name of the run; a second call with the same name moves nothing.")
@click.option("--to", type=click.IntRange(min=1), metavar="VERSION", help="Default: the champion before this one.")
@click.option("--reason", metavar="TEXT", required=True, help="Why; kept in the ledger.")
@_WHO
def rollback(run: str | None, to: int | None, reason: str, who: str | None) -> None:
    """Make an earlier version champion again. A drop that is being scored ends on the version it began with."""
    from apex_ml.steps.manual_override import MANUAL
    from apex_ml.steps.manual_override import rollback as work

    _command("rollback", work, run or MANUAL, to=to, reason=reason, who=who or getpass.getuser())


@click.command()
@click.option(
    "--run", metavar="RUN", default="manual", show_default=True, help="Name of the run, kept with the scores."
)
@click.option("--list", "only_list", is_flag=True, help="List the waiting drops in chunks; score nothing.")
@click.option("--drops", metavar="JSON", help="Names of drops in the inbox, as a JSON list. Default: all that wait.")
@click.option("--rescore", metavar="DROP", help="Score a finished drop anew (its name, id or sha256), as a new run.")
@click.option("--bad-later", is_flag=True, help="With --drops: end with 0 although drops are bad; --report names them.")
@click.option("--report", is_flag=True, help="List the bad drops of the run and how many it scored; score nothing.")
def score(run: str, only_list: bool, drops: str | None, rescore: str | None, bad_later: bool, report: bool) -> None:
    """Score the drops in the inbox into Postgres, each exactly once.

    Bad drops are moved to quarantine and named in the end, with exit code 10; the others are scored all the same.
    """
    from apex_ml.steps.list_drops import list_drops
    from apex_ml.steps.score import report as report_run
    from apex_ml.steps.score import rescore as again
    from apex_ml.steps.score import score as work

    if sum((only_list, drops is not None, rescore is not None, report)) > 1:
        raise ConfigError("--list, --drops, --rescore and --report: give one of them")
    if bad_later and drops is None:
        raise ConfigError("--bad-later goes with --drops")
    context = _start("score", run)
    if rescore is not None:
        _print_scored(context, again(context, rescore))
    elif only_list:
        _print(list_drops(context))
    elif report:
        _print(report_run(context))
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
    _print(result)
    _say_what_follows(context, result, "scored")


@click.command()
@click.option(
    "--run", metavar="RUN", default="manual", show_default=True, help="Name of the run, kept with the scores."
)
def shadow(run: str) -> None:
    """Let challengers score the drops that the champion has scored, for APEX_SHADOW_DAYS after their training."""
    from apex_ml.steps.shadow import shadow as work

    _command("shadow", work, run)


@click.command()
@click.option("--run", metavar="RUN", default="manual", show_default=True, help="Name of the run, shown in the result.")
def monitor(run: str) -> None:
    """Check drift and quality of what is new; raise, resolve and send alerts."""
    from apex_ml.steps.monitor import monitor as work

    _command("monitor", work, run)
