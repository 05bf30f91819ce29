"""Drops scored by one, two and four Celery workers of the platform in containers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene
from tests.docker.engine.container_stack import Stack, running, why_not
from tests.support.waiting import until

WORKERS = (1, 2, 4)
ROUNDS = 3
DROPS, ROWS = 8, 100_000
SCORED_TIMEOUT = 600.0


@measurement
def workers(scene: Scene) -> Iterator[Row]:
    """Eight drops scored by 1, 2 and 4 workers, alternating; needs a Docker engine."""
    if reason := why_not():
        print(f"  skipped: {reason}", flush=True)
        return
    took: dict[int, list[float]] = {count: [] for count in WORKERS}
    inside: dict[int, list[float]] = {count: [] for count in WORKERS}
    with tempfile.TemporaryDirectory(prefix="apex-bench-") as folder, running(Path(folder)) as stack:
        stack.set(APEX_EXECUTOR="CeleryExecutor", APEX_ORDERS__SCORING__CHUNK_DROPS="1")
        for turn in range(ROUNDS):
            for count in WORKERS:
                seconds, scoring = _scored(stack, count, turn)
                took[count].append(seconds)
                inside[count].append(scoring)
                print(f"  {count} workers: {seconds:.1f} s, of which scored for {scoring:.1f} s", flush=True)
    alone = median(took[1])
    for count in WORKERS:
        result = median(took[count])
        note = f"{alone / result:.2f} × one worker; {DROPS} drops of {ROWS:,} rows, a container each"
        beside = Beside("scoring itself, one after the other", median(inside[count]))
        yield Row(f"drops scored by {count} workers", result, "s", None, beside, note)


def _scored(stack: Stack, count: int, turn: int) -> tuple[float, float]:
    """Seconds from the start of Airflow's run to the last complete drop, and the seconds of scoring itself."""
    stack.set(WORKERS=str(count))
    stack.platform("up")
    stack.pause("orders_score")
    for nr in range(DROPS):
        stack.put(f"{count}-{turn}-{nr}.parquet", ROWS, 1000 * count + 10 * turn + nr)
    with stack.airflow("admin") as api:
        pool = {"name": "apex_scoring", "slots": count, "include_deferred": False}
        assert api.patch("/api/v2/pools/apex_scoring", json=pool).status_code == 200
        assert api.post("/api/v2/dags/orders_score/dagRuns", json={"logical_date": None}).status_code == 200
        before = time.time()
        stack.pause("orders_score", False)
        mine = f"FROM orders.drops JOIN orders.scoring_runs USING (drop_id) WHERE name LIKE '{count}-{turn}-%'"
        whole = [[str(DROPS), str(DROPS * ROWS)]]
        until(
            lambda: stack.sql(f"SELECT count(*), sum(rows_scored) {mine}") == whole, SCORED_TIMEOUT, f"{count} workers"
        )
        runs = api.get("/api/v2/dags/orders_score/dagRuns", params={"limit": 100, "order_by": "-start_date"}).json()
    # the sweep can have been first
    starts = [datetime.fromisoformat(run["start_date"]).timestamp() for run in runs["dag_runs"] if run["start_date"]]
    [[scoring, last]] = stack.sql(f"SELECT sum(ms_total) / 1e3, extract(epoch FROM max(finished_at)) {mine}")
    return float(last) - min(start for start in starts if start >= before), float(scoring)
