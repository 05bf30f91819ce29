"""A whole throwaway platform, driven by the `apex` command as a person drives it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg2

from apex_ml.pipelines import load_pipeline
from apex_ml.platform.embedded import stop
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.simulate.drop import make_drop
from tests.support.apex_home import COMMAND
from tests.support.throwaway_home import open_folder, ports_of, throwaway

NEVER = "0 0 29 2 *"
"""A cron that is not due while a test runs."""


class WholePlatform:
    """A platform in a separate folder, and the command that drives it.

    Airflow never sweeps the inbox here: every run of orders_score follows an event, so that a lost event fails the
    test.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        kept = {name: value for name, value in os.environ.items() if not name.startswith("APEX_")}
        ports = {f"APEX_{name.upper()}": str(port) for name, port in ports_of(settings).items()}
        self.env = kept | ports | {"APEX_HOME": str(settings.home), "COLUMNS": "160"}
        self.env |= {"APEX_PIPELINE": "orders", "APEX_ORDERS__SCHEDULE__SWEEP": NEVER}

    def apex(self, *arguments: str, seconds: int = 280) -> subprocess.CompletedProcess[str]:
        """Run `apex ARGUMENTS` to its end."""
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.env,
            cwd=CODE_ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    @property
    def whole(self) -> Settings:
        """The settings with the passwords of the home's own .env."""
        return Settings.load(home=self.settings.home, **ports_of(self.settings))

    def page(self) -> str:
        """The Apex page, as the viewer gets it."""
        settings = Settings.load(home=self.settings.home)
        with httpx.Client(base_url=self.settings.airflow, trust_env=False, timeout=30) as client:
            user = {"username": "viewer", "password": settings.airflow_viewer_password.get_secret_value()}
            token = client.post("/auth/token", json=user).json()["access_token"]
            answer = client.get("/apex/orders", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        return answer.text

    def sql(self, query: str, *parameters: object, writer: bool = False) -> list[tuple[Any, ...]]:
        """Rows of a query as the reader, or as the writer."""
        with closing(psycopg2.connect(self.whole.writer_url if writer else self.whole.reader_url)) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute(query, parameters or None)
                return cursor.fetchall()

    @property
    def inbox(self) -> Path:
        return Path(load_pipeline(self.settings).locations.drops) / "inbox"

    def make_drop(self, raw: Path, path: Path, rows: int, seed: int) -> None:
        """Write a drop of the day after the champion's snapshot; it appears under its path when it is complete."""
        [(as_of,)] = self.sql("SELECT max(snapshot_as_of) FROM orders.scoring_runs", writer=True)
        assert isinstance(as_of, date)
        make_drop(str(raw), as_of, rows, seed, path, load_pipeline(self.settings).contract)


def _processes_of(folder: Path) -> list[psutil.Process]:
    """Processes whose command line names the folder."""
    return [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]


@contextmanager
def whole_platform() -> Iterator[WholePlatform]:
    """A platform that is not up yet; nothing of it is left at the end."""
    with open_folder() as folder:
        settings = throwaway(folder)
        try:
            yield WholePlatform(settings)
        finally:
            stop.destroy(settings)
        _gone, alive = psutil.wait_procs(_processes_of(folder), timeout=15)
        assert not alive
