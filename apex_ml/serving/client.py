"""A small asynchronous HTTP client for JSON: one request at a time on a kept-alive connection."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from apex_ml.errors import ConfigError

PROTOCOL = b"http/1."
LONGEST_HEAD = 65_536
"""Maximum bytes of the status and headers of an answer."""


class Connection(asyncio.Protocol):
    """One connection. It reads an answer by its Content-Length, which the service always sends."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect the bytes, and pass on a complete answer."""
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
        """Raise "not HTTP" in the waiting request, and close the connection."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"it answers something else than HTTP: {head[:40]!r}"))
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Raise the error in the waiting request."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the connection was closed"))

    @property
    def open(self) -> bool:
        """Whether the connection can still be used."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, timeout: float = 60) -> tuple[int, bytes]:
        """Send a complete request; returns status and body. Raises OSError when the connection ends too early."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the connection was closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(timeout):
            return await self._answer

    def close(self) -> None:
        """Close the connection immediately, because the other side may never read the unsent rest."""
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
        """Open a connection. Raises OSError when no server listens."""
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
        return connection
