"""The health check of a container; what it does to the container is seen by its calls."""

from __future__ import annotations

import importlib.util
import signal
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apex_ml.settings import CODE_ROOT


@pytest.fixture
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("healthy", CODE_ROOT / "deployment" / "docker" / "healthy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FAILURES", tmp_path / "failures")
    module.killed = []
    monkeypatch.setattr(module.os, "kill", lambda pid, number: module.killed.append((pid, number)))
    return module


def answer(module: Any, body: bytes | None) -> None:
    def ask(url: str) -> bytes:
        if body is None:
            raise OSError("refused")
        return body

    module.ask = ask


def fails(module: Any, *arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(list(arguments))
    assert ended.value.code


def test_an_unhealthy_container_gets_sigterm_and_then_sigkill(healthy: Any) -> None:
    answer(healthy, b"ok")
    healthy.main(["--restart", "http://here"])
    answer(healthy, None)
    for _ in range(17):
        fails(healthy, "--restart", "http://here")
    assert healthy.killed == []
    for _ in range(4):
        fails(healthy, "--restart", "http://here")
    assert healthy.killed == [(1, signal.SIGTERM), (-1, signal.SIGKILL)]


@pytest.mark.parametrize("message", [b"\x00\xff nonsense\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_another_protocol_on_the_port_is_unhealthy(healthy: Any, message: bytes) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(message)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            with pytest.raises(SystemExit, match="answers something else than HTTP"):
                healthy.main([f"http://127.0.0.1:{server.server_address[1]}/health"])
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"scheduler": null}'])
def test_an_answer_of_another_program_is_unhealthy(healthy: Any, body: bytes) -> None:
    answer(healthy, body)
    with pytest.raises(SystemExit, match="scheduler is unknown: the answer is not Airflow's"):
        healthy.main(["http://here", "scheduler"])


def test_a_starting_or_recovered_container_is_not_ended(healthy: Any) -> None:
    answer(healthy, None)
    for _ in range(40):
        fails(healthy, "--restart", "http://here")
    for _ in range(3):
        answer(healthy, b"ok")
        healthy.main(["--restart", "http://here"])
        answer(healthy, None)
        for _ in range(17):
            fails(healthy, "--restart", "http://here")
    assert healthy.killed == []


@pytest.fixture
def redis(healthy: Any, tmp_path: Path) -> Iterator[Any]:
    """A server that answers like Redis, with the text `client_list`; it refuses any password except `right`."""
    settings = tmp_path / "env"
    settings.write_text("APEX_PG_HOST=postgres\nAPEX_REDIS_PASSWORD=right\n")
    healthy.SETTINGS = settings

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if self.rfile.readline() != b"AUTH right\r\n":
                self.wfile.write(b"-WRONGPASS invalid username-password pair\r\n")
                return
            message = server.client_list.encode()  # type: ignore[attr-defined]
            self.wfile.write(b"+OK\r\n$%d\r\n%b\r\n+OK\r\n" % (len(message), message))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.url = f"redis://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_worker_is_healthy_while_it_waits_for_tasks(healthy: Any, redis: Any) -> None:
    for command in ("brpop", "subscribe", "psubscribe"):
        redis.client_list = f"id=1 addr=10.0.0.9:1 cmd=get\nid=2 addr=127.0.0.1:50 name= cmd={command} user=default\n"
        healthy.main(["--restart", redis.url])
    redis.client_list = "id=1 addr=10.0.0.9:1 cmd=brpop\nid=2 addr=127.0.0.1:50 name= cmd=client|list user=default\n"
    for _ in range(21):
        fails(healthy, "--restart", redis.url)
    assert healthy.killed == [(1, signal.SIGTERM), (-1, signal.SIGKILL)]


def test_an_unavailable_redis_does_not_end_a_worker(healthy: Any, redis: Any) -> None:
    redis.client_list = "id=2 addr=127.0.0.1:50 cmd=brpop\n"
    healthy.main(["--restart", redis.url])
    healthy.SETTINGS.write_text("APEX_REDIS_PASSWORD=wrong\n")
    with pytest.raises(SystemExit, match="WRONGPASS"):
        healthy.main(["--restart", redis.url])
    for _ in range(30):
        fails(healthy, "--restart", "redis://127.0.0.1:1")
    assert healthy.killed == []


def test_an_unhealthy_component_is_reported_and_does_not_end_the_container(healthy: Any) -> None:
    answer(healthy, b'{"scheduler": {"status": "unhealthy"}, "metadatabase": {"status": "healthy"}}')
    healthy.main(["--restart", "http://here", "metadatabase"])
    for _ in range(30):
        fails(healthy, "--restart", "http://here", "scheduler")
    assert healthy.killed == []
