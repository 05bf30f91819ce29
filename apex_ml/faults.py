"""Fault points: places where a test may kill the process to prove that the next run heals.

Nothing happens unless APEX_FAULT names the point; the settings read it, as they read all of the environment.
"""

from __future__ import annotations

import os
import signal

_armed: str | None = None


def arm(point: str | None) -> None:
    """Choose the point at which this process is to die; None chooses none."""
    global _armed
    _armed = point


def reach(point: str) -> None:
    """Die here, as by kill -9, when the point is armed."""
    if _armed == point:
        os.kill(os.getpid(), signal.SIGKILL)
