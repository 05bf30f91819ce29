"""Health check of a container: `healthy.py [--restart] URL [NAME]`; what the answer says of NAME must be healthy.

With `redis://host:port` as URL it is that of a Celery worker: Redis must know a client of this container that waits for
tasks or commands. Celery's own way to ask a worker takes seconds of a processor.

An engine does not restart what is alive and does not answer. With --restart this ends such a container, after it was
well once and then not for three minutes, and its restart policy brings it back: the watchdog of the platform on one
machine does the same. What the answer says of NAME, a part that may be another container, is no reason for that, nor is
a Redis that is away.

Only the standard library, so that a check costs a few hundredths of a second.
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

FAILURES = Path("/tmp/healthy.failures")  # in memory: gone with the container's every start
SETTINGS = Path("/run/secrets/apex/env")
MOST_BYTES = 1 << 20
PATIENCE = 18
"""Failed checks, ten seconds apart, after which the container is asked to end …"""
FORCE = 3
"""… and so many later it is made to."""


def ask(url: str) -> bytes:
    """The body of the answer. Raises OSError when there is none, or one that tells an error."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            body: bytes = answer.read(MOST_BYTES)
    except http.client.HTTPException as error:
        raise OSError(f"answers something else than HTTP: {str(error)[:60]!r}") from error
    return body


class NoConsumerError(OSError):
    """Redis is there, and nobody of this container waits for what it has."""


def consumer_of(url: str) -> bytes:
    """What Redis says of this container's clients. Raises NoConsumerError when none waits, OSError without Redis."""
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
    """Count a failed check in a row; end the container when there are too many."""
    with contextlib.suppress(FileNotFoundError):  # it was never well: it is starting
        failures = int(FAILURES.read_text()) + 1
        FAILURES.write_text(str(failures))
        if failures == PATIENCE:
            os.kill(1, signal.SIGTERM)
        if failures >= PATIENCE + FORCE:
            os.kill(-1, signal.SIGKILL)  # all but the init, which ends when its child has


def status_of(body: bytes, name: str) -> str:
    """What an answer of Airflow says of one of its parts; that it is not Airflow's, when it says nothing."""
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
