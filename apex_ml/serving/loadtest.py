"""Ask the online service as many clients at once would, and measure what they see."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from apex_ml.adapters.mlflow.inference_log import BATCH_TAG, InferenceLog
from apex_ml.serving.client import Target
from apex_ml.serving.loadtest_orders import LoadtestOrders, model_of
from apex_ml.serving.loadtest_results import LoadtestResults
from apex_ml.settings import Settings
from apex_ml.wording import counted

EXPERIMENT = "apex_loadtest"


@dataclass(frozen=True)
class Plan:
    """How to ask. With a `rate` requests begin on time, whether or not earlier ones were answered."""

    concurrency: int = 32
    per_request: int = 1
    rate: float = 0.0
    seconds: float | None = None


async def ask(target: Target, plan: Plan, asked: LoadtestOrders) -> LoadtestResults:
    """Send all requests, `concurrency` at a time, and measure.

    At a `rate`, the time of a request that had to wait for a free connection counts from when it was due.
    A connection that breaks is a failed request, and a new one is made.
    """
    requests = asked.requests(target, plan.per_request)
    found = LoadtestResults(asked.classes, datetime.now(UTC))
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
                    due = time.perf_counter()  # a timer that wakes a millisecond late is not the service's
            if plan.seconds is not None and time.perf_counter() - begun > plan.seconds:
                break
            try:
                if connection is None or not connection.open:
                    connection = await target.connect()
                status, body = await connection.ask(request)
            except (OSError, TimeoutError) as error:
                found.requests += 1
                found.orders += last - first
                found.failures[f"{type(error).__name__}: {error}"] += 1
                if connection is not None:
                    connection.close()
                    connection = None
                await asyncio.sleep(0.05)
                continue
            took = (time.perf_counter() - due) * 1e3
            found.add(status, body, took, asked.truth[first:last])
        if connection is not None:
            connection.close()

    await asyncio.gather(*(work() for _ in range(plan.concurrency)))
    found.seconds = time.perf_counter() - begun
    return found


def log(settings: Settings, target: Target, plan: Plan, found: LoadtestResults) -> str:
    """Log the figures as a run of the experiment apex_loadtest, linked to the model version; returns its address.

    Raises :class:`~apex_ml.errors.TransientError` when MLflow does not answer.
    """
    model = model_of(target)
    batch, mlflow = uuid.uuid4().hex, InferenceLog(settings, EXPERIMENT)
    tags = {
        BATCH_TAG: batch,
        "apex.model_name": model["name"],
        "apex.model_version": str(model["version"]),
        "apex.training_run_id": model["mlflow_run_id"],
        "apex.feature_snapshot": model["snapshot_sha256"],
        "apex.concurrency": str(plan.concurrency),
        "apex.orders_per_request": str(plan.per_request),
        "apex.rate": str(plan.rate),
    }
    name = f"{counted(found.orders, 'order')}, {plan.concurrency} at a time"
    run_id = mlflow.begin(batch, name, tags, found.started)
    mlflow.metrics(run_id, found.metrics())
    mlflow.artifact(run_id, "inference_results.json", found.sample)
    counts, edges = np.histogram(found.times, bins=50) if found.times else (np.array([]), np.array([]))
    distributions = {
        "orders": found.orders,
        "failures": dict(found.failures),
        "predicted": dict(found.predicted),
        "observed_by_predicted": {
            level: {true: found.truth[(true, level)] for true in found.classes} for level in found.classes
        },
        "time_ms_edges": edges.tolist(),
        "time_ms_counts": counts.tolist(),
    }
    mlflow.artifact(run_id, "inference_distributions.json", distributions)
    mlflow.end(run_id, datetime.now(UTC))
    return f"{settings.tracking_uri.rstrip('/')}, experiment {EXPERIMENT}, run {run_id}"
