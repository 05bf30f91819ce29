"""Figures of the service for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Figures:
    """Counters, gauges and a histogram of this process. No label holds what a client sent."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.registry = CollectorRegistry()
        self._classes = tuple(classes)
        made = {"registry": self.registry, "namespace": "apex_serving"}
        self._requests = Counter("requests", "Requests by route and status.", ("route", "status"), **made)
        self._seconds = Histogram("request_seconds", "Time of a request.", ("route",), buckets=BUCKETS, **made)
        self._orders = Counter("orders", "Orders that were judged.", **made)
        self._predicted = Counter("predicted", "Orders by the channel that was named.", ("channel",), **made)
        self._unknown = Counter("unknown_clients", "Orders of clients without a history.", **made)
        self._warned = Counter("warned_orders", "Orders with a value that the contract warns of.", **made)
        self._refused = Counter("refused_values", "Values that broke the contract.", **made)
        self.recorded = Counter("recorded", "Answers that were recorded in Postgres.", **made)
        self.dropped = Counter("dropped", "Answers that were not recorded, as the queue was full.", **made)
        self.version = Gauge("model_version", "Version of the loaded model; 0 before there is one.", **made)
        self.problems = Gauge("problems", "Things that /ready tells of.", **made)
        self.waiting = Gauge("record_queue", "Answers that wait to be recorded.", **made)

    def watch(self, version: Callable[[], float], problems: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Read these gauges when they are asked for."""
        self.version.set_function(version)
        self.problems.set_function(problems)
        self.waiting.set_function(waiting)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def judged(self, named: np.ndarray, known: np.ndarray, warned: int) -> None:
        """Count the orders of a request: index of the named class and whether the client is known, shapes (n,)."""
        self._orders.inc(len(named))
        for index, count in enumerate(np.bincount(named, minlength=len(self._classes)).tolist()):
            if count:
                self._predicted.labels(self._classes[index]).inc(count)
        if unknown := len(known) - int(np.count_nonzero(known)):
            self._unknown.inc(unknown)
        if warned:
            self._warned.inc(warned)

    def refused(self, values: int) -> None:
        """Count values that broke the contract."""
        self._refused.inc(values)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
