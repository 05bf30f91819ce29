"""The memory budget of the service: a champion that does not fit is not loaded, and the others go on.

What a model needs is known only when it is loaded, so it is loaded, measured and given up again when the process has
become too large. For that moment the process exceeds the budget.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable

import psutil
import pyarrow as pa

from apex_ml.serving.predictor import Predictor

MIB = 2**20


class OverBudgetError(Exception):
    """A champion does not fit into the memory budget. The message has no address and no path."""


class MemoryBudget:
    """At most so many MiB of resident memory of this process after a champion was loaded; one is loaded at a time."""

    def __init__(self, limit_mb: int) -> None:
        self._limit = limit_mb * MIB
        self._lock = threading.Lock()
        self._refused: dict[str, tuple[object, int]] = {}
        """By pipeline: what did not fit, and the bytes by which the process grew."""

    def load(
        self, pipeline: str, what: object, make: Callable[[], Predictor], replaced: Predictor | None = None
    ) -> Predictor:
        """Make a predictor. `what` identifies it, so that one that did not fit is not made again in vain.

        Raises :class:`OverBudgetError` when the process would be too large even without the one that it replaces.
        """
        with self._lock:
            before = resident_bytes()
            known, needed = self._refused.get(pipeline, (None, 0))
            if known != what:
                needed = 0
            if before + needed - _freed(replaced, None) > self._limit:
                raise self._error(before, needed)
            predictor = make()
            release_unused()
            after = resident_bytes()
            if after - _freed(replaced, predictor) > self._limit:
                needed = max(0, after - before)
                self._refused[pipeline] = (what, needed)
                del predictor
                gc.collect()
                release_unused()
                raise self._error(before, needed)
            self._refused.pop(pipeline, None)
            return predictor

    def _error(self, before: int, needed: int) -> OverBudgetError:
        needs = f"the champion needs about {needed // MIB} MiB, " if needed else ""
        return OverBudgetError(
            f"memory: {needs}the service uses {before // MIB} MiB already, and APEX_SERVING_MEMORY_MB is"
            f" {self._limit // MIB}; raise it, or serve fewer pipelines in one process: apex -p NAME serve"
        )


def _freed(replaced: Predictor | None, by: Predictor | None) -> int:
    """Bytes that are free once a predictor is replaced; at least, as only its history is counted."""
    if replaced is None or (by is not None and by.history is replaced.history):
        return 0
    return replaced.history.bytes


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def release_unused() -> None:
    """Return freed memory to the system, which then no longer counts it as resident."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
