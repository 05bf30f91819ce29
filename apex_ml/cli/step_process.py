"""The process of a step: its settings, its log, and its result.

The result is text for a user. For a DAG run, which the step operator names in ``APEX_ORIGIN``, it is one line,
``APEX_RESULT {json}``.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from apex_ml import faults
from apex_ml.adapters.storage.files import map_disk_errors
from apex_ml.cli.result_text import result_text
from apex_ml.json_text import json_text
from apex_ml.services.json_record import JsonRecord
from apex_ml.settings import Settings
from apex_ml.text import VisibleFormatter

if TYPE_CHECKING:  # a step imports its libraries when it starts
    from apex_ml.services.run_folder import StepContext

logger = logging.getLogger(__name__)
RESULT_MARK = "APEX_RESULT"


def start_step(step: str, run: str) -> StepContext:
    """Load settings and pipeline, set up the log, and return the context of the step."""
    from apex_ml.pipelines import load_pipeline
    from apex_ml.services.run_folder import StepContext

    settings = Settings.load()
    faults.arm(settings.fault or None)
    _log_to_file(settings, step, run)
    return StepContext(settings, load_pipeline(settings), run)


class _LogFile(logging.handlers.WatchedFileHandler):
    """A log file whose write errors, such as a full disk, fail no step: stderr gets every line too."""

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
    """One line per event: to stderr for the task log, and to logs/steps.log with time, step and run."""
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


def print_result(context: StepContext, result: JsonRecord) -> None:
    """Print a result: as one line of JSON for the DAG run that started the step, or as text for a user."""
    # the manifest keeps the reports of single files and the profile, so that the result line is short
    small = {k: v for k, v in result.to_json().items() if k not in ("reports", "profile")}
    by_airflow = bool(context.settings.origin)
    click.echo(f"{RESULT_MARK} {json_text(small, default=str)}" if by_airflow else result_text(small))


def log_next_monitoring(context: StepContext, result: JsonRecord, done: str) -> None:
    """Log when monitoring follows a manual command: only tasks of Airflow trigger the DAGs that wait for them.

    `done` is the key of the result that shows whether there is something to monitor.
    """
    from apex_ml.steps.manual_override import MANUAL

    if context.run == MANUAL and result.to_json().get(done):
        pipeline = context.pipeline
        schedule = pipeline.options.schedule.monitor
        dag_id = pipeline.dag_id("monitor")
        logger.info("A manual command does not start %s. It runs next at %s (cron, UTC).", dag_id, schedule)
        logger.info("To check drift and quality now: %s", pipeline.command("monitor"))


def run_step_command(step: str, work: Callable[..., JsonRecord], run: str, **arguments: Any) -> None:
    """Run a step and print its result."""
    context = start_step(step, run)
    result = work(context, **arguments)
    print_result(context, result)
    log_next_monitoring(context, result, "moved")
