"""Run a command and write its wall and CPU seconds and its peak memory: ``python -I -S rusage.py REPORT COMMAND…``."""

from __future__ import annotations

import json
import os
import sys
import time


def main(report: str, command: list[str]) -> int:
    """Return the command's exit code; a signal becomes 128 and its number."""
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.execvp(command[0], command)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - began
    kib = usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    with open(report, "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_kib": kib}, file)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
