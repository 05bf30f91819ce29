"""Memory of an idle platform with many pipelines, beside one with a single pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil

from apex_ml.platform.embedded import start
from apex_ml.platform.embedded.processes import family
from apex_ml.settings import Settings
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene, destroy
from tests.support.pipeline_files import write_pipelines
from tests.support.throwaway_home import free_ports, open_folder

COUNT = 50
SETTLED_SECONDS = 90
"""Every DAG is parsed, every inbox has its trigger, and the first sweeps are over."""
MIB = 1024 * 1024


def idle_mebibytes(pipelines: int) -> float:
    """Memory of all processes of a fresh platform some time after its start; shared pages count once."""
    with open_folder() as folder:
        names = ["orders", *(f"orders_{number}" for number in range(1, pipelines))]
        write_pipelines(folder / "pipelines", names)
        ports = dict(zip(("pg_port", "mlflow_port", "airflow_port", "serving_port"), free_ports(4), strict=True))
        settings = Settings.load(home=folder, pipelines=folder / "pipelines", pipeline="", **ports)
        try:
            settings = start.up(settings)
            time.sleep(SETTLED_SECONDS)
            return sum(_proportional(process) for process in family(settings)) / MIB
        finally:
            destroy(settings, folder)


def _proportional(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0


@measurement
def idle(scene: Scene) -> Iterator[Row]:
    """Bring up a platform with one pipeline, then one with fifty, and let each be idle."""
    one = idle_mebibytes(1)
    many = idle_mebibytes(COUNT)
    yield Row(
        f"memory of an idle platform with {COUNT} pipelines, more than with one",
        many - one,
        "MiB",
        300.0,
        Beside("the idle platform with one", one),
    )
