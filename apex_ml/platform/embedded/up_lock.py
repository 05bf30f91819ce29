"""The lock that lets one `apex up` or `apex down` of a home run at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from apex_ml.platform.embedded.progress import Phases
from apex_ml.settings import Settings


@contextlib.contextmanager
def hold_up_lock(settings: Settings, phases: Phases | None) -> Iterator[None]:
    """Hold the lock; wait while another `up` or `down` holds it."""
    settings.state.mkdir(parents=True, exist_ok=True)
    handle = os.open(settings.state / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if phases:
                phases.say("Another `apex up` or `apex down` is running: waiting for it.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
