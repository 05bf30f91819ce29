"""Run the service: one process, one event loop, and a socket that is bound before anything is loaded."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from apex_ml.contract.pipeline import Pipeline
from apex_ml.errors import ConfigError
from apex_ml.serving.app import create_app
from apex_ml.settings import Settings
from apex_ml.text import VisibleFormatter

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
GRACE_SECONDS = 5
HEAD_BYTES = 65_536
"""Maximum bytes of the headers of a request."""


def serve(settings: Settings, pipelines: Sequence[Pipeline], faults: Mapping[str, ConfigError]) -> None:
    """Serve the pipelines, and the faults of those that cannot be read, until SIGTERM or SIGINT.

    Running requests are answered first.
    Raises :class:`~apex_ml.errors.ConfigError` for a taken port, or settings that contradict each other.
    """
    log_to(sys.stdout)
    app = create_app(settings, pipelines, faults)
    bound = _bound(settings)
    config = uvicorn.Config(
        app,
        http=_protocol_with_timeout(settings.serving_timeout_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    logging.getLogger(__name__).info(
        "serving url=%s pipelines=%s", settings.serving_url, ",".join(p.name for p in pipelines)
    )
    with bound:
        uvicorn.Server(config).run(sockets=[bound])


def log_to(stream: Any) -> None:
    """One line per event. The access log is JSON and contains no value of a row."""
    handler = logging.StreamHandler(stream)
    formatter = VisibleFormatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    for name in ("apex_ml", "uvicorn"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO if name == "apex_ml" else logging.WARNING)
        logger.handlers = [handler]
        logger.propagate = False


def _bound(settings: Settings) -> socket.socket:
    host, port = settings.serving_address, settings.serving_port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"APEX_SERVING_PORT={port}, APEX_SERVING_HOST={host}: cannot be bound:"
            f" {error.strerror or error}; set another"
        ) from error
    return listener


def _protocol_with_timeout(seconds: float) -> type[HttpToolsProtocol]:
    """The HTTP protocol of uvicorn, with a timeout for the headers of a request.

    Without it, a few thousand clients that send one byte an hour would hold all connections.
    """

    class Patient(HttpToolsProtocol):
        _waits: asyncio.TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._waits = self.loop.call_later(seconds, self._give_up)

        def data_received(self, data: bytes) -> None:
            if self._waits is None and (self.cycle is None or self.cycle.response_complete):
                self._waits = self.loop.call_later(seconds, self._give_up)
            if self._waits is not None:
                self._head += len(data)
            super().data_received(data)
            if self._waits is not None and self._head > HEAD_BYTES:
                self._give_up()

        def on_headers_complete(self) -> None:
            self._forget()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _forget(self) -> None:
            if self._waits is not None:
                self._waits.cancel()
                self._waits, self._head = None, 0

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return Patient
