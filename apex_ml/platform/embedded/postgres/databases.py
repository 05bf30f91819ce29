"""The databases and roles of the embedded server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from apex_ml.adapters.postgres.administration import can_log_in
from apex_ml.errors import ConfigError
from apex_ml.platform.embedded.postgres.account import clean_environment, last_lines, run_as, write_as
from apex_ml.platform.embedded.postgres.binaries import wheel_binaries
from apex_ml.platform.embedded.postgres.server import ADMIN, Server
from apex_ml.platform.pipeline_readers import READERS, reader_names, readers_variable
from apex_ml.settings import CODE_ROOT, Settings

ROLES_SQL = CODE_ROOT / "deployment" / "postgres" / "roles.sql"


def ensure_databases(settings: Settings, server: Server) -> None:
    """Make databases and roles with the passwords of the settings; change nothing when all are right.

    Raises ConfigError with psql's message when the script fails.
    """
    environment = clean_environment(
        PGPASSWORD=settings.pg_admin_password.get_secret_value(),
        APEX_PG_AIRFLOW_PASSWORD=settings.pg_airflow_password.get_secret_value(),
        APEX_PG_MLFLOW_PASSWORD=settings.pg_mlflow_password.get_secret_value(),
        APEX_PG_WRITER_PASSWORD=settings.pg_writer_password.get_secret_value(),
        APEX_PG_READER_PASSWORD=settings.pg_reader_password.get_secret_value(),
        **{READERS: readers_variable(settings, reader_names(settings))},
        APEX_PG_READER_CONNECTIONS=str(settings.pg_reader_connections),
        APEX_PG_READER_IDLE_MINUTES=str(settings.pg_reader_idle_minutes),
    )
    stamp, digest = server.data / "apex_roles.sha256", _roles_digest(environment)
    if stamp.exists() and stamp.read_text() == digest and _can_all_log_in(settings):
        return
    command = [str(wheel_binaries() / "psql"), "-X", "-q", "-h", str(server.socket), "-p", str(settings.pg_port)]
    command += ["-U", ADMIN, "-d", "postgres", "-f", str(ROLES_SQL)]
    done = run_as(command, environment=environment)
    if done.returncode != 0:
        raise ConfigError(f"{ROLES_SQL.name} failed: {last_lines(done.stderr)}")
    write_as(stamp, digest, server.account)


def _roles_digest(environment: Mapping[str, str]) -> str:
    """A digest of the script, the passwords and the limits."""
    given = "\0".join(f"{name}={value}" for name, value in sorted(environment.items()) if name.startswith("APEX_"))
    return hashlib.sha256(f"{ROLES_SQL.read_text(encoding='utf-8')}\0{given}".encode()).hexdigest()


def _can_all_log_in(settings: Settings) -> bool:
    """Whether every role reaches its database with the password of the settings."""
    roles = [
        ("airflow", settings.pg_airflow_password, "airflow"),
        ("mlflow", settings.pg_mlflow_password, "mlflow"),
        ("apex_writer", settings.pg_writer_password, "apex"),
        ("apex_reader", settings.pg_reader_password, "apex"),
    ]
    return all(can_log_in(settings.postgres_url(role, password, database)) for role, password, database in roles)
