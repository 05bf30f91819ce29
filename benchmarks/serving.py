"""The online service with its load generator: single rows, large bodies, and a long run of both."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from apex_ml.settings import CODE_ROOT
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import APEX, CommandError, Scene
from tests.support.throwaway_home import free_ports

ROWS = 50_000
RATE, RATE_SECONDS = 200, 30
BODY, BODY_SECONDS = 500, 15
SOAK_SECONDS = float(os.environ.get("APEX_TEST_SOAK_SECONDS", "600"))
"""Duration of the soak. A minute is enough to detect a leak of a megabyte per second."""
SOAK_MIB = 20.0
"""Maximum growth from the first to the second half of the soak: a leak of 70 bytes per request."""
ORIGINAL_MS = 15.0
"""Approximate time of a prediction in the original project's service."""
CLIENT = """
import asyncio, json, sys
from pathlib import Path
from apex_ml.serving.client import Target
from apex_ml.serving.loadtest import Plan, ask
from apex_ml.serving.loadtest_rows import load_rows
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
url, rows, plan = sys.argv[1], int(sys.argv[2]), Plan(**json.loads(sys.argv[3]))
target, settings = Target(url), Settings.load()
asked = load_rows(settings, load_pipeline(settings), target, rows, None, 1)
found = asyncio.run(ask(target, plan, asked))
print("FOUND " + json.dumps({**found.metrics(), "failures": dict(found.failures)}))
"""


@dataclass(frozen=True)
class Service:
    """A service in a separate process."""

    url: str
    process: psutil.Process
    env: dict[str, str]

    def load(self, rows: int, **plan: Any) -> dict[str, Any]:
        """Send requests from a separate process; returns the metrics."""
        command = [sys.executable, "-W", "ignore", "-c", CLIENT, self.url, str(rows), json.dumps(plan)]
        done = subprocess.run(command, env=self.env, cwd=CODE_ROOT, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
        if not lines:
            raise CommandError(done.stderr[-1500:])
        content: dict[str, Any] = json.loads(lines[0][6:])
        if content["failures"]:
            raise CommandError(f"requests failed: {content['failures']}")
        return content

    @property
    def mib(self) -> float:
        """Its resident memory."""
        return float(self.process.memory_info().rss) / 2**20


@contextlib.contextmanager
def service(scene: Scene, **more: str) -> Iterator[Service]:
    """`apex serve` on the bench's home and its champion."""
    scene.chain  # noqa: B018  there is a champion afterwards
    home = scene.home
    (port,) = free_ports(1)
    env = home.env | {"APEX_SERVING_PORT": str(port), "OMP_NUM_THREADS": "1", **more}
    log = Path(home.settings.home) / "serving-bench.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*APEX, "serve"], env=env, cwd=CODE_ROOT, stdout=out, stderr=out)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                    break
            time.sleep(0.2)
        else:
            raise CommandError(f"not ready: {log.read_text()[-1500:]}")
        yield Service(url, psutil.Process(process.pid), env)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@measurement
def serving(scene: Scene) -> Iterator[Row]:
    """Single rows at 200 requests per second, bodies of 500 at full speed, and 32 clients with 50,000 rows."""
    with service(scene) as instance:
        instance.load(2000, concurrency=4)
        single = instance.load(RATE * RATE_SECONDS, concurrency=32, rate=RATE)
        original = Beside("the original project, about", ORIGINAL_MS)
        note = f"{single['inference_samples']:,.0f} requests, slowest {single['inference_time_ms_max']:.1f} ms"
        yield Row("one row, p50 at 200 requests/s", single["inference_time_ms_p50"], "ms", 3.0, original, note)
        yield Row("one row, p99 at 200 requests/s", single["inference_time_ms_p99"], "ms", 15.0)
        large = instance.load(20 * BODY, concurrency=2, per_request=BODY, seconds=BODY_SECONDS)
        speed = large["inference_rows_per_second"]
        note = f"{speed:,.0f} rows a second"
        floor = Beside("the same rows by the model alone", _floor(scene))
        yield Row("a row in bodies of 500", 1e6 / speed, "µs", 1e6 / 20_000, floor, note)
        crowd = instance.load(ROWS, concurrency=32)
        note = f"{crowd['inference_requests'] / crowd['inference_total_time_ms'] * 1e3:,.0f} requests a second"
        yield Row("one row, mean of 32 clients at once", crowd["inference_avg_time_ms"], "ms", None, None, note)
        yield Row("memory of the service", instance.mib, "MiB")


@measurement
def soak(scene: Scene) -> Iterator[Row]:
    """Single rows at 200 requests/s together with large bodies, for ten minutes: the memory must not grow."""
    with service(scene) as instance:
        soaked = run_soak(instance, SOAK_SECONDS)
    note = f"{soaked.seconds:.0f} s, {soaked.requests:,} requests, {soaked.rows:,} rows, at most"
    note += f" {max(soaked.mib):.0f} MiB"
    yield Row("memory, second half over first", grown(soaked), "MiB", SOAK_MIB, None, note)
    yield Row("one row, p50 beside large bodies", soaked.p50, "ms")
    yield Row("one row, p99 beside large bodies", soaked.p99, "ms")


@dataclass(frozen=True)
class Soaked:
    """Resident MiB over time, and the number of requests meanwhile."""

    mib: list[float]
    seconds: float
    p50: float
    p99: float
    requests: int
    rows: int


def grown(soaked: Soaked) -> float:
    """Increase of the median MiB from the first half (without its first quarter) to the second half; at least 0."""
    rest = soaked.mib[len(soaked.mib) // 4 :]
    first, second = np.array_split(np.array(rest), 2)
    return max(0.0, float(np.median(second) - np.median(first)))


def run_soak(target: Service, seconds: float) -> Soaked:
    """Send requests for `seconds`, large bodies on one connection and single rows on many, and sample the memory."""
    results: dict[str, dict[str, Any]] = {}

    def ask(name: str, rows: int, **plan: Any) -> None:
        results[name] = target.load(rows, seconds=seconds, **plan)

    workers = [
        threading.Thread(target=ask, args=("single", 5000), kwargs={"concurrency": 16, "rate": float(RATE)}),
        threading.Thread(
            target=ask, args=("large", 20 * BODY), kwargs={"concurrency": 1, "per_request": BODY, "rate": 10.0}
        ),
    ]
    begun = time.monotonic()
    for worker in workers:
        worker.start()
    mib = []
    while any(worker.is_alive() for worker in workers):
        mib.append(target.mib)
        time.sleep(min(1.0, seconds / 20))
    for worker in workers:
        worker.join()
    if len(results) < len(workers):
        raise CommandError("a load generator failed")
    single, large = results["single"], results["large"]
    return Soaked(
        mib,
        time.monotonic() - begun,
        single["inference_time_ms_p50"],
        single["inference_time_ms_p99"],
        int(single["inference_requests"] + large["inference_requests"]),
        int(single["inference_samples"] + large["inference_samples"]),
    )


def _floor(scene: Scene) -> float:
    """Microseconds a row of encoder, trees and calibration alone, in tables of 500 rows of features."""
    code = """
import time
import pyarrow.parquet as pq
from apex_ml.adapters.mlflow.registry import CHAMPION, Registry
from apex_ml.core.estimator import Model
from apex_ml.settings import Settings
from apex_ml.pipelines import load_pipeline
from apex_ml.services.run_folder import StepContext
settings = Settings.load()
context = StepContext(settings, load_pipeline(settings), "bench")
registry = Registry(context.settings, context.model_name)
model = Model.from_files(registry.files(registry.by_alias(CHAMPION)))
table = pq.read_table(context.processed / "bench" / "split" / "test.parquet").slice(0, 500)
model.predict(table)
begun = time.perf_counter()
for _ in range(100):
    model.predict(table)
print((time.perf_counter() - begun) / 100 / len(table) * 1e6)
"""
    env = scene.home.env | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=env, cwd=CODE_ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)
