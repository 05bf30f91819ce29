"""The step operator: how it reports the end of a step to Airflow."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.api.datamodels._generated import DagRunType
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.execution_time.task_runner import _run_execute_callable

from apex_airflow.operators import step
from apex_airflow.operators.step import StepOperator, run_slug, step_defaults
from apex_airflow.runtimes.process import LocalRunner
from apex_ml.errors import ApexError, ConfigError, TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings

RUN_ID = "manual__2026-01-02T03:04:05+00:00"


class Task:
    """A StepOperator in a DAG run whose ``apex`` command is a small script."""

    def __init__(self, program: Path, **kwargs: Any) -> None:
        with DAG("orders_retrain"):
            self.operator = StepOperator(task_id="task", **{"step": "validate", "pipeline": "orders", **kwargs})
        self.program = program
        self.pushed: dict[str, Any] = {}
        self.outlet_events = OutletEventAccessors()
        self.context: Any = {
            "dag_run": SimpleNamespace(
                dag_id="orders_retrain", run_id=RUN_ID, run_type=DagRunType.MANUAL, triggering_user_name="admin"
            ),
            "ti": SimpleNamespace(
                xcom_push=lambda key, value: self.pushed.update({key: value}), map_index=3, try_number=2
            ),
            "outlet_events": self.outlet_events,
            "task": self.operator,
            "params": {},
        }

    def run(self, body: str) -> Any:
        """Execute as the task runner of Airflow does, time limit and all."""
        self.program.write_text(body)
        self.operator.render_template_fields(self.context)
        return _run_execute_callable(self.context, self.operator.execute, self.operator)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make a task of the given arguments."""
    program = tmp_path / "apex.py"
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_AIRFLOW_PORT", "8081")
    monkeypatch.setitem(step.RUNTIMES, "local", lambda: LocalRunner((sys.executable, str(program))))
    return lambda **kwargs: Task(program, **kwargs)


def test_the_command(task: Any, tmp_path: Path) -> None:
    operator = task(
        args=["--split={{ params.split }}", "{{ '--force' if params.force }}", "--drops={{ params.drops | tojson }}"]
    )
    operator.context["params"] = {
        "split": "temporal",
        "force": False,
        "drops": ["a.parquet", "{{ 1 + 1 }}'\" <b>.parquet"],
    }
    result = operator.run(
        "import json, os, sys\n"
        "print('APEX_RESULT', json.dumps({'args': sys.argv[1:], 'home': os.environ['APEX_HOME'],"
        " 'origin': os.environ['APEX_ORIGIN'], 'drops': json.loads(sys.argv[-1].partition('=')[2])}))"
    )
    assert result["args"][:4] == ["validate", "--run", run_slug("orders_retrain", RUN_ID), "--split=temporal"]
    assert len(result["args"]) == 5
    assert result["drops"] == ["a.parquet", "{{ 1 + 1 }}'\" <b>.parquet"]
    assert result["home"] == str(tmp_path)
    assert result["origin"].endswith(":8081/dags/orders_retrain/runs/manual__2026-01-02T03%3A04%3A05%2B00%3A00")
    assert operator.pushed == {"step_result": result}


ARGUMENTS = "import json, sys\nprint('APEX_RESULT', json.dumps({'args': sys.argv[4:]}))"


@pytest.mark.parametrize(
    ("step", "args", "run_type", "user", "who"),
    [
        ("promote", [], DagRunType.SCHEDULED, None, ["--who=orders_retrain in Airflow, scheduled run"]),
        ("promote", [], DagRunType.MANUAL, "admin", ["--who=orders_retrain in Airflow, started by admin"]),
        ("promote", ["{{ '--who=ann' }}"], DagRunType.MANUAL, "admin", ["--who=ann"]),
        ("promote", ["{{ '--who=ann' if false }}"], "manual", None, ["--who=orders_retrain in Airflow, manual run"]),
        (
            "reconsider",
            [],
            DagRunType.OPERATOR_TRIGGERED,
            None,
            ["--who=orders_retrain in Airflow, operator triggered run"],
        ),
        ("validate", [], DagRunType.SCHEDULED, None, []),
    ],
)
def test_a_step_that_moves_the_champion_gets_the_user(
    task: Any, step: str, args: list[str], run_type: Any, user: str | None, who: list[str]
) -> None:
    operator = task(step=step, args=args)
    operator.context["dag_run"].run_type, operator.context["dag_run"].triggering_user_name = run_type, user
    assert operator.run(ARGUMENTS)["args"] == who


@pytest.mark.parametrize(
    ("code", "kind"),
    [(10, AirflowFailException), (20, AirflowException), (30, AirflowFailException), (1, AirflowFailException)],
)
def test_exit_codes(task: Any, code: int, kind: type[Exception]) -> None:
    with pytest.raises(AirflowException) as caught:
        task().run(f"print('APEX_RESULT {{}}\\nnoise\\napex: DataError: a.parquet: column x is missing')\nexit({code})")
    assert type(caught.value) is kind
    assert str(caught.value) == f"apex validate (exit code {code}): apex: DataError: a.parquet: column x is missing"


def test_a_killed_step_is_retried(task: Any) -> None:
    with pytest.raises(AirflowException, match="killed by SIGKILL: half way") as caught:
        task().run("import os\nprint('half way', flush=True)\nos.kill(os.getpid(), 9)")
    assert type(caught.value) is AirflowException


def test_no_result_is_a_failure(task: Any) -> None:
    message = "^apex validate .exit code 0.: ended without an APEX_RESULT line: hello$"
    with pytest.raises(AirflowFailException, match=message):
        task().run("print('hello')")


def test_skip(task: Any) -> None:
    operator = task()
    with pytest.raises(AirflowSkipException, match="^no new raw data since 2026-01-01$"):
        operator.run('print(\'APEX_RESULT {"skip": "no new raw data since 2026-01-01"}\')')
    assert operator.pushed["step_result"]["skip"].startswith("no new")


def test_a_list_to_map_over(task: Any) -> None:
    operator = task(returns="chunks", with_run=False, args=["--list"])
    assert operator.run('import sys\nprint(\'APEX_RESULT {"chunks": [{"label": "a"}], "waiting": 0}\', sys.argv)') == [
        {"label": "a"}
    ]
    assert operator.pushed["step_result"]["waiting"] == 0
    with pytest.raises(AirflowFailException, match="no 'chunks'"):
        operator.run("print('APEX_RESULT {}')")


def test_a_chunk_reaches_the_arguments(task: Any) -> None:
    operator = task(args=["--drops={{ task.chunk.drops | tojson }}"], chunk={"label": "a +1", "drops": ["a", "b"]})
    result = operator.run("import json, sys\nprint('APEX_RESULT', json.dumps({'last': sys.argv[-1]}))")
    assert result["last"] == '--drops=["a", "b"]'


def test_a_mapped_task_becomes_an_operator_of_its_chunk() -> None:
    with DAG("orders_score", default_args=step_defaults(Settings.load(), load_pipeline(Settings.load()))):
        chunks = StepOperator(task_id="list_drops", step="score", returns="chunks")
        mapped = StepOperator.partial(task_id="score", step="score", args=["--drops="]).expand(chunk=chunks.output)
    chunk = {"label": "a +1", "drops": ["a", "b"]}
    operator = mapped.unmap({"chunk": chunk})
    assert isinstance(operator, StepOperator) and operator.chunk == chunk and operator.args == ["--drops="]
    assert operator.owner == "apex" and not operator.outlets


@pytest.mark.parametrize(("promoted", "events"), [("true", 1), ("false", 0)])
def test_an_event_is_emitted_only_when_the_result_says_so(task: Any, promoted: str, events: int) -> None:
    champion = Asset("orders_champion")
    operator = task(emits=champion, emits_if="promoted")
    operator.run(f'print(\'APEX_RESULT {{"promoted": {promoted}, "version": 4}}\')')
    assert operator.operator.outlets == [operator.operator.alias]
    accessors = operator.outlet_events._dict.values()
    announced = [event for accessor in accessors for event in accessor.asset_alias_events]
    assert len(announced) == events
    assert all(event.dest_asset_key.name == "orders_champion" and event.extra["version"] == 4 for event in announced)


def test_time_limit(task: Any, tmp_path: Path) -> None:
    operator = task(execution_timeout=timedelta(seconds=1))
    began = time.monotonic()
    with pytest.raises(AirflowFailException, match="stopped after 0:00:01 .steps.timeout_minutes of the pipeline"):
        operator.run(f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)")
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"runtime": "moon"}, "'moon'"),
        ({"pipeline": ""}, "pipeline is missing"),
        ({"emits_if": "promoted"}, "go together"),
    ],
)
def test_contradictions_are_refused(task: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**kwargs)


def test_each_try_has_its_own_name_and_limit(tmp_path: Path) -> None:
    with DAG("orders_score"):
        operator = StepOperator(
            task_id="score", step="score", pipeline="orders", execution_timeout=timedelta(minutes=2)
        )
    command = operator.command("orders_score", RUN_ID, Settings.load(home=tmp_path), map_index=3, try_number=2)
    assert command.task == f"{run_slug('orders_score', RUN_ID)}.score.3"
    assert (command.number, command.seconds) == (2, 120) and command.env["APEX_PIPELINE"] == "orders"
    alone = operator.command("orders_score", RUN_ID, Settings.load(home=tmp_path))
    assert alone.task == f"{run_slug('orders_score', RUN_ID)}.score"


@pytest.mark.parametrize(("error", "kind"), [(TransientError, AirflowException), (ConfigError, AirflowFailException)])
def test_a_runtime_that_cannot_run(
    task: Any, monkeypatch: pytest.MonkeyPatch, error: type[ApexError], kind: type[Exception]
) -> None:
    class Broken:
        def run(self, command: Any, emit: Any) -> Any:
            raise error("Docker at tcp://gate does not answer")

        def kill(self) -> None: ...

    monkeypatch.setitem(step.RUNTIMES, "docker", Broken)
    message = f"^apex validate .exit code {error.exit_code}.: Docker at tcp://gate does not answer$"
    with pytest.raises(AirflowException, match=message) as caught:
        task(runtime="docker").run("")
    assert type(caught.value) is kind


def test_run_slug() -> None:
    slugs = {
        run_slug(dag, run)
        for dag in ("orders_retrain", "orders_score")
        for run in (RUN_ID, RUN_ID.replace(":", "/"), "scheduled__2026-01-02T02:00:00+00:00", "é" * 250, "../../etc")
    }
    assert len(slugs) == 10
    assert all(
        slug.replace("-", "").replace("_", "").isalnum() and slug.isascii() and len(slug) < 100 for slug in slugs
    )
    assert run_slug("orders_retrain", RUN_ID) == run_slug("orders_retrain", RUN_ID)


def test_defaults_come_from_the_settings(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, steps__timeout_minutes=7, steps__retries=1, steps__retry_delay_seconds=5)
    defaults = step_defaults(settings, load_pipeline(settings))
    assert defaults == {
        "owner": "apex",
        "runtime": "local",
        "pipeline": "orders",
        "execution_timeout": timedelta(minutes=7),
        "retries": 1,
        "retry_delay": timedelta(seconds=5),
        "weight_rule": "upstream",
    }
