"""Fixtures of the platform's tests: a home, and a running Postgres."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_ml.settings import Settings
from tests.support.throwaway_home import Database, running_postgres, throwaway


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty home; nothing is started."""
    return throwaway(tmp_path)


PLACES = ["open", pytest.param("closed", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root changes user"))]


@pytest.fixture(scope="module", params=PLACES)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A running Postgres, once in each kind of place."""
    with running_postgres(request.param) as instance:
        yield instance
