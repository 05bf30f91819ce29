"""Messages of a queue that wake the look at an object store. Nothing is read from a message."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from apex_ml.contract.event_queue import SCHEMES
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.settings import Settings
from apex_ml.text import shortened_line

if TYPE_CHECKING:
    from airflow.sdk.types import Logger
    from airflow.triggers.base import BaseEventTrigger

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 120.0
"""Seconds between two attempts at a queue that fails."""
STABLE_SECONDS = 90.0
"""An attempt that lasts this long has reached the queue: requests to SQS give up earlier."""
SQS_OPTIONS = {"connect_timeout": 10, "read_timeout": 40, "retries": {"max_attempts": 0}}
LONG_POLL_SECONDS = 20
"""How long SQS holds a request until there is a message."""


@asynccontextmanager
async def nudges(queue: str, log: Logger) -> AsyncIterator[asyncio.Event]:
    """An event that is set at every message of a queue, while the block runs. Without a queue it is never set.

    A queue that cannot be read is logged once, and tried again after longer and longer pauses, up to two minutes.
    """
    nudge = asyncio.Event()
    if not queue:
        yield nudge
        return
    listener = asyncio.create_task(_listen(queue, nudge, log))
    try:
        yield nudge
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener


async def _listen(queue: str, nudge: asyncio.Event, log: Logger) -> None:
    pause = FIRST_PAUSE
    loop = asyncio.get_running_loop()
    while True:
        began = time.monotonic()
        try:
            await _receive(queue, nudge, lambda: loop.call_soon_threadsafe(nudge.set))
        # a provider raises errors of its own library, and none of them may stop the looks at the store
        except Exception as error:
            if time.monotonic() - began > STABLE_SECONDS:
                pause = FIRST_PAUSE
            if pause == FIRST_PAUSE:
                log.warning("scoring.events %s cannot be read, the inbox is polled meanwhile: %s", queue, _text(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            if pause != FIRST_PAUSE:
                log.info("scoring.events %s can be read again", queue)
            pause = FIRST_PAUSE


async def _receive(queue: str, nudge: asyncio.Event, wake: Callable[[], object]) -> None:
    """Wait for messages until the provider's trigger ends, which it may do after the first ones."""
    trigger = await asyncio.to_thread(open_queue, queue, wake)
    try:
        async for _ in trigger.run():
            nudge.set()
    finally:
        await trigger.cleanup()


def open_queue(queue: str, wake: Callable[[], object]) -> BaseEventTrigger:
    """The trigger of Airflow's provider for a queue. `wake` is called for messages of which it yields no event.

    Raises :class:`~apex_ml.errors.ConfigError` when the provider is not installed.
    """
    parts = urlsplit(queue)
    scheme = SCHEMES[parts.scheme]
    arguments = ARGUMENTS[scheme](queue, Settings.load().env_file, wake)
    try:
        from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger

        trigger: BaseEventTrigger = MessageQueueTrigger(scheme=scheme, **arguments).trigger
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"the provider of Airflow for queues of {scheme} is not installed ({error}): pip install"
            f" {PACKAGES[scheme]}, and start the triggerer again"
        ) from error
    return trigger


def _sqs(queue: str, env_file: Path, _wake: Callable[[], object]) -> dict[str, Any]:
    return {
        "sqs_queue": queue,
        "aws_conn_id": _set_sqs_connection(queue, env_file),
        "max_messages": 10,
        "wait_time_seconds": LONG_POLL_SECONDS,
        "waiter_delay": 0,
        "botocore_config": SQS_OPTIONS,
    }


def _set_sqs_connection(queue: str, env_file: Path) -> str:
    """Enter a connection for the queue's server into this process, with the login of ``.env``. Return its name.

    Requests then go to the server of the queue, also where AWS_ENDPOINT_URL names another one for S3.
    """
    from apex_ml.adapters.storage.stores import CONNECTION, login_variables

    login = login_variables("s3://", env_file)
    parts = urlsplit(queue)
    named = re.search(r"(?:^|\.)sqs\.([a-z0-9-]+)\.", parts.netloc)
    regions = (os.environ.get(name) or login.get(name.lower()) for name in ("AWS_REGION", "AWS_DEFAULT_REGION"))
    extra = {
        "endpoint_url": f"{parts.scheme}://{parts.netloc}",
        "region_name": named[1] if named else next(filter(None, regions), "us-east-1"),
        "aws_session_token": login.get("aws_session_token"),
    }
    connection = {
        "conn_type": "aws",
        "login": login.get("aws_access_key_id"),
        "password": login.get("aws_secret_access_key"),
        "extra": {key: value for key, value in extra.items() if value},
    }
    name = f"apex_events_{hashlib.sha256(queue.encode()).hexdigest()[:12]}"
    os.environ[f"{CONNECTION}{name.upper()}"] = json_text(connection)
    return name


def _kafka(queue: str, env_file: Path, wake: Callable[[], object]) -> dict[str, Any]:
    parts = urlsplit(queue)
    _set_connection(parts.netloc, env_file)
    return {
        "topics": parts.path[1:].split(","),
        "kafka_config_id": parts.netloc,
        # the consumer stays open, and a message that is no text is one like the others
        "apply_function": f"{__name__}.ignore_message",
        "apply_function_args": (wake,),
        "poll_interval": 0,
    }


def ignore_message(wake: Callable[[], object], _message: object) -> None:
    """Wake the look at the store for a message of Kafka, without a look at the message."""
    wake()


def _pubsub(queue: str, env_file: Path, _wake: Callable[[], object]) -> dict[str, Any]:
    parts = urlsplit(queue)
    connection = "google_cloud_default"
    _set_connection(connection, env_file)
    return {
        "project_id": parts.netloc,
        "subscription": parts.path[1:],
        "max_messages": 100,
        "ack_messages": True,
        "gcp_conn_id": connection,
        "poke_interval": 1.0,
        "return_immediately": False,
    }


def _set_connection(connection: str, env_file: Path) -> None:
    """Enter a connection of ``.env`` into this process, as Airflow reads it. The environment wins."""
    from apex_ml.adapters.storage.stores import CONNECTION, connections_in

    variable = f"{CONNECTION}{connection.upper()}"
    if variable not in os.environ and (value := connections_in(env_file).get(variable)):
        os.environ[variable] = value


def _text(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return shortened_line(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, 300)


ARGUMENTS = {"sqs": _sqs, "kafka": _kafka, "google+pubsub": _pubsub}
"""Arguments of the provider's trigger, by the kind of queue."""
PACKAGES = {
    "sqs": "apex-ml[events]",
    "kafka": "apache-airflow-providers-common-messaging apache-airflow-providers-apache-kafka",
    "google+pubsub": "apache-airflow-providers-common-messaging apache-airflow-providers-google",
}
