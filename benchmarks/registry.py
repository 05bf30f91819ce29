"""The registry of measurements and the rows they yield."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.scene import Scene


@dataclass(frozen=True)
class Beside:
    """What was measured beside a row in the same run: a floor that cannot be undercut, or a peer."""

    name: str
    value: float


@dataclass(frozen=True)
class Row:
    """One measured value. `target` is the most it may be; without one the row only informs."""

    name: str
    value: float
    unit: str
    target: float | None = None
    beside: Beside | None = None
    note: str = ""

    @property
    def ok(self) -> bool | None:
        """Whether the target is met; None without a target."""
        return None if self.target is None else bool(self.value <= self.target)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return {**asdict(self), "ok": self.ok}


Measure = Callable[[Scene], Iterator[Row]]
MEASUREMENTS: dict[str, Measure] = {}


def measurement(measure: Measure) -> Measure:
    """Register a generator of rows under its own name."""
    MEASUREMENTS[measure.__name__] = measure
    return measure
