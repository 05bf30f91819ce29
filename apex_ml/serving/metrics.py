"""Metrics of the service for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest

NAMESPACE = "apex_serving"
BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class ServingMetrics:
    """Counters, gauges and a histogram of this process, by pipeline. No label contains data of a row."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        to = self.registry
        self._requests = Counter(
            "requests", "Requests by route and status.", ("pipeline", "route", "status"), NAMESPACE, registry=to
        )
        self._seconds = Histogram(
            "request_seconds", "Time of a request.", ("pipeline", "route"), NAMESPACE, registry=to, buckets=BUCKETS
        )
        self.predicted = Counter("predicted", "Rows by predicted class.", ("pipeline", "class"), NAMESPACE, registry=to)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ("pipeline",), NAMESPACE, registry=to)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ("pipeline",), NAMESPACE, registry=to)

        self.rows = counter("rows", "Rows that were predicted.")
        self.unknown = counter("unknown_entities", "Rows of entities without a history.")
        self.warned = counter("warned_rows", "Rows with a value that the contract warns of.")
        self.refused = counter("refused_values", "Values that broke the contract.")
        self.recorded = counter("recorded", "Answers that were recorded in Postgres.")
        self.dropped = counter("dropped", "Answers that were not recorded, as the queue was full.")
        self.version = gauge("model_version", "Version of the loaded model; 0 before there is one.")
        self.problems = gauge("problems", "Problems that /ready reports.")
        self.waiting = gauge("record_queue", "Answers that wait to be recorded.")
        self.over_memory = gauge("over_memory", "1 while the champion does not fit into APEX_SERVING_MEMORY_MB.")
        self.memory = gauge("memory_bytes", "Estimated size of the loaded model and its history.")
        resident = Gauge("resident_bytes", "Resident memory of the process.", namespace=NAMESPACE, registry=to)
        resident.set_function(lambda: psutil.Process().memory_info().rss)

    def of(self, pipeline: str, classes: Sequence[str]) -> PipelineMetrics:
        """The metrics of one pipeline."""
        return PipelineMetrics(self, pipeline, classes)

    def answered(self, pipeline: str, route: str, status: int, seconds: float) -> None:
        """Count one request; one to the process itself has an empty pipeline."""
        self._requests.labels(pipeline, route, str(status)).inc()
        self._seconds.labels(pipeline, route).observe(seconds)

    def text(self, is_visible: Callable[[str], bool] = lambda _: True) -> bytes:
        """The metrics of the process and of the visible pipelines, in Prometheus' text format."""
        return generate_latest(_Visible(self.registry, is_visible))


class PipelineMetrics:
    """The metrics of one pipeline, all there from the start."""

    def __init__(self, metrics: ServingMetrics, pipeline: str, classes: Sequence[str]) -> None:
        self._predicted = [metrics.predicted.labels(pipeline, level) for level in classes]
        self._rows, self._unknown = metrics.rows.labels(pipeline), metrics.unknown.labels(pipeline)
        self._warned, self._refused = metrics.warned.labels(pipeline), metrics.refused.labels(pipeline)
        self.recorded, self.dropped = metrics.recorded.labels(pipeline), metrics.dropped.labels(pipeline)
        self._version, self._problems = metrics.version.labels(pipeline), metrics.problems.labels(pipeline)
        self._waiting, self._memory = metrics.waiting.labels(pipeline), metrics.memory.labels(pipeline)
        self._over_memory = metrics.over_memory.labels(pipeline)

    def watch(
        self,
        *,
        version: Callable[[], float],
        problems: Callable[[], float],
        waiting: Callable[[], float],
        memory: Callable[[], float],
        over_memory: Callable[[], bool],
    ) -> None:
        """Read these gauges at each scrape."""
        self._version.set_function(version)
        self._problems.set_function(problems)
        self._waiting.set_function(waiting)
        self._memory.set_function(memory)
        self._over_memory.set_function(over_memory)

    def count_rows(self, predicted: np.ndarray, known: np.ndarray, warned: int) -> None:
        """Count the rows of a request: index of the predicted class, and whether the entity is known, shapes (n,)."""
        self._rows.inc(len(predicted))
        for counter, count in zip(self._predicted, np.bincount(predicted).tolist(), strict=False):
            if count:
                counter.inc(count)
        if unknown := len(known) - int(np.count_nonzero(known)):
            self._unknown.inc(unknown)
        if warned:
            self._warned.inc(warned)

    def refused(self, values: int) -> None:
        """Count values that violated the contract."""
        self._refused.inc(values)


class _Visible(CollectorRegistry):
    """The metrics of a registry without the samples of the pipelines that are not visible."""

    def __init__(self, registry: CollectorRegistry, is_visible: Callable[[str], bool]) -> None:
        super().__init__()
        self._registry, self._is_visible = registry, is_visible

    def collect(self) -> Iterator[Metric]:
        """Every metric with its visible samples."""
        for metric in self._registry.collect():
            samples = [s for s in metric.samples if not (of := s.labels.get("pipeline")) or self._is_visible(of)]
            visible = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            visible.samples = samples
            yield visible
