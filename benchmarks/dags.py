"""How long Airflow needs to parse the DAG folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from statistics import median

from apex_ml.settings import CODE_ROOT
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene, clean_environment, run_measured, run_python

ROUNDS = 5
PARSE = """
import sys, time
import airflow
from airflow.dag_processing.dagbag import DagBag
sys.path.insert(0, sys.argv[2])
began = time.perf_counter()
bag = DagBag(sys.argv[1], bundle_name="dags-folder")
took = time.perf_counter() - began
assert bag.dags and not bag.import_errors, bag.import_errors
print(f"TOOK {took}")
"""
BARE = "import airflow.dag_processing.dagbag"


@measurement
def dags(scene: Scene) -> Iterator[Row]:
    """Parse dags/ in fresh processes."""
    folder = scene.folder
    env = clean_environment(
        AIRFLOW_HOME=str(folder),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__PLUGINS_FOLDER=str(CODE_ROOT / "plugins"),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{folder}/airflow.db",
        APEX_HOME=str(folder),
        PYTHONPATH=os.pathsep.join([str(CODE_ROOT / "plugins"), str(CODE_ROOT)]),
    )
    command = [sys.executable, "-W", "ignore", "-c", PARSE, str(CODE_ROOT / "dags"), str(CODE_ROOT / "plugins")]
    whole, parse, bare = [], [], []
    for _ in range(ROUNDS):
        ended = run_measured(command, env)
        whole.append(ended.seconds)
        parse += [float(line.split()[1]) for line in ended.output.splitlines() if line.startswith("TOOK ")]
        bare.append(run_python(BARE).seconds)
    floor = Beside("bare import of Airflow's parser", median(bare))
    yield Row("dags folder parsed", median(parse), "s", 2.0, floor)
    yield Row("dags folder parsed, whole process", median(whole), "s", None, floor)
