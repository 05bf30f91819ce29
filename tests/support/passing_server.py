"""A server that passes requests on to another one; subclasses change requests or answers."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import SplitResult, urlsplit

from tests.support.object_servers import ObjectServer


@dataclass(frozen=True)
class Answer:
    """What the other server answered."""

    status: int
    headers: list[tuple[str, str]]
    content: bytes


class PassingHandler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    upstream: SplitResult

    def respond(self, body: bytes) -> None:
        """Answer a request, of which the body has been read."""
        self.answer(self.ask(self.command, self.path, body, dict(self.headers.items())))

    def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a request to the other server."""
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def answer(self, answer: Answer, *, half: bool = False) -> None:
        """Send an answer to the client, or with `half` only its beginning."""
        self.send_response_only(answer.status)
        length = str(len(answer.content))
        for name, value in answer.headers:
            if name.lower() == "content-length":
                length = value if self.command == "HEAD" else length
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(answer.content[: len(answer.content) // 2] if half else answer.content)
        if half:
            self.hang_up()

    def hang_up(self) -> None:
        """End the connection without an answer."""
        self.wfile.flush()
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def handle_one_request(self) -> None:
        with suppress(ConnectionError, TimeoutError):
            super().handle_one_request()

    def do_GET(self) -> None:
        self.respond(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

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


@contextmanager
def passing(handler: type[PassingHandler], server: ObjectServer) -> Iterator[ObjectServer]:
    """The same bucket by way of a server with this handler."""
    bound = type("Handler", (handler,), {"upstream": urlsplit(server.endpoint)})
    listener = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        yield replace(server, endpoint=f"http://127.0.0.1:{listener.server_port}")
    finally:
        listener.shutdown()
        listener.server_close()
