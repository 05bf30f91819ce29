"""The guard before every route: host, size, rate, key, timeout; after it one line of log and the metrics."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from apex_ml.api_keys import is_loopback
from apex_ml.json_text import json_text
from apex_ml.serving.addresses import OTHER, Address, Addresses
from apex_ml.serving.keys import EVERYTHING, NOTHING, Access, KeyFile
from apex_ml.serving.metrics import ServingMetrics
from apex_ml.serving.problems import CLOSE, INTERNAL, Problem, refused
from apex_ml.serving.rate_limit import Buckets
from apex_ml.settings import Settings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

access = logging.getLogger("apex_ml.serving.access")
logger = logging.getLogger(__name__)
OPEN = frozenset(("/health", "/ready"))
"""For monitoring, without a key; they report the state of the service alone."""
DOCUMENTS = ("/docs", "/openapi.json")
"""Shown without a key, because a browser that opens a page cannot send one. They hold the names and levels of the
contract, the text of the service and an invented row, and nothing of a real row, an entity or a model."""
REQUEST_STATE = "apex"
"""Key of the scope under which a route leaves what the access log shows."""
ACCESS = "apex.access"
"""Key of the scope under which a route finds which pipelines the sender may use."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)


class _Exchange:
    """One request with its answer: counts the bytes that come in and notes the status that goes out."""

    def __init__(self, receive: Receive, send: Send, request_id: str, max_bytes: int) -> None:
        self._receive, self._send = receive, send
        self._request_id, self._max_bytes = request_id, max_bytes
        self.status, self.size = 0, 0
        self.arrived = False  # the whole body

    async def receive(self) -> Message:
        """The next message of the client. Raises Problem for a body that is too large."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            if self.size > self._max_bytes:
                raise _too_large(self._max_bytes)
            self.arrived = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a message, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *HEADERS, (b"x-request-id", self._request_id.encode())]
        await self._send(message)


class Guard:
    """ASGI: checks a request, passes it on, and logs it."""

    def __init__(
        self, app: App, settings: Settings, keys: KeyFile, metrics: ServingMetrics, addresses: Addresses
    ) -> None:
        self._app, self._settings, self._keys, self._metrics = app, settings, keys, metrics
        self._addresses = addresses
        self._buckets = Buckets(settings.serving_rate)
        self._max_bytes = settings.serving_body_kb * 1024
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
        state = scope[REQUEST_STATE] = {"request_id": request_id}
        exchange = _Exchange(receive, send, request_id, self._max_bytes)
        method, address = scope["method"], self._addresses.find(scope["path"])
        refusal = await self._pass_on(scope, address, headers, exchange)
        if refusal is not None and not exchange.status:
            await _answer(exchange.send, refusal, request_id)
        self._log(method, address, exchange, time.perf_counter() - begun, state)

    async def _pass_on(
        self, scope: Scope, address: Address, headers: dict[bytes, bytes], exchange: _Exchange
    ) -> Problem | None:
        """Check the request and let the application answer it; return the refusal when there is one."""
        seconds = self._settings.serving_timeout_seconds
        try:
            scope[ACCESS] = access = self._check(scope, address, headers)
            scope[REQUEST_STATE]["key"] = access.key_id
            async with asyncio.timeout(seconds):
                await self._app(scope, exchange.receive, exchange.send)
        except Problem as error:
            return error
        except TimeoutError:
            what = "the answer took" if exchange.arrived else "the request took"
            return Problem(503 if exchange.arrived else 408, "timeout", f"{what} longer than {seconds:g} s", CLOSE)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("request_failed request_id=%s", scope[REQUEST_STATE]["request_id"])
            return Problem(500, *INTERNAL)
        return None

    def _log(self, method: str, address: Address, exchange: _Exchange, seconds: float, state: dict[str, Any]) -> None:
        self._metrics.answered(address.pipeline, address.route, exchange.status, seconds)
        line = {
            "method": method if method.isalpha() else "?",
            "pipeline": address.pipeline or None,
            "route": address.route,
            "status": exchange.status,
            "ms": round(seconds * 1e3, 3),
            "bytes": exchange.size,
        }
        access.info(json_text({name: value for name, value in (line | state).items() if value is not None}))

    def _check(self, scope: Scope, address: Address, headers: dict[bytes, bytes]) -> Access:
        """Raise Problem, or return what the sender may use."""
        if self._hosts is not None and _without_port(headers.get(b"host", b"")) not in self._hosts:
            raise Problem(421, "misdirected", "the Host header names another machine; ask 127.0.0.1 or localhost")
        keys = self._keys.keys
        access = keys.access_of(_key_in(headers)) if keys else EVERYTHING
        client = (access.key_id if access else None) or (scope.get("client") or ("",))[0]
        is_open = address.path in OPEN
        if not is_open and (wait := self._buckets.wait(client, time.monotonic())):
            raise Problem(
                429,
                "too_many",
                f"more than APEX_SERVING_RATE={self._settings.serving_rate:g} requests a second",
                ((b"retry-after", str(math.ceil(wait)).encode()),),
            )
        document = address.path in DOCUMENTS or address.path.startswith("/docs/")
        if access is None:
            if not is_open and not (document and scope["method"] in ("GET", "HEAD")):
                raise Problem(
                    401,
                    "unauthorized",
                    "an API key is needed, in the header X-API-Key or as a bearer token",
                    ((b"www-authenticate", b"Bearer"),),
                )
            access = NOTHING
        elif access.pipelines is not None:
            _refuse_other_pipelines(access.pipelines, address, document)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self._max_bytes:
            raise _too_large(self._max_bytes)
        return access


def _key_in(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-api-key", b"").decode("latin-1")
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if not given and scheme.lower() == "bearer" else given


def _refuse_other_pipelines(allowed: frozenset[str], address: Address, is_document: bool) -> None:
    """Raise Problem for a route of another pipeline. A path that does not exist gets the same answer, so that the key
    does not reveal which pipelines there are."""
    is_of_process = not address.pipeline and (is_document or address.route != OTHER)
    if not is_of_process and address.pipeline not in allowed:
        routes = ", ".join(f"/{name}/…" for name in sorted(allowed))
        raise Problem(403, "forbidden", f"this API key is limited to {routes}; use one of them, or another key")


def _too_large(max_bytes: int) -> Problem:
    text = f"the body is larger than {max_bytes // 1024} KiB (APEX_SERVING_BODY_KB); send fewer rows"
    return Problem(413, "too_large", text, CLOSE)


def _hosts(settings: Settings) -> frozenset[bytes]:
    """The Host headers that a service on the loopback address accepts, so that a page of another name is refused."""
    address = settings.serving_address.lower()
    return frozenset((b"127.0.0.1", b"localhost", b"[::1]", (f"[{address}]" if ":" in address else address).encode()))


def _without_port(host: bytes) -> bytes:
    """The name without the port, which a tunnel may change."""
    name, colon, port = host.lower().rpartition(b":")
    return name if colon and port.isdigit() and not name.endswith(b":") else host.lower()


async def _answer(send: Send, refusal: Problem, request_id: str) -> None:
    body = refused(refusal.error, refusal.message, request_id)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
