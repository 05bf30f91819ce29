"""The step operator: one Airflow task is one ``apex`` command."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.sdk import Asset, AssetAlias, BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, AirflowTaskTimeout

from apex_airflow.links import RESULT_KEY, DataDocsLink, DecisionReportLink, MlflowRunLink, ModelVersionLink
from apex_airflow.priorities import FINISH_FIRST
from apex_airflow.runtimes.container import ContainerRunner
from apex_airflow.runtimes.process import LocalRunner, Outcome, Runner, StepCommand
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.errors import ConfigError, TransientError
from apex_ml.settings import Settings

RUNTIMES: dict[str, Callable[[], Runner]] = {"local": LocalRunner, "docker": ContainerRunner}
"""Runners by the value of APEX_RUNTIME."""
ATTRIBUTED_STEPS = frozenset({"promote", "reconsider", "rollback"})
"""Steps that record who started them, by ``--who``."""
MAX_LOGGED = 2000
"""Characters of the command that are logged."""


def step_defaults(settings: Settings, pipeline: PipelineSettings) -> dict[str, Any]:
    """Return the ``default_args`` of a DAG of steps: owner, runtime, time limit, retries of transient errors."""
    limits = pipeline.options.steps
    return {
        "owner": "apex",
        "runtime": settings.runtime,
        "pipeline": pipeline.name,
        "execution_timeout": timedelta(minutes=limits.timeout_minutes),
        "retries": limits.retries,
        "retry_delay": timedelta(seconds=limits.retry_delay_seconds),
        "weight_rule": FINISH_FIRST,
    }


def run_slug(dag_id: str, run_id: str) -> str:
    """Return a folder name for a DAG run: readable, the same for all its tasks, and unique.

    >>> run_slug("claims_retrain", "manual__2026-01-02T03:04:05+00:00")
    'claims_retrain-manual__2026-01-02T03-04-05-00-00-530957'
    """
    digest = hashlib.sha256(f"{dag_id}/{run_id}".encode()).hexdigest()[:6]
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", run_id)[:80].strip("-")
    return f"{dag_id}-{readable}-{digest}"


def run_name(dag_id: str, run_type: str, user: str | None) -> str:
    """Return who started what a task records: the DAG run, and the user who triggered it if there is one.

    >>> run_name("claims_retrain", "scheduled", None)
    'claims_retrain in Airflow, scheduled run'
    >>> run_name("claims_retrain", "manual", "admin")
    'claims_retrain in Airflow, started by admin'
    >>> run_name("claims_retrain", "operator_triggered", None)
    'claims_retrain in Airflow, operator triggered run'
    """
    how = f"started by {user}" if user else f"{run_type.replace('_', ' ')} run"
    return f"{dag_id} in Airflow, {how}"


class StepOperator(BaseOperator):
    """Run one step as a command and return its result.

    The command is ``apex STEP --run SLUG ARG…``; arguments are templated, and those that render to nothing are left
    out. A step in ATTRIBUTED_STEPS also gets ``--who`` with the DAG run, unless an argument names a person. The output
    of the step goes to the task log line by line. Its result, the last ``APEX_RESULT {json}`` line, is pushed as
    ``step_result`` and returned. A result with the key ``skip`` skips the task and holds the reason.

    Exit code 20 raises AirflowException, which Airflow retries, and so does a step killed by a signal. Bad data (10),
    a wrong configuration (30), any other exit code, a missing result and a timeout raise AirflowFailException: the
    same call would fail again. The exception carries the step's own error message.

    :param step: the command: ``validate``, ``elt``, …
    :param args: its arguments (templated); a template may use ``task.chunk``.
    :param with_run: whether the step takes ``--run``.
    :param chunk: what a mapped task works on, one item of the list mapped over.
    :param returns: key of the result to return, a list for a task to map over; the whole result by default.
    :param emits: asset whose event is emitted, with the result, when ``emits_if`` is true in the result.
    :param runtime: where to run, a key of RUNTIMES.
    :param pipeline: the pipeline that the step works for; required.
    """

    template_fields: Sequence[str] = ("args",)
    template_fields_renderers = {"args": "json"}
    operator_extra_links = (DataDocsLink(), MlflowRunLink(), ModelVersionLink(), DecisionReportLink())
    ui_color = "#e8f1f8"

    def __init__(
        self,
        *,
        step: str,
        args: Sequence[str] = (),
        with_run: bool = True,
        chunk: Mapping[str, Any] | None = None,
        returns: str | None = None,
        emits: Asset | None = None,
        emits_if: str | None = None,
        runtime: str = "local",
        pipeline: str = "",
        **kwargs: Any,
    ) -> None:
        if runtime not in RUNTIMES:
            raise ValueError(f"runtime={runtime!r} of step {step!r}: expected one of {sorted(RUNTIMES)}")
        if not pipeline:  # from the default_args of its DAG
            raise ValueError(f"step {step!r}: pipeline is missing")
        if (emits is None) != (emits_if is None):
            raise ValueError(f"step {step!r}: emits and emits_if go together")
        # Through an alias the event is optional; a plain outlet would emit one at every success.
        self.alias = AssetAlias(f"{emits.name}_events", group="apex") if emits is not None else None
        if self.alias is not None:
            kwargs["outlets"] = [*(kwargs.get("outlets") or ()), self.alias]
        super().__init__(**kwargs)
        self.step = step
        self.pipeline = pipeline
        self.args = list(args)
        self.with_run = with_run
        self.chunk = chunk
        self.returns = returns
        self.emits = emits
        self.emits_if = emits_if
        self.runtime = runtime
        self._runner: Runner | None = None

    def command(
        self,
        dag_id: str,
        run_id: str,
        settings: Settings,
        map_index: int = -1,
        try_number: int = 1,
        *,
        who: str = "",
    ) -> StepCommand:
        """Return the command of this task in a DAG run that `who` started."""
        run = ("--run", run_slug(dag_id, run_id)) if self.with_run else ()
        if who and self.step in ATTRIBUTED_STEPS and not any(arg.startswith("--who=") for arg in self.args):
            run = (*run, f"--who={who}")
        origin = f"{settings.airflow_address}/dags/{dag_id}/runs/{quote(run_id, safe='')}"
        return StepCommand(
            args=(self.step, *run, *(arg for arg in self.args if arg)),
            env={"APEX_HOME": str(settings.home), "APEX_PIPELINE": self.pipeline, "APEX_ORIGIN": origin},
            task=f"{run_slug(dag_id, run_id)}.{self.task_id}" + (f".{map_index}" if map_index >= 0 else ""),
            number=try_number,
            seconds=self.execution_timeout.total_seconds() if self.execution_timeout else None,
        )

    def execute(self, context: Context) -> Any:
        """Run the step; return its result, or raise the exception that makes Airflow retry or fail the task."""
        run = context["dag_run"]
        task = context["ti"]
        run_type = str(getattr(run.run_type, "value", run.run_type))
        who = run_name(run.dag_id, run_type, run.triggering_user_name)
        index = -1 if task.map_index is None else task.map_index
        command = self.command(run.dag_id, run.run_id, Settings.load(), index, task.try_number, who=who)
        line = " ".join(command.args)  # a chunk can have a thousand drops
        self.log.info("apex %s", line if len(line) <= MAX_LOGGED else f"{line[:MAX_LOGGED]} …")
        self._runner = RUNTIMES[self.runtime]()
        try:
            outcome = self._runner.run(command, lambda line: self.log.info("%s", line))
        except AirflowTaskTimeout as error:
            raise AirflowFailException(
                f"apex {self.step}: stopped after {self.execution_timeout} (steps.timeout_minutes of the pipeline)"
            ) from error
        except TransientError as error:
            raise AirflowException(f"{self._with_code(error.exit_code)}: {error}") from error
        except ConfigError as error:
            raise AirflowFailException(f"{self._with_code(error.exit_code)}: {error}") from error
        result = self.result_of(outcome)
        context["ti"].xcom_push(key=RESULT_KEY, value=result)
        if result.get("skip"):
            raise AirflowSkipException(str(result["skip"]))
        if self.alias is not None and self.emits is not None and result.get(str(self.emits_if)):
            context["outlet_events"][self.alias].add(self.emits, extra=result)
        return result[self.returns] if self.returns else result

    def result_of(self, outcome: Outcome) -> dict[str, Any]:
        """Return the result of a successful step; raise an exception for a failed one."""
        if outcome.stopped and outcome.exit_code:
            raise AirflowException(f"apex {self.step}: stopped by Airflow")
        if outcome.exit_code < 0:
            name = signal.Signals(-outcome.exit_code).name
            raise AirflowException(f"apex {self.step}: killed by {name}: {outcome.message}")
        if outcome.exit_code == TransientError.exit_code:
            raise AirflowException(f"{self._with_code(outcome.exit_code)}: {outcome.message}")
        if outcome.exit_code:
            raise AirflowFailException(f"{self._with_code(outcome.exit_code)}: {outcome.message}")
        if outcome.result is None:
            raise AirflowFailException(f"{self._with_code(0)}: ended without an APEX_RESULT line: {outcome.message}")
        if self.returns and not outcome.result.get("skip") and self.returns not in outcome.result:
            raise AirflowFailException(f"{self._with_code(0)}: its result has no {self.returns!r}: {outcome.result}")
        return outcome.result

    def _with_code(self, exit_code: int) -> str:
        """The beginning of an error message, from which the command that waits for the run reads the exit code."""
        return f"apex {self.step} (exit code {exit_code})"

    def on_kill(self) -> None:
        """End the step and everything it started."""
        if self._runner is not None:
            self._runner.kill()
