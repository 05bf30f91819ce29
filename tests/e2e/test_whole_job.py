"""The main job as a person runs it: the real scheduler, Postgres, MLflow and steps, on a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
from throwaway_home import open_folder, throwaway

from apex_ml.platform import embedded
from apex_ml.settings import CODE_ROOT, Settings

APEX = [sys.executable, "-c", "from apex_ml.cli import main; main()"]


class Home:
    """One throwaway platform and the command that drives it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        kept = {k: v for k, v in os.environ.items() if not k.startswith("APEX_")}
        ports = ("pg_port", "mlflow_port", "airflow_port")
        self.env = kept | {f"APEX_{p.upper()}": str(getattr(settings, p)) for p in ports}
        self.env |= {"APEX_HOME": str(settings.home), "COLUMNS": "160"}

    def apex(self, *arguments: str, seconds: int = 280) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*APEX, *arguments],
            env=self.env,
            cwd=CODE_ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def sql(self, query: str) -> list[tuple[object, ...]]:
        settings = Settings.load(
            home=self.settings.home,
            pg_port=self.settings.pg_port,  # the passwords are in the home's own .env
        )
        connection = psycopg2.connect(settings.reader_url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall()
        finally:
            connection.close()


def _of(folder: Path) -> list[psutil.Process]:
    """Processes whose command line names the folder."""
    return [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]


@pytest.fixture
def home() -> Iterator[Home]:
    with open_folder() as folder:
        settings = throwaway(folder)
        try:
            yield Home(settings)
        finally:
            embedded.destroy(settings)
        _gone, alive = psutil.wait_procs(_of(folder), timeout=15)
        assert not alive


@pytest.mark.platform
@pytest.mark.timeout(420)
def test_main_job_end_to_end(home: Home, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    made = home.apex(
        "simulate", "--out", str(raw), "--orders", "150000", "--clients", "20000", "--files", "3", "--seed", "5"
    )
    assert made.returncode == 0, made.stderr

    first = home.apex("run", "--raw", str(raw))
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "version 1" in first.stdout
    assert str(home.settings.airflow) in first.stdout
    for secret in Settings.load(home=home.settings.home).model_dump(include={"airflow_admin_password"}).values():
        assert secret.get_secret_value() not in first.stdout

    [(state, rows, scored, quarantined, version)] = home.sql(
        "SELECT state, rows_in, rows_scored, rows_quarantined, model_version FROM apex.drop_summary"
    )
    assert (state, rows, scored, quarantined, version) == ("done", 100_000, 100_000, 0, 1)
    assert home.sql("SELECT count(*), count(DISTINCT row_nr) FROM apex.scored_orders_current") == [(100_000, 100_000)]
    [(action, loss, prior)] = home.sql("SELECT action, challenger_log_loss, prior_log_loss FROM apex.model_history")
    assert action == "promote"
    assert loss < prior

    second = home.apex("run")
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-3000:]
    assert "no new raw data" in second.stdout
    assert home.sql("SELECT count(*), min(rows_scored), count(DISTINCT sha256) FROM apex.drop_summary") == [
        (2, 100_000, 2)
    ]

    status = home.apex("status")
    assert status.returncode == 0
    assert "version 1" in status.stdout

    # a raw file that is no parquet: the run fails, and says which file, why, and where the log is
    (raw / "notes.txt").write_text("not parquet")
    failed = home.apex("run")
    assert failed.returncode != 0
    assert "notes.txt" in failed.stdout + failed.stderr
    assert "validate" in failed.stdout + failed.stderr
    assert home.apex("down").returncode == 0
