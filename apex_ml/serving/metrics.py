"""Metrics of the service for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

NAMESPACE = "apex_serving"
BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class ServingMetrics:
    """Counters, gauges and a histogram of this process. No label contains data of a client."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.registry = CollectorRegistry()
        self._classes = tuple(classes)
        to = self.registry
        self._requests = Counter(
            "requests", "Requests by route and status.", ("route", "status"), NAMESPACE, registry=to
        )
        self._seconds = Histogram(
            "request_seconds", "Time of a request.", ("route",), NAMESPACE, registry=to, buckets=BUCKETS
        )
        self._predicted = Counter("predicted", "Orders by predicted channel.", ("channel",), NAMESPACE, registry=to)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, namespace=NAMESPACE, registry=to)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, namespace=NAMESPACE, registry=to)

        self._orders = counter("orders", "Orders that were predicted.")
        self._unknown = counter("unknown_clients", "Orders of clients without a history.")
        self._warned = counter("warned_orders", "Orders with a value that the contract warns of.")
        self._refused = counter("refused_values", "Values that broke the contract.")
        self.recorded = counter("recorded", "Answers that were recorded in Postgres.")
        self.dropped = counter("dropped", "Answers that were not recorded, as the queue was full.")
        self.version = gauge("model_version", "Version of the loaded model; 0 before there is one.")
        self.problems = gauge("problems", "Problems that /ready reports.")
        self.waiting = gauge("record_queue", "Answers that wait to be recorded.")

    def watch(self, version: Callable[[], float], problems: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Read these gauges at each scrape."""
        self.version.set_function(version)
        self.problems.set_function(problems)
        self.waiting.set_function(waiting)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_orders(self, predicted: np.ndarray, known: np.ndarray, warned: int) -> None:
        """Count the orders of a request: index of the predicted class, and whether the client is known, shapes (n,)."""
        self._orders.inc(len(predicted))
        for index, count in enumerate(np.bincount(predicted, minlength=len(self._classes)).tolist()):
            if count:
                self._predicted.labels(self._classes[index]).inc(count)
        if unknown := len(known) - int(np.count_nonzero(known)):
            self._unknown.inc(unknown)
        if warned:
            self._warned.inc(warned)

    def refused(self, values: int) -> None:
        """Count values that violated the contract."""
        self._refused.inc(values)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
