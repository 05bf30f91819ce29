"""Health check of a container: `healthy.py [--restart] URL [NAME]`; what the answer says of NAME must be healthy.

An engine does not restart what is alive and does not answer. With --restart this ends such a container, after it was
well once and then not for three minutes, and its restart policy brings it back: the watchdog of the platform on one
machine does the same. What the answer says of NAME, a part that may be another container, is no reason for that.

Only the standard library, so that a check costs a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import urllib.request
from pathlib import Path

FAILURES = Path("/tmp/healthy.failures")  # in memory: gone with the container's every start
PATIENCE = 18
"""Failed checks, ten seconds apart, after which the container is asked to end …"""
FORCE = 3
"""… and so many later it is made to."""


def ask(url: str) -> bytes:
    """The body of the answer. Raises OSError when there is none, or one that tells an error."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
        body: bytes = answer.read()
    return body


def count_failure() -> None:
    """Count a failed check in a row; end the container when there are too many."""
    with contextlib.suppress(FileNotFoundError):  # it was never well: it is starting
        failures = int(FAILURES.read_text()) + 1
        FAILURES.write_text(str(failures))
        if failures == PATIENCE:
            os.kill(1, signal.SIGTERM)
        if failures >= PATIENCE + FORCE:
            os.kill(-1, signal.SIGKILL)  # all but the init, which ends when its child has


def main(arguments: list[str]) -> None:
    """Exit with 0 when it is healthy."""
    restart = arguments[:1] == ["--restart"]
    url, *name = arguments[restart:]
    try:
        body = ask(url)
    except OSError as error:
        if restart:
            count_failure()
        sys.exit(f"{url}: {error}")
    if restart:
        FAILURES.write_text("0")
    if name and (status := json.loads(body)[name[0]]["status"]) != "healthy":
        sys.exit(f"{name[0]} is {status}")


if __name__ == "__main__":
    main(sys.argv[1:])
