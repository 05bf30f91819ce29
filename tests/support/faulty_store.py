"""A server of S3 that fails: it passes requests on to another one, and spoils some of them by a seed."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import SplitResult, urlsplit

from tests.support.object_servers import ObjectServer

KINDS = ("503", "503 afterwards", "409", "412", "no answer", "no answer afterwards", "half an answer", "slow")
"""What goes wrong with a request. `afterwards`: it took effect, and nobody learns of it."""
SLOW_SECONDS = 0.3


class Faults:
    """Which requests fail. `rate` may be changed at any time; `counts` are the faults so far."""

    def __init__(self, seed: int, rate: float) -> None:
        self.rate = rate
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self, method: str) -> str | None:
        """The fault of a request, if any."""
        with self._lock:
            if self._chance.random() >= self.rate:
                return None
            kinds = [k for k in KINDS if k not in ("409", "412") or method in ("PUT", "POST")]
            fault = self._chance.choice([k for k in kinds if k != "half an answer" or method == "GET"])
            self.counts[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults
    upstream: SplitResult

    def handle_one_request(self) -> None:
        with suppress(ConnectionError, TimeoutError):
            super().handle_one_request()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.faults.draw(self.command)
        if fault in ("503", "409", "412"):
            return self._answer(int(fault), [], b"")
        if fault == "no answer":
            return self._hang_up()
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=30)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if fault == "503 afterwards":
            return self._answer(503, [], b"")
        if fault == "no answer afterwards":
            return self._hang_up()
        return self._answer(answer.status, answer.getheaders(), content, half=fault == "half an answer")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, half: bool = False) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value if self.command == "HEAD" else length
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def faulty(server: ObjectServer, faults: Faults) -> Iterator[ObjectServer]:
    """The same bucket by way of a server that fails."""
    handler = type("Handler", (_Handler,), {"faults": faults, "upstream": urlsplit(server.endpoint)})
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        yield replace(server, endpoint=f"http://127.0.0.1:{listener.server_port}")
    finally:
        listener.shutdown()
        listener.server_close()
