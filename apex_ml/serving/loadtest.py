"""Ask the online service as many clients at once would, and measure what they see."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

from apex_ml.adapters.mlflow.inference_log import BATCH_TAG, SAMPLE_ROWS, InferenceLog
from apex_ml.adapters.storage.local import check_parquet
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract, load_contract
from apex_ml.contract.requests import number_text
from apex_ml.errors import DataError, TransientError
from apex_ml.json_text import json_text
from apex_ml.serving.client import Target
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop
from apex_ml.wording import counted

EXPERIMENT = "apex_loadtest"
NO_JSON = "an answer that is no JSON"


@dataclass(frozen=True)
class Plan:
    """How to ask. With a `rate` requests begin on time, whether or not earlier ones were answered."""

    concurrency: int = 32
    per_request: int = 1
    rate: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True)
class Asked:
    """Orders as JSON-able objects, and the class of each where it is known."""

    orders: list[dict[str, Any]]
    truth: list[str | None]
    classes: tuple[str, ...]

    def requests(self, target: Target, size: int) -> list[tuple[bytes, int, int]]:
        """Whole requests with the places of their orders: from, to."""
        made = []
        for begin in range(0, len(self.orders), size):
            part = self.orders[begin : begin + size]
            body = json_text({"orders": part}, separators=(",", ":")).encode()
            made.append((target.request("POST", "/predict", body), begin, begin + len(part)))
        return made


def asked_orders(settings: Settings, target: Target, count: int, path: Path | None, seed: int) -> Asked:
    """The first orders of a file, or orders drawn from the raw ones and dated on the day of the service's snapshot.

    Raises :class:`~apex_ml.errors.TransientError` when the service is not ready,
    :class:`~apex_ml.errors.DataError` for a file that cannot be used.
    """
    contract = load_contract(settings.contract)
    if path is not None:
        check_parquet(path)
        return orders_of(contract, pq.ParquetFile(path).read().slice(0, count), path.name)
    day = date.fromisoformat(model_of(target)["snapshot_as_of"])
    with tempfile.TemporaryDirectory(prefix="apex-loadtest-") as folder:
        drawn = Path(folder) / "orders.parquet"
        make_drop(settings.raw, day, count, seed, drawn, contract)
        return orders_of(contract, pq.read_table(drawn), drawn.name)


def orders_of(contract: Contract, table: pa.Table, name: str) -> Asked:
    """The rows of a table as a request has them; the target is kept apart, measures stay behind."""
    sent = [c for c in contract.columns.values() if c.role in ("entity", "timestamp", "attribute")]
    if missing := [c.name for c in sent if c.name not in table.column_names and c.required.score]:
        raise DataError(f"{name}: required columns are missing: {', '.join(missing)}")
    columns = {}
    for column in sent:
        if column.name not in table.column_names:
            continue
        values = table.column(column.name)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if column.type == "date":
            columns[column.name] = [None if v is None else v.isoformat() for v in values.cast(pa.date32()).to_pylist()]
        else:
            columns[column.name] = [_sent(column, v) for v in values.to_pylist()]
    known = set(contract.classes)
    target = contract.target
    truth = table.column(target).cast(pa.string()).to_pylist() if target in table.column_names else []
    orders = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Asked(orders, [t if t in known else None for t in truth] or [None] * len(orders), contract.classes)


def _sent(column: Column, value: Any) -> Any:
    """A value of a file as JSON: a number in a text column as its text, a decimal as the number that it is."""
    if column.type == "string":
        return value if value is None or isinstance(value, str) else number_text(value)
    if isinstance(value, Decimal):
        return int(value) if column.type == "int64" and value == int(value) else float(value)
    return value


def model_of(target: Target) -> dict[str, Any]:
    """What the service says of its model. Raises :class:`~apex_ml.errors.TransientError` when it has none."""
    try:
        # as the requests that are measured: to the service itself, by no proxy
        answer = httpx.get(f"{target.url}/model", headers=target.headers, timeout=10, trust_env=False, verify=False)
    except httpx.RemoteProtocolError as error:
        raise TransientError(
            f"{target.url} answers something else than HTTP: {error}; stop what has the online service's port, or set"
            " APEX_SERVING_PORT; then: make up"
        ) from error
    except httpx.HTTPError as error:
        raise TransientError(
            f"the online service at {target.url} does not answer: {error}; start it: make up"
        ) from error
    if answer.status_code != 200:
        raise TransientError(f"the online service at {target.url} answers {answer.status_code}: {answer.text[:300]}")
    try:
        found = answer.json()
        if not isinstance(found, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise TransientError(
            f"{target.url} answers with no JSON object: {answer.text[:100]!r}; is it the online service that listens"
            " there? Stop what has its port, or set APEX_SERVING_PORT; then: make up"
        ) from error
    return found


@dataclass
class Found:
    """What was measured. Times are in milliseconds, one a request."""

    classes: tuple[str, ...]
    started: datetime
    seconds: float = 0.0
    orders: int = 0
    answered: int = 0
    requests: int = 0
    times: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)
    confidence_of: dict[str, float] = field(default_factory=dict)
    truth: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(true class, predicted class) of orders whose class is known."""
    versions: Counter[int] = field(default_factory=Counter)
    sample: list[dict[str, Any]] = field(default_factory=list)

    @property
    def success_rate(self) -> float:
        """Orders that were answered, of those that were sent."""
        return self.answered / self.orders if self.orders else 1.0

    def quantile(self, q: float) -> float:
        """A quantile of the times; nan without any."""
        return float(np.quantile(self.times, q)) if self.times else float("nan")

    def metrics(self) -> dict[str, float]:
        """The figures under the names that scoring logs them by."""
        found = {
            "inference_samples": float(self.answered),
            "inference_total_time_ms": self.seconds * 1e3,
            "inference_success_rate": self.success_rate,
            "inference_requests": float(self.requests),
            "inference_orders_per_second": self.answered / self.seconds if self.seconds else 0.0,
        }
        if self.times:
            found |= {
                "inference_avg_time_ms": float(np.mean(self.times)),
                "inference_time_ms_p50": self.quantile(0.5),
                "inference_time_ms_p95": self.quantile(0.95),
                "inference_time_ms_p99": self.quantile(0.99),
                "inference_time_ms_max": max(self.times),
            }
        if self.confidences:
            found |= {
                "inference_confidence_mean": float(np.mean(self.confidences)),
                "inference_confidence_median": float(np.median(self.confidences)),
            }
        for level in self.classes:
            found[f"pred_count_{level}"] = float(self.predicted[level])
            if self.predicted[level]:
                found[f"pred_confidence_{level}"] = self.confidence_of[level] / self.predicted[level]
        known = sum(self.truth.values())
        if known:
            found["inference_known"] = float(known)
            found["inference_accuracy"] = sum(n for (true, said), n in self.truth.items() if true == said) / known
            for level in self.classes:
                found[f"true_count_{level}"] = float(sum(n for (true, _), n in self.truth.items() if true == level))
        return found

    def lines(self) -> Iterator[str]:
        """The figures for people."""
        each = self.requests / self.seconds
        yield f"requests             {self.requests:,} in {self.seconds:.1f} s, {each:,.0f} a second"
        yield f"orders               {self.orders:,}, {self.answered / self.seconds:,.0f} answered a second"
        yield f"success rate         {self.success_rate:.2%}"
        for reason, count in self.failures.most_common(10):
            yield f"  failed             {counted(count, 'request')}: {reason}"
        if self.times:
            yield (
                f"latency              mean {np.mean(self.times):.2f} ms, median {self.quantile(0.5):.2f},"
                f" p95 {self.quantile(0.95):.2f}, p99 {self.quantile(0.99):.2f}, max {max(self.times):.2f}"
            )
        if self.confidences:
            yield f"confidence           mean {np.mean(self.confidences):.4f}, median {np.median(self.confidences):.4f}"
        yield "model version        " + (
            ", ".join(f"{v} ({counted(n, 'request')})" for v, n in sorted(self.versions.items())) or "none"
        )
        for level in self.classes:
            true = sum(n for (t, _), n in self.truth.items() if t == level)
            right = self.truth[(level, level)]
            beside = f", true {true:,}, of them named so {right:,}" if self.truth else ""
            yield f"  {level:<18} predicted {self.predicted[level]:,}{beside}"

    def add(self, status: int, body: bytes, milliseconds: float, truth: Sequence[str | None]) -> None:
        """Count one answer."""
        self.requests += 1
        self.orders += len(truth)
        self.times.append(milliseconds)
        if status != 200:
            try:
                told = from_json(body)["message"]
            except (ValueError, KeyError, TypeError):
                told = ""
            self.failures[f"{status} {told}".strip()] += 1
            return
        try:
            answer = from_json(body)
        except ValueError:
            self.failures[f"200 {NO_JSON}"] += 1
            return
        self.answered += len(answer["predictions"])
        self.versions[answer["model"]["version"]] += 1
        for said, true in zip(answer["predictions"], truth, strict=True):
            named, confidence = said["predicted"], said["confidence"]
            self.predicted[named] += 1
            self.confidence_of[named] = self.confidence_of.get(named, 0.0) + confidence
            self.confidences.append(confidence)
            if true is not None:
                self.truth[(true, named)] += 1
        if len(self.sample) < SAMPLE_ROWS:
            self.sample += answer["predictions"][: SAMPLE_ROWS - len(self.sample)]


async def ask(target: Target, plan: Plan, asked: Asked) -> Found:
    """Send all requests, `concurrency` at a time, and measure.

    At a `rate`, the time of a request that had to wait for a free connection counts from when it was due.
    A connection that breaks is a failed request, and a new one is made.
    """
    requests = asked.requests(target, plan.per_request)
    found = Found(asked.classes, datetime.now(UTC))
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


def log(settings: Settings, target: Target, plan: Plan, found: Found) -> str:
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
