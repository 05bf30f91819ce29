"""One platform for the tests of a new platform and of a person in Airflow: to bring one up takes longest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from apex_ml.pipelines import load_pipeline
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.embedded import start, stop
from apex_ml.settings import Settings
from tests.support.apex_home import Apex
from tests.support.throwaway_home import open_folder, ports_of, throwaway

TOKEN = "a-token-for-the-metrics"


@pytest.fixture(scope="session")
def new_platform() -> Iterator[Settings]:
    """A platform that asks before it promotes, just brought up, without raw files."""
    with open_folder() as home:
        settings = throwaway(home)
        (home / ".env").write_text(f"APEX_APPROVAL=true\nAPEX_METRICS_TOKEN={TOKEN}\n")
        (home / ".env").chmod(0o600)
        try:
            yield start.up(settings.load(home=home, **ports_of(settings)))
        finally:
            stop.destroy(settings)


@pytest.fixture(scope="session")
def platform(new_platform: Settings, raw: Path) -> Iterator[tuple[AirflowApi, Apex]]:
    """The same with raw files."""
    shutil.copytree(raw, load_pipeline(new_platform).locations.raw, dirs_exist_ok=True)
    with AirflowApi(new_platform, patience=120) as api:
        yield api, Apex(new_platform)
