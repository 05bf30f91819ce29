"""The time that a training may take, shared by its parts, and its progress as lines of text.

Where the time suffices, it changes nothing. Where it does not, the result depends on the speed of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from apex_ml.core.candidates.interface import Watch

PROGRESS_SECONDS = 10.0
"""Time between two lines about the progress of one fit."""
SELECTION_SHARE = 0.25
"""Share of the time that is left, which the noise test may take."""


@dataclass
class TrainingTime:
    """Time of a training, from its creation. `report` gets lines about the progress."""

    seconds: float = math.inf
    report: Callable[[str], None] = lambda text: None
    clock: Callable[[], float] = lambda: 0.0
    """Reads the seconds that a clock shows; without one no time passes."""
    was_short: bool = False
    """Whether a part ended before it was done."""
    _begun: float = field(init=False)

    def __post_init__(self) -> None:
        self._begun = self.clock()

    @property
    def left(self) -> float:
        """Seconds that are left; at least 0."""
        return max(0.0, self.seconds - (self.clock() - self._begun))

    def is_over(self, seconds: float, since: float) -> bool:
        """Whether these seconds have passed since a reading of the clock; then the training was short of time."""
        over = self.clock() - since >= seconds
        self.was_short |= over
        return over

    def watch(self, what: str, seconds: float) -> Watch:
        """Show the progress of a fit, and end it after these seconds."""
        begun = shown = self.clock()

        def after_round(number: int, loss: float) -> bool:
            nonlocal shown
            now = self.clock()
            if now - shown >= PROGRESS_SECONDS:
                shown = now
                self.report(f"{what} round={number + 1} validation_log_loss={loss:.5f} seconds={now - begun:.0f}")
            return self.is_over(seconds, begun)

        return after_round
