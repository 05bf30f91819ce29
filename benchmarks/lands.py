"""Time from the arrival of a drop in the inbox to its rows in Postgres, with the real scheduler."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import psycopg2

from apex_ml.pipelines import load_pipeline
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.embedded import start
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import CommandError, Home, Scene, clean_environment, destroy
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
def platform_with_champion(scene: Scene, **more: Any) -> Iterator[tuple[Home, date]]:
    """A separate platform after its first run, and the day up to which its history goes."""
    with open_folder() as folder:
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
    took, inside = [], []
    with platform_with_champion(scene) as (home, as_of), AirflowApi(home.settings) as api:
        api.unpause("orders_score")
        for seed in range(ROUNDS + 1):
            path = Path(load_pipeline(home.settings).locations.drops) / "inbox" / f"lands-{seed}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_drop(str(scene.raw), as_of, ROWS, seed, path, load_pipeline(home.settings).contract)
            seconds, step_seconds = _wait_until_visible(home.settings, path.name)
            if seed:  # the first drop also waits until the DAG is parsed
                took.append(seconds)
                inside.append(step_seconds)
            while not all(run.finished for run in api.dag_runs("orders_score")):
                time.sleep(PAUSE)
    step = Beside("of it the drop itself", median(inside))
    yield Row("a drop of 10,000 rows lands, rows seen", median(took), "s", 15.0, step, f"slowest {max(took):.1f} s")


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
