"""Fault points: places where a test may kill or halt the process to prove that the next run heals.

Nothing happens unless APEX_FAULT names the point; the settings read it, as they read all of the environment.
"""

from __future__ import annotations

import os
import signal

HALT = ":halt"
"""Ending of the name of a point at which the process is to stand still, so that a test may take a service away."""
_armed: str | None = None
_signal = signal.SIGKILL


def arm(point: str | None) -> None:
    """Choose the point at which this process is to die, or to halt once until SIGCONT; None chooses none."""
    global _armed, _signal
    _armed = point.removesuffix(HALT) if point else None
    _signal = signal.SIGSTOP if point and point.endswith(HALT) else signal.SIGKILL


def reach(point: str) -> None:
    """Die here, as by kill -9, or halt, when the point is armed."""
    global _armed
    if _armed == point:
        _armed = None
        os.kill(os.getpid(), _signal)
