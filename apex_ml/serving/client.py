"""A small asynchronous HTTP client for JSON: one request at a time on a connection that is kept."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from apex_ml.errors import ConfigError

PROTOCOL = b"http/1."
LONGEST_HEAD = 65_536
"""Bytes of status and headers that an answer may have."""


class Connection(asyncio.Protocol):
    """One connection. What comes back is read by its Content-Length, which the service always sends."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect; an answer that is complete is handed over."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        head = bytes(self._buffer[:end] if end >= 0 else self._buffer[:LONGEST_HEAD]).lower()
        if not (head.startswith(PROTOCOL[: len(head)]) and (end >= 0 or len(self._buffer) < LONGEST_HEAD)):
            self._refuse(head)
            return
        if end < 0:
            return
        start = head.find(b"content-length:")
        length = head[start + 15 :].split(b"\r\n", 1)[0].strip() if start >= 0 else b"0"
        if not (head[9:12].isdigit() and length.isdigit()):
            self._refuse(head)
            return
        size = int(length)
        if len(self._buffer) < end + 4 + size:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + size])
        self._buffer.clear()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result((int(head[9:12]), body))

    def _refuse(self, head: bytes) -> None:
        """Tell who waits that this is no HTTP, and end the connection."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"it answers something else than HTTP: {head[:40]!r}"))
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the connection was closed"))

    @property
    def open(self) -> bool:
        """Whether it can still be used."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, timeout: float = 60) -> tuple[int, bytes]:
        """Send a whole request; returns status and body. Raises OSError when the connection ends before."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the connection was closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(timeout):
            return await self._answer

    def close(self) -> None:
        """End the connection at once: what was not sent yet may be for somebody who never reads."""
        if self._transport is not None:
            self._transport.abort()


class Target:
    """A service and the headers that every request to it has."""

    def __init__(self, url: str, key: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"--url {url}: give an address as http://127.0.0.1:8008")
        self.url, self.host, self.port = url.rstrip("/"), parts.hostname, parts.port or 80
        self.headers = {"x-api-key": key} if key else {}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The bytes of a request."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        head = f"{method} {path} HTTP/1.1\r\nhost: {host}:{self.port}\r\n{self._head}"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def connect(self) -> Connection:
        """A new connection. Raises OSError when nobody listens."""
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
        return connection
