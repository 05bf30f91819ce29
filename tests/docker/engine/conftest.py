"""A platform in containers for all tests of this folder; without an engine they are skipped and say why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from container_stack import Stack, running, why_not


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The platform, built and up, with a champion and one scored drop."""
    if reason := why_not():
        pytest.skip(f"Docker: {reason}")
    with running(tmp_path_factory.mktemp("stack")) as created:
        yield created
