"""The `apex` command. Commands are imported only when called, so that a step starts fast."""

from __future__ import annotations

import contextlib
import copy
import errno
import importlib
import os
import sys
from typing import Any

import click

from apex_ml.cli.named_pipeline import PIPELINE
from apex_ml.errors import ApexError, ConfigError, TransientError

COMMANDS: dict[str, tuple[str, str]] = {
    # name: ("module:attribute", short help)
    "run": ("apex_ml.cli.platform:run", "The main job: start the platform, retrain, score a new drop, report."),
    "up": ("apex_ml.cli.platform:up", "Start the platform."),
    "down": ("apex_ml.cli.platform:down", "Stop the platform; data stays."),
    "status": ("apex_ml.cli.platform:status", "Services, what needs attention, champion, drops, last runs."),
    "unpause": ("apex_ml.cli.platform:unpause", "Unpause a DAG that a user paused."),
    "champion": ("apex_ml.cli.platform:champion", "The champion, since when and why; the history."),
    "logs": ("apex_ml.cli.platform:logs", "Show the log of a service or step."),
    "sql": ("apex_ml.cli.platform:sql", "psql on the apex database as the reader."),
    "mlflow-ui": ("apex_ml.cli.platform:mlflow_ui", "Print and check the address of MLflow."),
    "retrain": ("apex_ml.cli.platform:retrain", "Retrain a pipeline and wait for it."),
    "validate": ("apex_ml.cli.steps:validate", "Step: check the raw files, quarantine bad rows."),
    "elt": ("apex_ml.cli.steps:elt", "Step: point-in-time features, one example per entity."),
    "outcomes": ("apex_ml.cli.steps:outcomes", "Step: outcomes of scored rows, from later raw data."),
    "split": ("apex_ml.cli.steps:split", "Step: train, validation and test parts."),
    "train": ("apex_ml.cli.steps:train", "Step: fit, evaluate and register a challenger."),
    "promote": ("apex_ml.cli.steps:promote", "Step: champion or challenger, on evidence."),
    "rollback": ("apex_ml.cli.steps:rollback", "Step: make an earlier version champion again."),
    "score": ("apex_ml.cli.steps:score", "Step: score drops into Postgres, each exactly once."),
    "reconsider": (
        "apex_ml.cli.steps:reconsider",
        "Step: decide about a challenger by the outcomes of drops that it scored in shadow.",
    ),
    "shadow": ("apex_ml.cli.steps:shadow", "Step: challengers score the drops in shadow."),
    "monitor": ("apex_ml.cli.steps:monitor", "Step: drift, quality of the week, alerts, whether to retrain."),
    "alerts": ("apex_ml.cli.alerts:alerts", "Open alerts; `alerts close`: end one, with a reason."),
    "serve": ("apex_ml.cli.serving:serve", "The online service: the champions, one row at a time."),
    "serve-key": ("apex_ml.cli.serving:serve_key", "Make an API key for the online service."),
    "loadtest": ("apex_ml.cli.serving:loadtest", "Send many requests to the online service and measure it."),
    "export": ("apex_ml.cli.tables:export", "Write the scored rows of a run to a parquet file."),
    "prune": ("apex_ml.cli.tables:prune", "Remove old scored rows and unreferenced folders."),
    "remove-drop": ("apex_ml.cli.tables:remove_drop", "Remove drops that should not have been scored."),
    "backup": ("apex_ml.cli.platform:backup", "Write databases, artifacts and data into one file."),
    "restore": ("apex_ml.cli.platform:restore", "Restore a backup."),
    "simulate": ("apex_ml.cli.simulated_year:simulate", "Generate rows; `simulate year`: simulate a year."),
    "profile": (
        "apex_ml.cli.profile:profile",
        "Describe a table of files, in the terminal and as HTML.",
    ),
    "init": ("apex_ml.cli.new_pipeline:init", "Write a first pipeline for a table."),
    "check": ("apex_ml.cli.data_check:check", "Check data against a pipeline's contract, dry."),
    "try": (
        "apex_ml.cli.trial_run:try_command",
        "A night on a sample, dry: features that stay, scores beside plain models.",
    ),
    "pipelines": ("apex_ml.cli.pipelines:pipelines", "List the pipelines."),
    "plan": ("apex_ml.cli.pipelines:plan", "What an edited contract means: columns, champion, retraining."),
    "upgrade": ("apex_ml.cli.pipelines:upgrade", "Move settings of the first edition into the pipeline's file."),
    "contract": ("apex_ml.cli.contract:contract", "Build and check what is generated from the contract."),
    "container": ("apex_ml.cli.container:container", "Inside the images: entry points of services."),
    "settings": ("apex_ml.cli.platform:settings_table", "Print every setting with its default."),
}


NOT_ABOUT_ONE = frozenset(
    ("up", "down", "unpause", "logs", "sql", "mlflow-ui", "backup", "restore", "profile", "init", "check", "pipelines")
    + ("try", "plan", "upgrade", "contract", "container", "settings")
)
"""Commands about the platform or files, or that name the pipeline otherwise: they have no ``-p`` of their own."""


def _name_pipeline(ctx: click.Context, parameter: click.Parameter, name: str | None) -> None:
    """Make the pipeline of ``-p`` that of the command, and of the processes that it starts."""
    if name is None:
        return
    if name == "":  # of a script whose variable is empty: no pipeline is not every pipeline
        raise ConfigError("-p: the name of the pipeline is empty; name one, or leave -p out")
    if (before := ctx.meta.setdefault(PIPELINE, name)) != name:
        raise ConfigError(f"-p {before} and -p {name}: name one pipeline")
    os.environ["APEX_PIPELINE"] = name


PIPELINE_OPTION: dict[str, Any] = {
    "metavar": "NAME",
    "expose_value": False,
    "callback": _name_pipeline,
    "help": "The pipeline. Default: APEX_PIPELINE, or the only one.",
}


class LazyGroup(click.Group):
    """A click group that imports a command's module when the command is looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command; None when the name is unknown."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        if cmd_name in NOT_ABOUT_ONE:
            return command
        command = copy.copy(command)  # the command itself stays as its module has it
        command.params = [*command.params, click.Option(["-p", "--pipeline"], **PIPELINE_OPTION)]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="apex-ml")
@click.option("-p", "--pipeline", **PIPELINE_OPTION)
def apex() -> None:
    """Nightly retraining, promotion on evidence, and exactly-once scoring of rows.

    Exit codes: 0 done · 10 bad data · 20 try again later · 30 fix the configuration · 1 an internal error of Apex.
    """
    from apex_ml.settings import Settings
    from apex_ml.surroundings import shield_process

    with contextlib.suppress(ConfigError):  # a command that needs settings reports their errors
        shield_process(Settings.load())


PLACES = {
    errno.EACCES: "give this user the right to use it",
    errno.EPERM: "give this user the right to use it",
    errno.EROFS: "name a folder that can be written",
    errno.ENOTDIR: "name a folder; a part of this path is a file",
    errno.EEXIST: "name a folder; a part of this path is a file",
    errno.EISDIR: "name a file; this is a folder",
    errno.ELOOP: "name a folder; its links lead in a circle",
    errno.ENAMETOOLONG: "name a shorter path",
}
"""Remedies for a path that the system refuses. A missing file is not such an error."""


def expected_error(error: OSError) -> ApexError | None:
    """The expected error for a file or folder that cannot be used; None for another error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransientError(
            f"{error.filename or 'a file'}: {error.strerror}: the disk is full; free space, run again"
        )
    remedy = PLACES.get(error.errno or 0)
    if remedy is None or not error.filename:
        return None
    return ConfigError(f"{error.filename}: {error.strerror}: {remedy}")


def main(argv: list[str] | None = None) -> Any:
    """Run the command line; an expected error becomes one message and its exit code."""
    # OpenMP threads that spin while waiting make training many times slower when other work uses the same cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        try:
            return apex.main(args=argv, prog_name="apex", standalone_mode=True)
        except OSError as error:
            if (expected := expected_error(error)) is None:
                raise
            raise expected from error
    except ApexError as error:
        click.echo(f"apex: {type(error).__name__}: {error}", err=True)
        sys.exit(error.exit_code)
