"""Health check of a container: `healthy.py [--restart] URL [NAME]`. The status of NAME in the answer must be healthy.

With `redis://host:port` as URL it checks a Celery worker: Redis must have a client of this container that waits for
tasks or commands. Celery's own check of a worker takes seconds of a processor.

An engine does not restart a live container that does not answer. With --restart this check ends a container that was
healthy before and has not answered for three minutes. Its restart policy then starts it again, as the watchdog does on
one machine. An unhealthy NAME, which can be another container, or a Redis that is down does not end the container.

It uses only the standard library, so that a check takes a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

FAILURES = Path("/tmp/healthy.failures")  # in memory: every start of the container removes it
SETTINGS = Path("/run/secrets/apex/env")
MAX_BYTES = 1 << 20
MAX_FAILURES = 18
"""Failed checks, ten seconds apart, after which the container gets SIGTERM."""
FORCE = 3
"""Further failed checks after which it gets SIGKILL."""


def ask(url: str) -> bytes:
    """The body of the answer. Raises OSError without an answer or for an error status."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            body: bytes = answer.read(MAX_BYTES)
    except http.client.HTTPException as error:
        raise OSError(f"answers something else than HTTP: {str(error)[:60]!r}") from error
    return body


class NoConsumerError(OSError):
    """Redis answers, but no worker of this container waits for tasks."""


def consumer_of(url: str) -> bytes:
    """Redis's list of this container's clients. Raises NoConsumerError when none waits, OSError without Redis."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname or "", place.port or 6379), timeout=5) as connection:
        connection.sendall(b"AUTH %b\r\nCLIENT LIST\r\nQUIT\r\n" % redis_password().encode())
        message = b"".join(iter(lambda: connection.recv(65536), b""))
        me = connection.getsockname()[0]
    if not message.startswith(b"+OK"):
        raise OSError(message.split(b"\r\n", 1)[0].decode())
    mine = [line for line in message.splitlines() if f" addr={me}:".encode() in line]
    if not any(re.search(rb" cmd=(brpop|p?subscribe)\b", line) for line in mine):
        raise NoConsumerError("no worker of this container waits for tasks")
    return b"\n".join(mine)


def redis_password() -> str:
    """The password in the settings of this container."""
    match = re.search(r"^APEX_REDIS_PASSWORD=(.*)$", SETTINGS.read_text(), re.MULTILINE)
    return match[1].strip("'") if match else ""


def count_failure() -> None:
    """Count consecutive failed checks; end the container when there are too many."""
    with contextlib.suppress(FileNotFoundError):  # it was never healthy, so it is starting
        failures = int(FAILURES.read_text()) + 1
        FAILURES.write_text(str(failures))
        if failures == MAX_FAILURES:
            os.kill(1, signal.SIGTERM)
        if failures >= MAX_FAILURES + FORCE:
            os.kill(-1, signal.SIGKILL)  # all but the init process, which ends after its child


def status_of(body: bytes, name: str) -> str:
    """Status of a component in Airflow's answer, or that the answer is not Airflow's."""
    try:
        return str(json.loads(body)[name]["status"])
    except (ValueError, KeyError, TypeError):
        return f"unknown: the answer is not Airflow's, it begins with {body[:40]!r}"


def main(arguments: list[str]) -> None:
    """Exit with 0 when it is healthy."""
    restart = arguments[:1] == ["--restart"]
    url, *name = arguments[restart:]
    of_a_worker = url.startswith("redis:")
    try:
        body = consumer_of(url) if of_a_worker else ask(url)
    except OSError as error:
        if restart and (isinstance(error, NoConsumerError) or not of_a_worker):
            count_failure()
        sys.exit(f"{url}: {error}")
    if restart:
        FAILURES.write_text("0")
    if name and (status := status_of(body, name[0])) != "healthy":
        sys.exit(f"{name[0]} is {status}")


if __name__ == "__main__":
    main(sys.argv[1:])
