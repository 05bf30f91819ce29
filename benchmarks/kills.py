"""Kill services of a platform at every fault point of scoring, and compare the tables with those of a healthy run."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import date
from pathlib import Path

import psutil
import psycopg2

from apex_ml.adapters.postgres.migrations import migrate
from apex_ml.adapters.postgres.partitions import OWN_ROWS
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.embedded import health, supervision
from apex_ml.simulate.drop import make_drop
from benchmarks.lands import platform_with_champion
from benchmarks.registry import Row, measurement
from benchmarks.scene import Scene
from benchmarks.scored_drops import admin
from tests.support.apex_home import Apex
from tests.support.concurrent_reader import Reader
from tests.support.scored_tables import AFTER, BEFORE, LARGE_ONLY, tables
from tests.support.service_kills import fault_for_steps, halted_step, kill_service
from tests.support.waiting import until

EVERY = (supervision.POSTGRES, supervision.MLFLOW, *supervision.AIRFLOW)
SERVICES = ("airflow-scheduler", supervision.MLFLOW, supervision.POSTGRES)
SEEDS = 3
"""Rounds over the points. In each round another service is killed at a point."""
SMALL_ROWS = 2_000
RECOVERY_TIMEOUT = 300.0
QUIET = "quiet"


@measurement
def kills(scene: Scene) -> Iterator[Row]:
    """Kill scheduler, MLflow and Postgres at every point of scoring a drop; compare with the same drops undisturbed."""
    waits: list[float] = []
    with (
        platform_with_champion(scene, retry_delay_seconds=5) as (home, as_of),
        AirflowApi(home.settings, patience=RECOVERY_TIMEOUT) as api,
    ):
        apex = Apex(home.settings)
        api.unpause("orders_score")
        reader = Reader(apex)
        reader.start()
        kept = home.settings.home / QUIET
        kept.mkdir()
        for seed in range(SEEDS):
            chance = random.Random(seed)
            for point in chance.sample(BEFORE + AFTER, len(BEFORE + AFTER)):
                service = SERVICES[((BEFORE + AFTER).index(point) + seed) % len(SERVICES)]
                path = _drop(scene, apex, as_of, f"{seed}-{point}-{service}.parquet", point, len(waits))
                shutil.copy2(path, kept / path.name)
                waits.append(_disturbed(apex, api, path, point, service, survives=chance.random() < 0.5))
                print(f"  {point}, {service} killed: whole after {waits[-1]:.0f} s", flush=True)
        apex.call_in_new_process("score", "--list")  # sends MLflow the missed metrics
        disturbed = tables(apex)
        reader.end()
        assert reader.failed == [], reader.failed
        undisturbed = tables(_undisturbed(apex, kept))
    wrong = {name for name, rows in disturbed.items() if rows != undisturbed[name]}
    yield Row("tables unlike those of an undisturbed run", len(wrong), "", 0.0, None, ", ".join(sorted(wrong)))
    note = f"{len(waits)} kills, {reader.polls} polls"
    yield Row("partial runs seen while services are killed", len(reader.wrong), "", 0.0, None, note)
    yield Row("a drop is whole after a kill, slowest", max(waits), "s", RECOVERY_TIMEOUT)


def _drop(scene: Scene, apex: Apex, as_of: date, name: str, point: str, seed: int) -> Path:
    """Make a drop outside the inbox, a large one if only a large drop reaches the point."""
    rows = OWN_ROWS if point in LARGE_ONLY else SMALL_ROWS
    path = apex.settings.home / name
    make_drop(str(scene.raw), as_of, rows, seed, path, load_pipeline(apex.settings).contract)
    return path


def _disturbed(apex: Apex, api: AirflowApi, path: Path, point: str, service: str, survives: bool) -> float:
    """Kill a service while the drop is scored. Returns the seconds until the drop is complete and Airflow is idle.

    The step continues, or it is killed too, as in a crash of its machine.
    """
    with fault_for_steps(apex.settings, point):
        shutil.move(path, apex.inbox / path.name)
        step = until(lambda: halted_step(apex.settings), RECOVERY_TIMEOUT)
    began = time.monotonic()
    kill_service(apex.settings, service)
    with suppress(psutil.NoSuchProcess):
        step.send_signal(signal.SIGCONT if survives else signal.SIGKILL)
    until(lambda: all(state.ok for state in health.check(apex.settings, EVERY).values()), RECOVERY_TIMEOUT)
    while not _is_complete(apex, path.name):
        assert time.monotonic() - began < RECOVERY_TIMEOUT, path.name
        if all(run.finished for run in api.dag_runs("orders_score")):
            api.trigger("orders_score")  # like the sweep every 15 minutes
        time.sleep(1)
    return time.monotonic() - began


def _is_complete(apex: Apex, name: str) -> bool:
    done = apex.sql("SELECT count(*) FROM orders.drop_summary WHERE name = %s AND state = 'done'", (name,))
    return done == [(1,)] and not (apex.inbox / name).exists()


def _undisturbed(apex: Apex, kept: Path) -> Apex:
    """Score the same drops with one undisturbed call into a separate database."""
    settings = apex.settings
    with closing(admin(settings)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"CREATE DATABASE {QUIET} OWNER apex_writer")
    urls = {name: _in_database(getattr(settings, name)) for name in ("writer_url", "reader_url")}
    quiet = apex.but(
        database_url=urls["writer_url"], reader_database_url=urls["reader_url"], drops_url=str(kept / "drops")
    )
    migrate(quiet.settings, load_pipeline(quiet.settings))
    names = sorted(p.name for p in kept.glob("*.parquet"))
    for name in names:
        shutil.move(kept / name, quiet.inbox / name)
    ended = quiet.call_in_new_process("score", "--drops", json.dumps(names))
    assert ended.code == 0, ended.err
    quiet.call_in_new_process("score", "--list")
    return quiet


def _in_database(url: str) -> str:
    parts = psycopg2.extensions.parse_dsn(url)
    return f"postgresql://{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{QUIET}"
