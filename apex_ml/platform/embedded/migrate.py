"""Migrate the tables of Apex and of Airflow when the platform starts, and run Airflow's own command."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from apex_ml.adapters.postgres.administration import airflow_database, airflow_revision
from apex_ml.errors import ConfigError
from apex_ml.platform.airflow_state import prepare_database
from apex_ml.platform.data_folders import begin_tables
from apex_ml.platform.embedded.environment import airflow_environment, common, inherited
from apex_ml.platform.embedded.paths import run_folder, service_log
from apex_ml.platform.embedded.progress import Phases
from apex_ml.platform.embedded.service_wait import last_lines
from apex_ml.platform.pipeline_tables import migrate_pipelines
from apex_ml.settings import Settings


def airflow_command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an `airflow` command on this platform; its output is captured."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "airflow"), *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=run_folder(settings),
        env={**inherited(settings), **common(settings), **airflow_environment(settings)},
    )


def migrate_apex(settings: Settings, phases: Phases) -> None:
    """Apply the migrations of Apex to the schema of every pipeline; report the pipelines whose file is wrong."""
    with phases.phase("Apex's tables"):
        migrate_pipelines(settings, phases.say)
        begin_tables(settings, phases.say)


def migrate_airflow(settings: Settings, phases: Phases) -> None:
    """Migrate Airflow's database, unless this version did it already, and make the pools."""
    stamp = settings.state / "airflow" / "migrated"
    installed = version("apache-airflow-core")
    with phases.phase("Airflow's tables"), airflow_database(settings) as connection:
        revision = airflow_revision(connection)
        # the revision is compared too: the database may be an older one than the stamp, after a restore
        if not revision or not stamp.exists() or stamp.read_text() != f"{installed} {revision}":
            done = airflow_command(settings, "db", "migrate")
            log = service_log(settings, "airflow-migrate")
            log.write_text(done.stdout + done.stderr)
            if done.returncode != 0:
                raise ConfigError(f"`airflow db migrate` failed, see {log}:\n{last_lines(log)}")
            stamp.write_text(f"{installed} {airflow_revision(connection)}")
    prepare_database(settings, phases.say)
