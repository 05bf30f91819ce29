"""A platform in containers for all tests of this folder; without an engine they are skipped and say why."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from container_stack import OF_A_REGISTRY, STANDIN, Stack, why_not


@pytest.fixture(scope="session")
def images() -> None:
    """The stand-in images."""
    if reason := why_not():
        pytest.skip(f"Docker: {reason}")
    if OF_A_REGISTRY:
        return
    made = subprocess.run([str(STANDIN / "make.sh")], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="session")
def stack(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The platform, built and up, with a champion and one scored drop."""
    made = Stack(tmp_path_factory.mktemp("stack"))
    try:
        made.platform("images", seconds=1500)
        made.platform("up")
        made.apex("apex", "simulate", "--orders", "60000", "--clients", "8000", "--files", "3", "--seed", "5")
        made.ran = made.platform("run").stdout  # type: ignore[attr-defined]
        yield made
    finally:
        made.remove()
    assert made.left() == []
