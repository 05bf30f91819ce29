"""Limit the requests a second of each client."""

from __future__ import annotations

from collections import OrderedDict

MAX_BUCKETS = 10_000


class Buckets:
    """A token bucket for each client: `rate` requests a second, as many at once. The least recent ones are dropped.

    >>> buckets = Buckets(rate=2)
    >>> [buckets.wait("a", now=0.0) for _ in range(3)]
    [0.0, 0.0, 0.5]
    >>> buckets.wait("b", now=0.0), buckets.wait("a", now=0.5)
    (0.0, 0.0)
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._most = rate, max(rate, 1.0)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Take a token; returns 0, or the seconds until there is one."""
        if not self._rate:
            return 0.0
        left, then = self._left.pop(client, (self._most, now))
        left = min(self._most, left + (now - then) * self._rate)
        taken = left >= 1
        self._left[client] = (left - 1 if taken else left, now)
        if len(self._left) > MAX_BUCKETS:
            self._left.popitem(last=False)
        return 0.0 if taken else (1 - left) / self._rate
