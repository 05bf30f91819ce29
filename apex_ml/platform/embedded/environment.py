"""The environment of every program of the platform, built from the settings alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.adapters.storage.stores import logins_in
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.pipeline_settings import pipeline_variables
from apex_ml.platform.embedded.env_file import file_values
from apex_ml.setting_sources import variable_of
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.surroundings import shielded

# marks every process that belongs to a platform, for `down` to find what supervisor lost
MARK = "APEX_SUPERVISED"
# variables of the shell must not change a service
DROPPED = ("AIRFLOW", "APEX_", "_MLFLOW", "PYTEST", "PYTHON", "SUPERVISOR", "VIRTUAL_ENV", "COV_")

QUIET = {
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "SCARF_ANALYTICS": "false",
    "NO_COLOR": "1",
    # one arena for each of many threads would keep hundreds of megabytes
    "MALLOC_ARENA_MAX": "2",
}
# a trigger that waits for messages of a queue logs several lines at each request
WORDY = (
    "airflow.providers.amazon",
    "airflow.providers.amazon.aws.triggers.sqs",
    "airflow.providers.amazon.aws.utils.sqs",
    "aiobotocore.credentials",
)


def inherited(settings: Settings) -> dict[str, str]:
    """The caller's environment without anything that configures a service, and this Python's commands first."""
    kept = {name: value for name, value in shielded(os.environ, settings).items() if not _is_dropped(name, settings)}
    return {**kept, "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])}


def _is_dropped(name: str, settings: Settings) -> bool:
    # the steps use the caller's login for an external MLflow
    of_mlflow = name.startswith("MLFLOW") and not (settings.mlflow_tracking_uri and name.startswith("MLFLOW_TRACKING_"))
    # Airflow and MLflow use the embedded Postgres, even when the rows are in another server
    of_postgres = name.startswith("PG") and not settings.pg_host
    return of_mlflow or of_postgres or name.startswith(DROPPED)


def common(settings: Settings) -> dict[str, str]:
    """Variables of every program: the home, the settings that are not in ``.env``, UTC, no telemetry.

    It is independent of the caller's shell: `up` compares it with the running programs, and restarts on a change.
    """
    return {
        **QUIET,
        "TZ": "UTC",
        **apex_variables(settings),
        MARK: str(settings.home),
    }


def apex_variables(settings: Settings) -> dict[str, str]:
    """The home, and each setting from the environment or from a caller, except the pipeline: programs run them all.

    Settings in ``.env`` are left out, so that a program reads the file and sees its changes.
    """
    stored = file_values(settings)
    variables = {}
    # `apex -p NAME` concerns one command: the services work for all pipelines
    for name in sorted(settings.model_fields_set - {"home", "env_file", "pipeline"}):
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        if text and stored.get(variable_of(name)) != text:
            variables[variable_of(name)] = text
    if settings.env_file != settings.home / ".env":
        variables["APEX_ENV_FILE"] = str(settings.env_file)
    replaced = {name: text for name, text in pipeline_variables(settings).items() if stored.get(name) != text}
    return {"APEX_HOME": str(settings.home), **variables, **replaced}


def airflow_environment(settings: Settings) -> dict[str, str]:
    """Additional variables of Airflow's processes; also for manual `airflow` commands."""
    home = settings.state / "airflow"
    database = settings.postgres_url("airflow", settings.pg_airflow_password, "airflow", "postgresql+psycopg2")
    logs = settings.logs / "airflow"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CODE_ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(CODE_ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "8",
        "AIRFLOW__CORE__DEFAULT_TIMEZONE": "utc",
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{settings.airflow}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": settings.airflow_fernet_key.get_secret_value(),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:ADMIN,viewer:VIEWER",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__API__HOST": settings.host,
        "AIRFLOW__API__PORT": str(settings.airflow_port),
        "AIRFLOW__API__BASE_URL": settings.airflow_address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": settings.airflow_secret_key.get_secret_value(),
        "AIRFLOW__API_AUTH__JWT_SECRET": settings.airflow_jwt_secret.get_secret_value(),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE": "3",
        # `up` has migrated before it starts a process
        "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(logs),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(logs / "dag_processor"),
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__LOGGING__NAMESPACE_LEVELS": " ".join(f"{name}=WARNING" for name in WORDY),
        "AIRFLOW__SCHEDULER__CATCHUP_BY_DEFAULT": "False",
        # a task whose process died fails after this time, not after five minutes
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "90",
        # a new scheduler takes over the tasks of a killed one at these checks, by default every five minutes
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        "AIRFLOW__SCHEDULER__PARSING_CLEANUP_INTERVAL": "30",
        "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "8",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "20",
        "AIRFLOW__DAG_PROCESSOR__PRINT_STATS_INTERVAL": "600",
        "AIRFLOW__TRIGGERER__CAPACITY": "100",
    }


def write_airflow_passwords(settings: Settings) -> None:
    """Write the users' passwords where the simple auth manager reads them, mode 0600."""
    passwords = {
        "admin": settings.airflow_admin_password.get_secret_value(),
        "viewer": settings.airflow_viewer_password.get_secret_value(),
    }
    write_atomically(settings.state / "airflow" / "passwords.json", json_text(passwords).encode(), mode=0o600)


def mlflow_environment(settings: Settings) -> dict[str, str]:
    """Additional variables of the MLflow server. The database URL is here because `ps` would show an argument."""
    store = settings.postgres_url("mlflow", settings.pg_mlflow_password, "mlflow", "postgresql+psycopg2")
    return {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "3",
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "7",
        **(logins_in(settings.env_file) if settings.mlflow_artifacts else {}),
    }


def artifacts_place(settings: Settings, folder: str) -> str:
    """Where the MLflow server keeps artifacts: in the store of the settings, else in the folder.

    Raises :class:`~apex_ml.errors.ConfigError` when the package that MLflow needs for the store is missing.
    """
    if settings.mlflow_artifacts and find_spec("boto3") is None:
        raise ConfigError(
            f"APEX_MLFLOW_ARTIFACTS={settings.mlflow_artifacts}: MLflow needs boto3 for it, which is not installed:"
            " pip install boto3, or remove the setting"
        )
    return settings.mlflow_artifacts or folder


def supervisor_pairs(variables: Mapping[str, str]) -> str:
    """The variables as a value of supervisor's ``environment=``.

    Raises ConfigError for a value that its syntax cannot carry.
    """
    for name, value in variables.items():
        if any(mark in value for mark in ('"', "\n", "\r", " ;", " #", "\t;", "\t#")) or value != value.strip("'"):
            raise ConfigError(f'{name}: supervisor cannot pass on a value with a double quote, " ;" or " #": {value!r}')
    return ",".join(f'{name}="{value}"' for name, value in variables.items()).replace("%", "%%")
