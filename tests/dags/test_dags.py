"""Every DAG is imported; its ids, edges, schedule, params and pools are a snapshot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from apex_ml.contract.pipeline import DAG_KINDS
from apex_ml.platform.airflow_state import POOLS
from tests.support.pipeline_files import write_pipelines

DAGS = Path(__file__).resolve().parents[2] / "dags"

SNAPSHOT: dict[str, Any] = {
    "orders_monitor": {
        "schedule": "0 5 * * * UTC",
        "assets": ["orders_champion", "orders_scored"],
        "pools": ["apex_monitoring"],
        "tags": ["apex", "monitoring", "orders"],
        "params": {},
        "commands": {"outcomes": ["outcomes", "--newest"], "monitor": ["monitor"], "retrain": None},
        "edges": [("outcomes", "monitor"), ("monitor", "retrain")],
        "outlets": {},
    },
    "orders_retrain": {
        "schedule": "0 2 * * * UTC",
        "assets": [],
        "pools": ["apex_training"],
        "tags": ["apex", "orders", "training"],
        "params": {"force": False, "split": "temporal", "trials": 0, "raw": None, "without_newest_day": False},
        "commands": {
            "validate": [
                "validate",
                "{{ '--force' if params.force }}",
                "{{ '--raw=' ~ params.raw if params.raw }}",
                "{{ '--without-newest-day' if params.without_newest_day }}",
            ],
            "elt": ["elt"],
            "outcomes": ["outcomes"],
            "outcomes_done": None,
            "split": ["split", "--strategy={{ params.split }}"],
            "train": ["train", "--trials={{ params.trials }}"],
            "promote": ["promote"],
        },
        "edges": [
            ("validate", "elt"),
            ("elt", "outcomes"),
            ("elt", "split"),
            ("outcomes", "outcomes_done"),
            ("outcomes_done", "promote"),
            ("split", "train"),
            ("train", "promote"),
        ],
        "outlets": {"promote": ["orders_champion_events"]},
    },
    "orders_rollback": {
        "schedule": "none",
        "assets": [],
        "pools": ["apex_champion"],
        "tags": ["apex", "champion", "orders"],
        "params": {"reason": None, "version": None},
        "commands": {
            "rollback": [
                "rollback",
                "--reason={{ params.reason }}",
                "{{ '--to=' ~ params.version if params.version }}",
                "{{ '--who=' ~ dag_run.triggering_user_name ~ ' in Airflow' if dag_run.triggering_user_name }}",
            ]
        },
        "edges": [],
        "outlets": {"rollback": ["orders_champion_events"]},
    },
    "orders_score": {
        "schedule": "*/15 * * * * UTC",
        "assets": ["orders_champion", "orders_inbox"],
        "pools": ["apex_scoring"],
        "tags": ["apex", "orders", "scoring"],
        "params": {},
        "commands": {
            "list_drops": ["score", "--list"],
            "score": ["score", "--bad-later", "--drops={{ task.chunk.drops | tojson }}"],
            "report": ["score", "--report"],
            "bad_drops": None,
            "all_scored": None,
        },
        "edges": [
            ("list_drops", "all_scored"),
            ("list_drops", "report"),
            ("list_drops", "score"),
            ("score", "all_scored"),
            ("score", "report"),
            ("report", "bad_drops"),
        ],
        "outlets": {"report": ["orders_scored_events"]},
    },
    "orders_shadow": {
        "schedule": "none",
        "assets": [],
        "pools": ["apex_shadow"],
        "tags": ["apex", "orders", "scoring"],
        "params": {},
        "commands": {"shadow": ["shadow"]},
        "edges": [],
        "outlets": {},
    },
}


@pytest.fixture(scope="module")
def one_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pipelines with the orders alone."""
    folder = tmp_path_factory.mktemp("pipelines")
    write_pipelines(folder, ["orders"])
    return folder


@pytest.fixture(scope="module", params=["local", "docker"])
def bag(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_pipeline: Path) -> DagBag:
    """The dags folder with default settings, in both runtimes: the same graphs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("APEX_")]:
            patch.delenv(name)
        patch.setenv("APEX_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("APEX_PIPELINES", str(one_pipeline))
        patch.setenv("APEX_RUNTIME", request.param)
        created = DagBag(str(DAGS), bundle_name="dags-folder")
        steps = [task for dag in created.dags.values() for task in dag.tasks if task.task_type == "StepOperator"]
        runtimes = {(task.unmap({"chunk": {}}) if task.is_mapped else task).runtime for task in steps}
        assert runtimes == {request.param} and len(steps) == 13
        return created


def describe(dag: Any) -> dict[str, Any]:
    """Boil a DAG down to what a change of it must show."""
    timetable = getattr(dag.timetable, "timetable", dag.timetable)
    condition = getattr(dag.timetable, "asset_condition", None)
    tasks = {task.task_id: task for task in dag.tasks}
    step = {name: getattr(task, "partial_kwargs", vars(task)) for name, task in tasks.items()}
    return {
        "schedule": f"{timetable.expression} {timetable.timezone}" if dag.schedule is not None else "none",
        "assets": sorted(asset.name for asset in getattr(condition, "objects", [condition])) if condition else [],
        "pools": sorted({task.pool for task in dag.tasks}),
        "tags": sorted(dag.tags),
        "params": dag.params.dump(),
        "commands": {
            name: [kwargs["step"], *kwargs.get("args", ())] if "step" in kwargs else None
            for name, kwargs in step.items()
        },
        "edges": [(name, down) for name, task in tasks.items() for down in sorted(task.downstream_task_ids)],
        "outlets": {name: [outlet.name for outlet in task.outlets] for name, task in tasks.items() if task.outlets},
    }


def test_snapshot(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert {dag_id: describe(dag) for dag_id, dag in bag.dags.items()} == SNAPSHOT


def test_every_dag_is_bounded_and_every_task_explains_itself(bag: DagBag) -> None:
    for dag in bag.dags.values():
        assert dag.max_active_runs == 1 and not dag.catchup and dag.doc_md and dag.description
        for task in dag.tasks:
            assert task.owner == "apex" and task.doc_md and len(task.doc_md) > 30, task.task_id
            assert task.execution_timeout == timedelta(minutes=60)
            assert task.retries == 2 and task.retry_delay == timedelta(seconds=60)


@pytest.mark.parametrize(("dag_id", "minutes"), [("orders_retrain", 240), ("orders_score", 60)])
def test_airflow_watches_the_deadlines(
    bag: DagBag, dag_id: str, minutes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alert,) = bag.dags[dag_id].deadline
    assert alert.interval == timedelta(minutes=minutes) and alert.callback.path == "apex_airflow.deadlines.late"
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_DEADLINE_ALERTS", "false")
    assert (
        not DagBag(str(DAGS / f"{dag_id.removeprefix('orders_')}.py"), bundle_name="dags-folder").dags[dag_id].deadline
    )


def test_a_degraded_champion_is_retrained_once_an_alert(bag: DagBag) -> None:
    dag = bag.dags["orders_monitor"]
    monitor, retrain = dag.get_task("monitor"), dag.get_task("retrain")
    assert monitor.returns == "retrain" and monitor.trigger_rule == "all_done"
    fixed = retrain.partial_kwargs
    assert retrain.is_mapped and fixed["trigger_dag_id"] == "orders_retrain" and fixed["conf"] == {"force": True}
    assert fixed["skip_when_already_exists"]


def test_the_score_task_is_mapped_over_chunks(bag: DagBag) -> None:
    score = bag.dags["orders_score"].get_task("score")
    assert score.is_mapped and score.map_index_template == "{{ task.chunk.label }}"
    assert bag.dags["orders_score"].get_task("list_drops").returns == "chunks"


def test_each_bad_drop_has_a_task_that_blocks_no_other(bag: DagBag) -> None:
    """The event of scored drops is always emitted, and a failed chunk still fails the run."""
    dag = bag.dags["orders_score"]
    report, bad, all_scored = (dag.get_task(name) for name in ("report", "bad_drops", "all_scored"))
    assert report.trigger_rule == "all_done" and report.returns == "bad"
    assert (report.emits.name, report.emits_if) == ("orders_scored", "scored")
    assert bad.is_mapped and bad.map_index_template == "{{ task.bad.label }}" and bad.upstream_task_ids == {"report"}
    assert all_scored.trigger_rule == "none_failed" and {task.task_id for task in dag.leaves} == {
        "bad_drops",
        "all_scored",
    }


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Airflow's reader of .airflowignore
def test_unpausing_a_dag_starts_no_run(bag: DagBag) -> None:
    """The first run is that of the next night, although catchup is off."""
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.base import TimeRestriction

    dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(bag.dags["orders_retrain"]))
    info = dag.timetable.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(earliest=None, latest=None, catchup=False)
    )
    assert info is not None
    assert info.run_after > datetime.now(UTC) - timedelta(minutes=10)
    assert dag.start_date is None


def test_settings_change_schedule_and_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    (tmp_path / ".env").write_text(
        "APEX_RETRAIN_SCHEDULE=5 4 * * *\nAPEX_SPLIT=stratified_random\nAPEX_TRIALS=20\nAPEX_STEP_RETRIES=0\n"
    )
    dag = DagBag(str(DAGS / "retrain.py"), bundle_name="dags-folder").dags["orders_retrain"]
    assert dag.timetable.expression == "5 4 * * *"
    assert dag.params.dump() == {
        "force": False,
        "split": "stratified_random",
        "trials": 20,
        "raw": None,
        "without_newest_day": False,
    }
    assert {task.retries for task in dag.tasks} == {0}


@pytest.mark.parametrize(
    ("dag_id", "wrongs"),
    [
        ("orders_retrain", {"force": "maybe", "split": "by_hand", "trials": -1, "raw": 3}),
        ("orders_rollback", {"version": 0, "reason": "?"}),
        ("orders_rollback", {"version": "two", "reason": None}),
    ],
)
def test_params_are_checked(bag: DagBag, dag_id: str, wrongs: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    params = bag.dags[dag_id].params
    for name, wrong in wrongs.items():
        with pytest.raises(ParamValidationError):
            params.get_param(name).resolve(wrong)


def test_a_rollback_needs_a_reason_and_is_never_paused(bag: DagBag) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    dag = bag.dags["orders_rollback"]
    with pytest.raises(ParamValidationError):
        dag.params.get_param("reason").resolve()
    assert dag.is_paused_upon_creation is False


def test_only_retraining_is_paused_at_first(bag: DagBag) -> None:
    assert sorted(bag.dags) == sorted(f"orders_{kind}" for kind in DAG_KINDS)
    assert {f"orders_{Path(dag.fileloc).stem}" for dag in bag.dags.values()} == set(bag.dags)
    off = {name for name, dag in bag.dags.items() if dag.is_paused_upon_creation is not False}
    assert off == {"orders_retrain"}


def test_every_pool_is_made_at_start_up(bag: DagBag) -> None:
    assert {task.pool for dag in bag.dags.values() for task in dag.tasks} <= set(POOLS)


def test_a_setting_enables_shadow_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_SHADOW_DAYS", "7")
    dag = DagBag(str(DAGS / "shadow.py"), bundle_name="dags-folder").dags["orders_shadow"]
    assert dag.timetable.expression == "*/15 * * * *" and dag.is_paused_upon_creation is False


def test_approval_is_between_decision_and_promotion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_APPROVAL", "true")
    monkeypatch.setenv("APEX_APPROVAL_HOURS", "0.5")
    bag = DagBag(str(DAGS / "retrain.py"), bundle_name="dags-folder")
    assert bag.import_errors == {}
    dag = bag.dags["orders_retrain"]
    edges = {"train": {"decide"}, "outcomes_done": {"decide"}, "decide": {"approve"}, "approve": {"promote"}}
    for task, down in (edges | {"promote": set()}).items():
        assert dag.get_task(task).downstream_task_ids == down
    approve, decide = dag.get_task("approve"), dag.get_task("decide")
    assert (approve.response_timeout, approve.defaults) == (timedelta(minutes=30), ["Reject"])
    assert approve.pool == "apex_training" and approve.doc_md and decide.doc_md
    assert [decide.step, *decide.args] == ["promote", "--hold"] and not decide.outlets
    assert len(dag.get_task("promote").args) == 2


def test_retraining_continues_when_outcomes_fails(bag: DagBag) -> None:
    dag = bag.dags["orders_retrain"]
    rules = {task.task_id: task.trigger_rule.value for task in dag.tasks}
    assert rules.pop("outcomes_done") == "all_done" and set(rules.values()) == {"all_success"}
    assert "outcomes" not in {task.task_id for task in dag.leaves}  # a red leaf would make the whole run red


PARSE = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
began = time.process_time()
bag = DagBag(sys.argv[1], bundle_name='dags-folder')
heavy = ('xgboost', 'mlflow', 'great_expectations', 'pandas', 'numpy', 'duckdb', 'pyarrow', 'sklearn')
seconds = time.process_time() - began
print(json.dumps({'seconds': seconds, 'dags': len(bag.dags), 'heavy': [m for m in heavy if m in sys.modules]}))
"""


def test_the_folder_parses_fast_and_light(tmp_path: Path, one_pipeline: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(DAGS)],
        capture_output=True,
        text=True,
        env={**os.environ, "APEX_HOME": str(tmp_path), "APEX_PIPELINES": str(one_pipeline)},
    )
    assert done.returncode == 0, done.stderr
    parsed = json.loads(done.stdout.splitlines()[-1])  # seconds of CPU: other work on the machine does not count
    assert parsed["dags"] == len(SNAPSHOT) and parsed["heavy"] == [] and parsed["seconds"] < 2, parsed


def test_dags_import_only_plugins_settings_and_pipelines() -> None:
    import ast

    for file in DAGS.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.startswith(
                    (
                        "airflow.sdk",
                        "airflow.providers.standard.",
                        "apex_airflow.",
                        "apex_ml.settings",
                        "apex_ml.contract.",
                        "apex_ml.discovery",
                    )
                ) or name in (
                    "__future__",
                    "datetime",
                ), f"{file.name}: {name}"
