"""Time from the arrival of a drop in the inbox to its rows in Postgres, with the real scheduler.

The inbox is a folder, or in a server of S3 on this machine that the trigger polls.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import date
from statistics import median
from typing import Any

import psycopg2

from apex_ml.adapters.storage.stores import open_storage
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.embedded import start
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import CommandError, Home, Scene, clean_environment, destroy
from tests.support.object_servers import moto_server
from tests.support.throwaway_home import free_ports, open_folder

ROUNDS = 5
ROWS = 10_000
VISIBLE_TIMEOUT = 120.0
PAUSE = 0.05
VISIBLE_ROWS = (
    "SELECT count(*), max(s.ms_total) / 1000 FROM orders.scored_current"
    " JOIN orders.drop_summary AS s USING (run_id)"
    " WHERE s.name = %s"
)


@contextmanager
def platform_with_champion(
    scene: Scene, login: Mapping[str, str] | None = None, **more: Any
) -> Iterator[tuple[Home, date]]:
    """A separate platform after its first run, and the day up to which its history goes.

    `login` are the variables of an object store for its ``.env``.
    """
    with open_folder() as folder:
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in (login or {}).items()))
        ports = dict(zip(("pg_port", "mlflow_port", "airflow_port", "serving_port"), free_ports(4), strict=True))
        inputs: dict[str, Any] = {"home": folder, "raw_url": str(scene.raw), **ports, **more}
        settings = Settings.load(**inputs)
        try:
            settings = start.up(settings)
            home = Home(settings, clean_environment(**{f"APEX_{k.upper()}": str(v) for k, v in inputs.items()}))
            night = {"validate": ["--force"], "elt": [], "split": [], "train": [], "promote": []}
            ended = {step: home.apex(step, "--run", "bench", *arguments) for step, arguments in night.items()}
            yield home, date.fromisoformat(ended["elt"].result["as_of"])
        finally:
            destroy(settings, folder)


@measurement
def lands(scene: Scene) -> Iterator[Row]:
    """A drop of 10,000 rows on a separate platform: seconds until a reader sees its rows."""
    with platform_with_champion(scene) as (home, as_of):
        yield _landed(scene, home, as_of, "a drop of 10,000 rows lands, rows seen", 15.0)


@measurement
def object_lands(scene: Scene) -> Iterator[Row]:
    """The same with raw files in a folder, and drops and outputs in a server of S3, which the trigger polls."""
    with moto_server(scene.folder) as server:
        url = f"s3://{server.bucket}"
        places = {"drops_url": f"{url}/drops", "processed_url": f"{url}/processed"}
        with platform_with_champion(scene, server.environment, **places) as (home, as_of):
            yield _landed(scene, home, as_of, "a drop of 10,000 rows lands in S3, rows seen", 10.0)


def _landed(scene: Scene, home: Home, as_of: date, name: str, limit: float) -> Row:
    """Put drops into the inbox, one after the other, and wait for the rows of each."""
    took, inside = [], []
    pipeline = load_pipeline(home.settings)
    inbox = open_storage(pipeline.locations, pipeline.locations.drops, "locations.drops")
    with AirflowApi(home.settings) as api:
        api.unpause("orders_score")
        for seed in range(ROUNDS + 1):
            path = scene.folder / f"lands-{seed}.parquet"
            make_drop(str(scene.raw), as_of, ROWS, seed, path, pipeline.contract)
            inbox.put(f"inbox/{path.name}", path.read_bytes())
            seconds, step_seconds = _wait_until_visible(home.settings, path.name)
            path.unlink()
            if seed:  # the first drop also waits until the DAG is parsed
                took.append(seconds)
                inside.append(step_seconds)
            while not all(run.finished for run in api.dag_runs("orders_score")):
                time.sleep(PAUSE)
    step = Beside("of it the drop itself", median(inside))
    return Row(name, median(took), "s", limit, step, f"slowest {max(took):.1f} s")


def _wait_until_visible(settings: Settings, name: str) -> tuple[float, float]:
    """Seconds until a reader sees all rows of a drop, and seconds of the scoring in it."""
    began = time.monotonic()
    with closing(psycopg2.connect(settings.reader_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        while time.monotonic() - began < VISIBLE_TIMEOUT:
            cursor.execute(VISIBLE_ROWS, (name,))
            ((rows, inside),) = cursor.fetchall()
            if rows == ROWS:
                return time.monotonic() - began, float(inside)
            time.sleep(PAUSE)
    raise CommandError(f"{name}: not visible after {VISIBLE_TIMEOUT:.0f} s")
