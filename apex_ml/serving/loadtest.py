"""Send requests to the online service like many clients at once, and measure latencies and failures."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from apex_ml.adapters.mlflow.inference_log import BATCH_TAG, InferenceLog
from apex_ml.serving.client import Target
from apex_ml.serving.loadtest_results import LoadtestResults
from apex_ml.serving.loadtest_rows import LoadtestRows, model_of
from apex_ml.settings import Settings
from apex_ml.wording import counted


@dataclass(frozen=True)
class Plan:
    """The plan of a load test. With a `rate` requests start on time, even if earlier ones are not answered."""

    concurrency: int = 32
    per_request: int = 1
    rate: float = 0.0
    seconds: float | None = None


async def ask(target: Target, plan: Plan, asked: LoadtestRows) -> LoadtestResults:
    """Send all requests, `concurrency` at a time, and measure.

    At a `rate`, the time of a request starts when it is due, even if it must wait for a free connection.
    A broken connection counts as a failed request and is replaced.
    """
    requests = asked.requests(target, plan.per_request)
    results = LoadtestResults(asked.classes, datetime.now(UTC))
    begun = time.perf_counter()
    turn = iter(range(len(requests)) if plan.seconds is None else iter(int, 1))
    number = 0

    async def work() -> None:
        nonlocal number
        connection = None
        for _ in turn:
            nr, number = number, number + 1
            request, first, last = requests[nr % len(requests)]
            due = time.perf_counter()
            if plan.rate:
                due = begun + nr / plan.rate
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                    due = time.perf_counter()  # the service is not responsible for a late timer
            if plan.seconds is not None and time.perf_counter() - begun > plan.seconds:
                break
            try:
                if connection is None or not connection.open:
                    connection = await target.connect()
                status, body = await connection.ask(request)
            except (OSError, TimeoutError) as error:
                results.requests += 1
                results.rows += last - first
                results.failures[f"{type(error).__name__}: {error}"] += 1
                if connection is not None:
                    connection.close()
                    connection = None
                await asyncio.sleep(0.05)
                continue
            took = (time.perf_counter() - due) * 1e3
            results.add(status, body, took, asked.truth[first:last])
        if connection is not None:
            connection.close()

    await asyncio.gather(*(work() for _ in range(plan.concurrency)))
    results.seconds = time.perf_counter() - begun
    return results


def log(settings: Settings, pipeline: str, target: Target, plan: Plan, results: LoadtestResults) -> str:
    """Log the metrics as a run of the pipeline's experiment, linked to the model version; returns its address.

    Raises :class:`~apex_ml.errors.TransientError` when MLflow does not answer.
    """
    model = model_of(target, pipeline)
    batch, mlflow = uuid.uuid4().hex, InferenceLog(settings, pipeline, "loadtest")
    tags = {
        BATCH_TAG: batch,
        "apex.model_name": model["name"],
        "apex.model_version": str(model["version"]),
        "apex.training_run_id": model["mlflow_run_id"],
        "apex.feature_snapshot": model["snapshot_sha256"],
        "apex.concurrency": str(plan.concurrency),
        "apex.rows_per_request": str(plan.per_request),
        "apex.rate": str(plan.rate),
    }
    name = f"{counted(results.rows, 'row')}, {plan.concurrency} at a time"
    run_id = mlflow.begin(batch, name, tags, results.started)
    mlflow.metrics(run_id, results.metrics())
    mlflow.artifact(run_id, "inference_results.json", results.sample)
    counts, edges = np.histogram(results.times, bins=50) if results.times else (np.array([]), np.array([]))
    distributions = {
        "rows": results.rows,
        "failures": dict(results.failures),
        "predicted": dict(results.predicted),
        "observed_by_predicted": {
            level: {true: results.truth[(true, level)] for true in results.classes} for level in results.classes
        },
        "time_ms_edges": edges.tolist(),
        "time_ms_counts": counts.tolist(),
    }
    mlflow.artifact(run_id, "inference_distributions.json", distributions)
    mlflow.end(run_id, datetime.now(UTC))
    return f"{settings.tracking_uri.rstrip('/')}, experiment {mlflow.named}, run {run_id}"
