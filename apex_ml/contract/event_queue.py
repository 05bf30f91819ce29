"""The queue whose messages say that an object store has new drops, as the URL in a pipeline's file."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

EXAMPLES = (
    "https://sqs.eu-west-1.amazonaws.com/123456789012/drops, kafka://kafka_default/drops or"
    " google+pubsub://project/subscription"
)
SCHEMES = {"http": "sqs", "https": "sqs", "kafka": "kafka", "google+pubsub": "google+pubsub"}
"""Kinds of queues of Airflow's provider common.messaging, by the scheme of the URL."""
PATHS = {"sqs": r"/[^/]+/[^/]+", "kafka": r"/[^/]+", "google+pubsub": r"/[^/]+"}


def check_event_queue(url: str) -> str:
    """The URL of a queue, or an empty text for none. Raises ValueError for another text, and for a login in it.

    >>> check_event_queue("kafka://kafka_default/drops")
    'kafka://kafka_default/drops'
    """
    if not url:
        return url
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise ValueError(f"{url!r} is no queue; write one such as {EXAMPLES}") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("a queue without a login or options: the login belongs in .env (AWS_ACCESS_KEY_ID, …)")
    scheme = SCHEMES.get(parts.scheme)
    if scheme is None or not host or not re.fullmatch(PATHS[scheme], parts.path):
        raise ValueError(f"{url!r} is no queue; write one such as {EXAMPLES}")
    return url


EventQueue = Annotated[str, AfterValidator(check_event_queue)]
