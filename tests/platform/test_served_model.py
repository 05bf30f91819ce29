"""`apex status` and `apex retrain` report an online service that does not answer with the champion."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.platform.served_model import former_model
from apex_ml.settings import Settings

STRANGER = {"detail": "Not Found"}
CANNOT = "version 4 cannot score by the contract that this service has read: after a change of the file run apex up"


@contextmanager
def answering(*answers: tuple[int, Any]) -> Iterator[int]:
    """The port of a server that gives these answers in turn, the last one again and again."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = left.pop(0) if len(left) > 1 else left[0]
            assert self.path == "/orders/ready"
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if content != STRANGER:
                self.send_header("X-Request-Id", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def state(version: int | None, *problems: str) -> dict[str, Any]:
    return {"ready": version is not None, "model_version": version, "problems": list(problems)}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(200, state(4))], None),
        ([(200, state(4, "postgres: does not answer"))], None),
        ([(200, state(3)), (200, state(4))], None),  # it was being loaded
        (
            [(200, state(3, f"{CANNOT}; continuing with version 3"))],
            f"still answers with version 3, and the champion is version 4 ({CANNOT}; continuing with version 3)",
        ),
        ([(503, state(None, CANNOT))], f"does not answer with a model, and the champion is version 4 ({CANNOT})"),
        ([(404, STRANGER)], None),
        ([(404, {"error": "http"})], "does not answer with a model, and the champion is version 4"),
        ([(200, state(3))], "still answers with version 3, and the champion is version 4"),
        ([(200, "another program")], None),
    ],
)
def test_the_service_answers_with_the_champion_or_the_remedy_is_named(
    tmp_path: Path, answers: list[tuple[int, Any]], expected: str | None
) -> None:
    with answering(*answers) as port:
        settings = Settings.load(home=tmp_path, serving_port=port)
        why = former_model(settings, load_pipeline_settings(settings), 4, patience=0.8)
    assert why == (None if expected is None else f"online service: {expected}; remedy: `apex up`")


def test_a_service_that_is_off_or_down_is_no_fault_of_a_model(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, serving_port=1)
    pipeline = load_pipeline_settings(settings)
    assert former_model(settings, pipeline, 4) is None
    assert former_model(settings.model_copy(update={"serving": False}), pipeline, 4) is None
