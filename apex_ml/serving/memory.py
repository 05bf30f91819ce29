"""The memory budget of the service: a champion that does not fit is not loaded, and the others go on.

The size of a model with its history is estimated before the history is read, so that none is loaded in vain. The
resident memory of the process would be no measure: it keeps what other work has left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MIB = 2**20


class OverBudgetError(Exception):
    """A champion does not fit into the memory budget. The message has no address and no path."""


class MemoryBudget:
    """The bytes that the loaded champions and histories may have together; one pipeline loads at a time."""

    def __init__(self, limit_mb: int) -> None:
        self._limit = limit_mb * MIB
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}

    def held(self, pipeline: str) -> int:
        """The bytes that a pipeline holds."""
        return self._held.get(pipeline, 0)

    @contextmanager
    def loading(self, pipeline: str) -> Iterator[Callable[[int], None]]:
        """While a pipeline loads: a function to call with the bytes that it will hold instead of those of before.

        That function raises :class:`OverBudgetError` when they do not fit beside those of the other pipelines. When the
        block raises, the pipeline holds what it held before.

        >>> budget = MemoryBudget(100)
        >>> with budget.loading("claims") as admit:
        ...     admit(80 * MIB)
        >>> with budget.loading("flights") as admit:
        ...     admit(30 * MIB)
        Traceback (most recent call last):
            ...
        apex_ml.serving.memory.OverBudgetError: memory: the champion and its history need about 30 MiB, the other \
pipelines hold 80 MiB, and APEX_SERVING_MEMORY_MB is 100; raise it, or serve fewer pipelines in one process: apex -p \
NAME serve
        >>> budget.held("flights")
        0
        """
        with self._lock:
            before = self.held(pipeline)
            others = sum(self._held.values()) - before

            def admit(needed: int) -> None:
                if others + needed > self._limit:
                    raise OverBudgetError(
                        f"memory: the champion and its history need about {_mib(needed)} MiB, the other pipelines hold"
                        f" {_mib(others)} MiB, and APEX_SERVING_MEMORY_MB is {self._limit // MIB}; raise it, or serve"
                        " fewer pipelines in one process: apex -p NAME serve"
                    )
                self._held[pipeline] = needed

            try:
                yield admit
            except BaseException:
                self._held[pipeline] = before
                raise


def _mib(size: int) -> int:
    return -(-size // MIB)
