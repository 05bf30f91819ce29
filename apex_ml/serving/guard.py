"""What stands before every route: host, size, rate, key, time; and after it: one line of log, figures, no traces."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from apex_ml.api_keys import is_loopback
from apex_ml.json_text import json_text
from apex_ml.serving.keys import KeyFile
from apex_ml.serving.metrics import ServingMetrics
from apex_ml.settings import Settings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

access = logging.getLogger("apex_ml.serving.access")
logger = logging.getLogger(__name__)
OPEN = frozenset(("/health", "/ready"))
"""Asked by whoever watches the service, without a key; they tell nothing but how it is."""
DOCUMENTS = ("/docs", "/openapi.json")
"""Shown without a key, as a browser that opens a page cannot send one: the contract's names and levels, the text of
the service, an order that is made up. Nothing of a client, an order or a model is in them."""
REQUEST_STATE = "apex"
"""Key of the scope under which a route leaves what the log tells of it."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
MOST_BUCKETS = 10_000
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)


INTERNAL = ("internal", "an error of the service; its log tells more under the request's id")
CLOSE = ((b"connection", b"close"),)
"""Of a request whose body is not read to its end: what is still to come is no next request."""


class Buckets:
    """A token bucket for each asker: `rate` a second, as many at once. The least recent ones are forgotten.

    >>> buckets = Buckets(rate=2)
    >>> [buckets.wait("a", now=0.0) for _ in range(3)]
    [0.0, 0.0, 0.5]
    >>> buckets.wait("b", now=0.0), buckets.wait("a", now=0.5)
    (0.0, 0.0)
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._most = rate, max(rate, 1.0)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, who: str, now: float) -> float:
        """Take a token; returns 0, or the seconds until there is one."""
        if not self._rate:
            return 0.0
        left, then = self._left.pop(who, (self._most, now))
        left = min(self._most, left + (now - then) * self._rate)
        taken = left >= 1
        self._left[who] = (left - 1 if taken else left, now)
        if len(self._left) > MOST_BUCKETS:
            self._left.popitem(last=False)
        return 0.0 if taken else (1 - left) / self._rate


class Problem(Exception):  # noqa: N818  an answer, not a fault
    """An answer that says no: status, a short name, what is wrong, and headers."""

    def __init__(self, status: int, error: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status, self.error, self.message, self.headers = status, error, message, headers


def refused(error: str, message: str, request_id: str, **more: Any) -> bytes:
    """The body of every answer that is no success."""
    return json_text({"error": error, "message": message, "request_id": request_id, **more}).encode()


class Guard:
    """ASGI: checks a request, lets it through, and tells of it."""

    def __init__(
        self, app: App, settings: Settings, keys: KeyFile, figures: ServingMetrics, routes: frozenset[str]
    ) -> None:
        self._app, self._settings, self._keys, self._figures = app, settings, keys, figures
        self._routes = routes
        self._buckets = Buckets(settings.serving_rate)
        self._most_bytes = settings.serving_body_kb * 1024
        self._hosts = _hosts(settings) if is_loopback(settings.serving_address) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        notes = scope[REQUEST_STATE] = {"request_id": request_id}
        status, arrived, size = 0, False, 0

        async def counted() -> Message:
            nonlocal arrived, size
            message = await receive()
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                if size > self._most_bytes:
                    raise self._too_large()
                arrived = not message.get("more_body", False)
            return message

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS, (b"x-request-id", request_id.encode())]
            await send(message)

        refusal: Problem | None = None
        try:
            notes["key"] = self._check(scope, headers)
            async with asyncio.timeout(self._settings.serving_timeout_seconds):
                await self._app(scope, counted, marked)
        except Problem as error:
            refusal = error
        except TimeoutError:
            what = "the answer took" if arrived else "the request took"
            seconds = self._settings.serving_timeout_seconds
            refusal = Problem(503 if arrived else 408, "timeout", f"{what} longer than {seconds:g} s", CLOSE)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("request_failed request_id=%s", request_id)
            refusal = Problem(500, *INTERNAL)
        if refusal is not None and not status:
            await _answer(marked, refusal, request_id)
        seconds = time.perf_counter() - begun
        path = scope["path"]
        route = path if path in self._routes else "other"  # a path may hold anything
        self._figures.answered(route, status, seconds)
        told = {"method": scope["method"] if scope["method"].isalpha() else "?", "route": route, "status": status}
        told |= {"ms": round(seconds * 1e3, 3), "bytes": size}
        access.info(json_text({**told, **{k: v for k, v in notes.items() if v is not None}}))

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> str | None:
        """Raise Problem, or return the id of the key."""
        if self._hosts is not None and _without_port(headers.get(b"host", b"")) not in self._hosts:
            raise Problem(421, "misdirected", "the Host header names another machine; ask 127.0.0.1 or localhost")
        path = scope["path"]
        key, keys = None, self._keys.keys
        if keys:
            given = headers.get(b"x-api-key", b"").decode("latin-1")
            scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
            if not given and scheme.lower() == "bearer":
                given = token.strip()
            key = keys.admitted(given) if given else None
        who = key or (scope.get("client") or ("",))[0]
        if path not in OPEN and (wait := self._buckets.wait(who, time.monotonic())):
            raise Problem(
                429,
                "too_many",
                f"more than APEX_SERVING_RATE={self._settings.serving_rate:g} requests a second",
                ((b"retry-after", str(math.ceil(wait)).encode()),),
            )
        document = path in DOCUMENTS or path.startswith("/docs/")
        if keys and key is None and path not in OPEN and not (document and scope["method"] in ("GET", "HEAD")):
            raise Problem(
                401,
                "unauthorized",
                "an API key is needed, in the header X-API-Key or as a bearer token",
                ((b"www-authenticate", b"Bearer"),),
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self._most_bytes:
            raise self._too_large()
        return key

    def _too_large(self) -> Problem:
        kb = self._settings.serving_body_kb
        text = f"the body is larger than {kb} KiB (APEX_SERVING_BODY_KB); send fewer orders"
        return Problem(413, "too_large", text, CLOSE)


def _hosts(settings: Settings) -> frozenset[bytes]:
    """What a Host header may say to a service that only this machine reaches; a page of another name is kept out."""
    address = settings.serving_address.lower()
    return frozenset((b"127.0.0.1", b"localhost", b"[::1]", (f"[{address}]" if ":" in address else address).encode()))


def _without_port(host: bytes) -> bytes:
    """The name alone: a tunnel may give the port another number."""
    name, colon, port = host.lower().rpartition(b":")
    return name if colon and port.isdigit() and not name.endswith(b":") else host.lower()


async def _answer(send: Send, refusal: Problem, request_id: str) -> None:
    body = refused(refusal.error, refusal.message, request_id)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
