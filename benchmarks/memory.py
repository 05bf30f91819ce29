"""Peak memory of a whole platform, sampled while something runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from apex_ml.platform.embedded.processes import family
from apex_ml.settings import Settings

PERIOD_SECONDS = 1.0


@dataclass
class Peak:
    """The largest observed sum, in MiB, and its number of processes; `samples` is the number of observations."""

    mib: float = 0.0
    processes: int = 0
    samples: int = 0


@contextlib.contextmanager
def sampled_peak(settings: Settings, root: int) -> Iterator[Peak]:
    """Sample the processes of a home's platform and the descendants of `root` until the block ends.

    Pages that processes share count once (PSS), if the system reports it.
    """
    peak = Peak()
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(PERIOD_SECONDS):
            result = {process.pid: process for process in family(settings)}
            with contextlib.suppress(psutil.Error):
                tree = psutil.Process(root)
                result |= {process.pid: process for process in [tree, *tree.children(recursive=True)]}
            mib = sum(map(_bytes, result.values())) / 2**20
            peak.samples += 1
            if mib > peak.mib:
                peak.mib, peak.processes = mib, len(result)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _bytes(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(full, "pss", full.rss))
