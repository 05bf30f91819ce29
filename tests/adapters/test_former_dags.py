"""An upgrade that gives DAGs new names: what was paused stays paused, and no run of a former name goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg2

from apex_ml.adapters.postgres.former_dags import RenamedDags, retire_dags
from tests.conftest import Databases
from tests.support.airflow_home import ROOT
from tests.support.pipeline_files import write_pipelines

KINDS = ("retrain", "score", "monitor", "rollback", "shadow")
RENAMED = {f"apex_{kind}": f"orders_{kind}" for kind in KINDS}
FORMER = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

for kind in ("retrain", "score", "monitor", "rollback", "shadow"):
    with DAG(f"apex_{kind}", schedule="@daily", catchup=False, is_paused_upon_creation=kind == "retrain"):
        EmptyOperator(task_id="one") >> EmptyOperator(task_id="two")
"""
PREPARE = """
import sys
from airflow.cli.cli_parser import get_parser
for line in sys.stdin.read().splitlines():
    arguments = get_parser().parse_args(line.split())
    arguments.func(arguments)
"""


class AirflowOnPostgres:
    """Airflow's commands on a database of its own."""

    def __init__(self, url: str, home: Path) -> None:
        self._url = url
        self._environment = {
            **os.environ,
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url.replace("postgresql://", "postgresql+psycopg2://"),
            "APEX_HOME": str(home),
            "APEX_PIPELINES": str(home / "pipelines"),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "plugins"))),
        }

    def run(self, *lines: str, dags: Path) -> None:
        """Run commands in one process, with this folder of DAGs."""
        environment = self._environment | {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
        done = subprocess.run(
            [sys.executable, "-c", PREPARE], input="\n".join(lines), capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """The rows of a statement."""
        with psycopg2.connect(self._url) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def retire(self) -> RenamedDags:
        """Do what an upgrade does."""
        connection = psycopg2.connect(self._url)
        try:
            return retire_dags(connection, RENAMED)
        finally:
            connection.close()


def test_paused_dags_stay_paused_and_no_former_run_goes_on(databases: Databases, tmp_path: Path) -> None:
    airflow = AirflowOnPostgres(databases.empty()["database_url"], tmp_path)
    former = tmp_path / "former"
    former.mkdir()
    (former / "former.py").write_text(FORMER)
    airflow.run("db migrate", "dag-processor --num-runs 1", dags=former)
    airflow.run("dags pause apex_score", "dags trigger apex_monitor --run-id waits", dags=former)
    airflow.rows("UPDATE task_instance SET state = 'running' WHERE task_id = 'one'")

    retired = airflow.retire()
    assert retired == RenamedDags(("apex_monitor waits",), ("orders_retrain", "orders_score"))
    assert airflow.retire() == RenamedDags(), "a second call finds nothing to do"
    assert airflow.rows("SELECT run_id, state FROM dag_run") == [("waits", "failed")]
    states = airflow.rows("SELECT task_id, state FROM task_instance ORDER BY task_id")
    assert states == [("one", "failed"), ("two", "skipped")]
    # who paused it is still known, so that `apex up` does not switch it on
    who = airflow.rows("SELECT event, owner IS NOT NULL FROM log WHERE dag_id = 'orders_score'")
    assert who == [("cli_dag_pause", True)]

    write_pipelines(tmp_path / "pipelines", ["orders"])
    airflow.run("dag-processor --num-runs 1", dags=ROOT / "dags")
    paused = dict(airflow.rows("SELECT dag_id, is_paused FROM dag WHERE NOT is_stale"))
    assert paused == {f"orders_{kind}": kind in ("retrain", "score") for kind in KINDS}
