"""The health check of a container; what it does to the container is seen by its calls."""

from __future__ import annotations

import importlib.util
import signal
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


def test_what_was_well_and_is_not_is_ended_and_then_made_to_end(healthy: Any) -> None:
    answer(healthy, b"ok")
    healthy.main(["--restart", "http://here"])
    answer(healthy, None)
    for _ in range(17):
        fails(healthy, "--restart", "http://here")
    assert healthy.killed == []
    for _ in range(4):
        fails(healthy, "--restart", "http://here")
    assert healthy.killed == [(1, signal.SIGTERM), (-1, signal.SIGKILL)]


def test_what_starts_slowly_or_comes_back_is_left_alone(healthy: Any) -> None:
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


def test_a_part_that_is_not_well_is_told_and_no_reason_to_end(healthy: Any) -> None:
    answer(healthy, b'{"scheduler": {"status": "unhealthy"}, "metadatabase": {"status": "healthy"}}')
    healthy.main(["--restart", "http://here", "metadatabase"])
    for _ in range(30):
        fails(healthy, "--restart", "http://here", "scheduler")
    assert healthy.killed == []
