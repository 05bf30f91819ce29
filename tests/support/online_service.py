"""The online service in a test: in this process, and as a separate process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.testclient import TestClient

from apex_ml.pipelines import pipelines_to_serve
from apex_ml.serving.app import create_app
from apex_ml.serving.guard import Guard
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.apex_home import COMMAND, Apex
from tests.support.throwaway_home import free_ports


@dataclass(frozen=True)
class Running:
    """A service in a separate process."""

    apex: Apex
    process: subprocess.Popen[bytes]
    log: Path
    url: str

    def ready(self, seconds: float = 60, **values: Any) -> dict[str, Any]:
        """Wait until /ready reports these values; returns its answer."""
        deadline = time.monotonic() + seconds
        state: dict[str, Any] = {}
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                state = httpx.get(f"{self.url}/ready", timeout=5, verify=False).json()
            except httpx.HTTPError:
                pass
            else:
                if all(state[name] == value for name, value in values.items()):
                    return state
            time.sleep(0.1)
        raise AssertionError(f"{state} does not have {values}: {self.log.read_text()[-3000:]}")

    def lines(self) -> list[dict[str, Any]]:
        """The access log."""
        content = [line.split(" INFO ", 1)[-1] for line in self.log.read_text().splitlines()]
        return [json.loads(line) for line in content if line.startswith('{"method"')]


@contextmanager
def running(apex: Apex, **changes: Any) -> Iterator[Running]:
    """`apex serve` on a free port, until the block ends."""
    (port,) = free_ports(1)
    apex = apex.but(serving_port=port, **changes)
    apex.settings.home.mkdir(parents=True, exist_ok=True)
    log = apex.settings.home / "serving.log"
    variables = {f"APEX_{name.upper()}": str(value) for name, value in {"serving_port": port, **changes}.items()}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, "serve"],
            env=apex.environment(**variables, OMP_NUM_THREADS="1"),
            cwd=CODE_ROOT,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield Running(apex, process, log, apex.settings.serving_url)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def app_of(settings: Settings) -> Guard:
    """The application that `apex serve` runs."""
    return create_app(settings, *pipelines_to_serve(settings))


@contextmanager
def served(apex: Apex, **changes: Any) -> Iterator[TestClient]:
    """The service in this process, with the champion loaded."""
    app = app_of(apex.but(**changes).settings)
    with TestClient(app, base_url="http://127.0.0.1:8008", client=("127.0.0.1", 50_000)) as client:
        deadline = time.monotonic() + 60
        while client.get("/ready").status_code != 200:
            assert time.monotonic() < deadline, client.get("/ready").text
            time.sleep(0.05)
        yield client
