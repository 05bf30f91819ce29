"""How long the Apex page takes on a platform of some age."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from statistics import median

from apex_ml.adapters.postgres.migrations import migrate
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import CODE_ROOT, Settings
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene, clean_environment, run_measured
from tests.support.page_rows import fill
from tests.support.throwaway_home import plain_postgres

RUNS = 10_000
PATH = "/orders?drift=drop"
ASK = """
import sys, time
from airflow.api_fastapi.auth.managers.simple import simple_auth_manager, user
from airflow.api_fastapi.core_api import security
from fastapi.testclient import TestClient
from apex_airflow.pages import web
from apex_ml.settings import Settings
security.get_auth_manager = web.get_auth_manager = simple_auth_manager.SimpleAuthManager
app = web.create_app(Settings.load())
app.dependency_overrides[security.get_user] = lambda: user.SimpleAuthManagerUser(username="admin", role="ADMIN")
client = TestClient(app)
for _ in range(21):
    began = time.perf_counter()
    assert client.get(sys.argv[1]).status_code == 200
    print(f"TOOK {1000 * (time.perf_counter() - began)}")
"""


@measurement
def page(scene: Scene) -> Iterator[Row]:
    """Ask the page's own app for it, with the drift of drops: empty, then with 10,000 scoring runs."""
    with plain_postgres() as database:
        migrate(database.settings, load_pipeline(database.settings))
        empty = request_page(scene, database.settings, PATH)
        fill(database.settings, load_pipeline(database.settings).contract.classes, runs=RUNS)
        full = request_page(scene, database.settings, PATH)
    yield Row(
        f"Apex page with {RUNS:,} scoring runs",
        median(full),
        "ms",
        300.0,
        Beside("the same page of an empty platform", median(empty)),
        note=f"slowest of {len(full)}: {max(full):.0f} ms",
    )


def request_page(scene: Scene, settings: Settings, path: str) -> list[float]:
    """Milliseconds of each request for a path but the first, which fills caches."""
    env = clean_environment(
        AIRFLOW_HOME=str(scene.folder),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        APEX_HOME=str(settings.home),
        APEX_PG_PORT=str(settings.pg_port),
        APEX_PIPELINES=str(settings.pipelines),
        PYTHONPATH=os.pathsep.join([str(CODE_ROOT / "plugins"), str(CODE_ROOT)]),
    )
    output = run_measured([sys.executable, "-W", "ignore", "-c", ASK, path], env).output
    return [float(line.split()[1]) for line in output.splitlines() if line.startswith("TOOK ")][1:]
