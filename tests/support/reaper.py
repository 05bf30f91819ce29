"""Cleans up after a test run however it ended: ``python reaper.py FOLDER``, with the run's end of a pipe as stdin.

Ctrl-C, or a kill, ends pytest's workers before their fixtures do. When the pipe closes the run is over; what then still
runs out of the folder is ended, and the folder goes away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

TIMEOUT_SECONDS = 8.0
"""Seconds that workers have to end by themselves."""


def of(folder: Path) -> list[psutil.Process]:
    """Processes with the folder in their command, their working folder, or their environment."""
    results = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            name = any(str(folder) in part for part in process.cmdline())
            if process.pid != os.getpid() and (name or str(folder) in process.cwd()):
                results.append(process)
    return results


def homes(folder: Path) -> list[Path]:
    """Homes of throwaway platforms below the folder."""
    return [path.parent for path in folder.rglob(".apex") if path.is_dir()]


def reap(folder: Path) -> None:
    """End the remaining processes and remove the folder."""
    from apex_ml.platform.embedded import stop
    from apex_ml.settings import Settings

    deadline = time.monotonic() + TIMEOUT_SECONDS
    while of(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    for home in homes(folder):
        with contextlib.suppress(Exception):  # half-made homes are the rule here; the rest is done by force
            stop.destroy(Settings.load(home=home))
    for _ in range(20):
        left = of(folder)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not left:
            break
        psutil.wait_procs(left, timeout=0.5)
    shutil.rmtree(folder, ignore_errors=True)


def main(folder: str) -> None:
    """Wait for the end of the run, then reap."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    reap(Path(folder))


if __name__ == "__main__":
    main(sys.argv[1])
