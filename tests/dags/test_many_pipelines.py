"""Every pipeline has DAGs of its own, and a pipeline whose file is broken takes no other's away."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from apex_ml.contract import options_file
from apex_ml.contract.pipeline import DAG_KINDS, dag_id
from tests.support.airflow_home import ROOT
from tests.support.pipeline_files import break_pipeline, write_pipelines

DAGS = ROOT / "dags"
UNREADABLE = "unreadable_pipelines.py"


@pytest.fixture
def pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the pipelines orders, visits and returns."""
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
    write_pipelines(tmp_path / "pipelines", ("orders", "visits", "returns"))
    return tmp_path / "pipelines"


def ids(*names: str) -> set[str]:
    return {dag_id(name, kind) for name in names for kind in DAG_KINDS}


def load() -> DagBag:
    return DagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")


def test_dags_tags_assets_and_steps_belong_to_one_pipeline(pipelines: Path) -> None:
    bag = load()
    assert bag.import_errors == {} and set(bag.dags) == ids("orders", "visits", "returns")
    for name in ("orders", "visits", "returns"):
        for kind in DAG_KINDS:
            dag = bag.dags[dag_id(name, kind)]
            assert name in dag.tags and Path(dag.fileloc).stem == kind
            steps = [task for task in dag.tasks if task.task_type == "StepOperator"]
            owners = {(task.unmap({"chunk": {}}) if task.is_mapped else task).pipeline for task in steps}
            assert steps and owners == {name}
            text = dag.doc_md or ""
            assert "<pipeline>" not in text and not any(f"{other}_" in text for other in {"orders", "visits"} - {name})
        assets = bag.dags[f"{name}_score"].timetable.asset_condition.objects
        assert [asset.name for asset in assets] == [f"{name}_inbox", f"{name}_champion"]
        retrain = bag.dags[f"{name}_monitor"].get_task("retrain")
        assert retrain.partial_kwargs["trigger_dag_id"] == f"{name}_retrain"


def test_each_asset_is_declared_once(pipelines: Path) -> None:
    """Two declarations that differ in their watchers make Airflow restart the trigger at every parse."""
    declared: dict[str, set[str]] = {}
    for dag in load().dags.values():
        condition = getattr(dag.timetable, "asset_condition", None)
        assets = [*getattr(condition, "objects", ()), *(t.emits for t in dag.tasks if getattr(t, "emits", None))]
        for asset in assets:
            declared.setdefault(asset.name, set()).add(
                repr([watcher.trigger.serialize() for watcher in asset.watchers])
            )
    assert len(declared) == 9 and {len(forms) for forms in declared.values()} == {1}


def test_a_broken_pipeline_is_an_import_error_and_stops_no_other(pipelines: Path) -> None:
    break_pipeline(pipelines, "visits")
    (pipelines / "returns" / "pipeline.yaml").write_text("name: [")
    bag = load()
    assert set(bag.dags) == ids("orders")
    assert list(bag.import_errors) == [UNREADABLE]
    error = bag.import_errors[UNREADABLE]
    for name, fault in (("visits", "schedule"), ("returns", "not YAML")):
        assert f"{name}_retrain, {name}_score, {name}_monitor, {name}_rollback and {name}_shadow are missing: " in error
        assert f"{name}/pipeline.yaml" in error and fault in error


def test_a_pipeline_named_for_one_command_hides_no_other(pipelines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_PIPELINE", "visits")
    assert set(load().dags) == ids("orders", "visits", "returns")


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Airflow's reader of .airflowignore
def test_pipelines_share_the_pools_fairly(pipelines: Path) -> None:
    """No backlog of one pipeline keeps another from its first chunk, and a retraining that began ends first."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.serialization.serialized_objects import DagSerialization

    def weight(dag_id: str, task_id: str, map_index: int = -1) -> int:
        dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(bag.dags[dag_id]))  # as the scheduler
        task = dag.get_task(task_id)
        row = TaskInstance.insert_mapping("run", task, map_index, dag_version_id=None, dag_run=run)
        return int(row["priority_weight"])

    run: Any = SimpleNamespace(context_carrier=None)
    bag = load()
    backlog = [weight("orders_score", "score", chunk) for chunk in range(1, 1024)]
    assert max(backlog) < min(weight("visits_score", "score", 0), weight("visits_score", "list_drops"))
    assert sorted(backlog, reverse=True) == backlog and len(set(backlog)) == len(backlog)
    steps = [weight("orders_retrain", name) for name in ("validate", "elt", "split", "train", "promote")]
    assert sorted(set(steps)) == steps


def test_every_file_of_a_pipeline_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 pipelines are parsed in 3 s (`python -m benchmarks --only pipelines`); here a fifth of them."""
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
    names = [f"many_{number}" for number in range(10)]
    write_pipelines(tmp_path / "pipelines", names)
    before = options_file._parsed.cache_info().misses
    began = time.process_time()  # other work on the machine does not count
    assert set(load().dags) == ids(*names)
    assert time.process_time() - began < 1.5
    assert options_file._parsed.cache_info().misses == before + len(names)


class Processor:
    """Airflow's own DAG processor with a database of its own."""

    def __init__(self, home: Path) -> None:
        self.database = home / "airflow.db"
        self.environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.database}",
            "AIRFLOW__DAG_PROCESSOR__STALE_DAG_THRESHOLD": "0",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "0",
            "AIRFLOW__SCHEDULER__PARSING_CLEANUP_INTERVAL": "0",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "plugins"))),
        }
        self._airflow("db", "migrate")

    def _airflow(self, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("airflow")), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def parse(self) -> tuple[set[str], set[str], dict[str, str]]:
        """Read every file; return the usable DAGs, those in files with an error, and the errors by file."""
        self._airflow("dag-processor", "--num-runs", "2")
        connection = sqlite3.connect(self.database)
        try:
            rows = connection.execute("SELECT dag_id, is_stale, has_import_errors FROM dag").fetchall()
            errors = dict(connection.execute("SELECT filename, stacktrace FROM import_error").fetchall())
        finally:
            connection.close()
        return {name for name, stale, _ in rows if not stale}, {name for name, _, faulty in rows if faulty}, errors


def test_airflow_goes_on_with_the_dags_of_the_other_pipelines(pipelines: Path, tmp_path: Path) -> None:
    """Airflow switches all DAGs of a file with an import error off, so the error must not be in their file."""
    processor = Processor(tmp_path / "airflow")
    assert processor.parse() == (ids("orders", "visits", "returns"), set(), {})
    break_pipeline(pipelines, "visits")
    usable, faulty, errors = processor.parse()
    assert usable == ids("orders", "returns") and faulty == set()
    assert list(errors) == [UNREADABLE] and "visits_score" in errors[UNREADABLE]
    write_pipelines(pipelines, ["visits"])
    assert processor.parse() == (ids("orders", "visits", "returns"), set(), {})
