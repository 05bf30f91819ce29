"""Become a command that dies with its parent: ``python -I -S parent_death.py PARENT_PID COMMAND ARG…``.

An Airflow task that is killed with SIGKILL cannot stop its step any more, so the kernel does it. This works on Linux
only; elsewhere the command just runs.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, argv: list[str]) -> None:
    """Ask for SIGKILL at the parent's death, then turn into the command."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request
            os._exit(128 + signal.SIGKILL)
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
