"""How long Airflow needs to parse the DAG folder of a platform with many pipelines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from statistics import median

from apex_ml.settings import CODE_ROOT
from benchmarks.dags import BARE
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene, clean_environment, run_measured, run_python
from tests.support.pipeline_files import write_pipelines

ROUNDS = 3
COUNT = 50
PARSE = f"""
import sys, time
import airflow
from airflow.dag_processing.dagbag import DagBag
sys.path.insert(0, sys.argv[2])
began = time.perf_counter()
bag = DagBag(sys.argv[1], bundle_name="dags-folder")
took = time.perf_counter() - began
assert len(bag.dags) == 5 * {COUNT} and not bag.import_errors, (len(bag.dags), bag.import_errors)
print(f"TOOK {{took}}")
"""


@measurement
def pipelines(scene: Scene) -> Iterator[Row]:
    """Parse dags/ for fifty pipelines in fresh processes."""
    folder = scene.folder / "many"
    write_pipelines(folder / "pipelines", [f"orders_{number}" for number in range(COUNT)])
    env = clean_environment(
        AIRFLOW_HOME=str(folder),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__PLUGINS_FOLDER=str(CODE_ROOT / "plugins"),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{folder}/airflow.db",
        APEX_HOME=str(folder),
        APEX_PIPELINES=str(folder / "pipelines"),
        PYTHONPATH=os.pathsep.join([str(CODE_ROOT / "plugins"), str(CODE_ROOT)]),
    )
    command = [sys.executable, "-W", "ignore", "-c", PARSE, str(CODE_ROOT / "dags"), str(CODE_ROOT / "plugins")]
    parse, bare = [], []
    for _ in range(ROUNDS):
        lines = run_measured(command, env).output.splitlines()
        parse += [float(line.split()[1]) for line in lines if line.startswith("TOOK ")]
        bare.append(run_python(BARE).seconds)
    floor = Beside("bare import of Airflow's parser", median(bare))
    yield Row(f"dags folder of {COUNT} pipelines parsed", median(parse), "s", 3.0, floor)
