"""Entry points of the platform in containers: split the secrets, create the databases, start a server.

Compose hands ``.env`` to one container alone, which writes for every kind of service a file with the settings and the
secrets that it needs, each into a volume of its own (:func:`part_secrets`). A service reads its file by
``APEX_ENV_FILE``; no secret stands in a compose file, an image, or the configuration that ``docker inspect`` shows.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from pydantic import SecretStr

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.adapters.storage.stores import connections_in, logins_in
from apex_ml.api_keys import hash_of
from apex_ml.contract.locations import is_object_store
from apex_ml.env_syntax import format_value
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.pipeline_settings import former_pipeline, load_all_pipeline_settings, option_text
from apex_ml.pipeline_values import override_variable
from apex_ml.platform.embedded.env_file import CONTAINER_SECRETS, SECRETS
from apex_ml.platform.embedded.environment import QUIET, airflow_environment, artifacts_place, mlflow_environment
from apex_ml.platform.pipeline_readers import READERS, reader_names, readers_variable
from apex_ml.setting_sources import variable_of
from apex_ml.settings import CODE_ROOT, Settings

logger = logging.getLogger(__name__)

USER = 10001
"""Owner of the files: the user of both images."""

STEP_SECRETS = (
    "pg_writer_password",
    "pg_reader_password",
    "mlflow_password",
    "alert_webhook_url",
    "alert_smtp_url",
    "alert_channels",
)
PARTS: Mapping[str, tuple[str, ...]] = {
    "postgres": tuple(name for name in SECRETS if name.startswith("pg_")),
    "mlflow": ("pg_mlflow_password", "mlflow_admin_password", "mlflow_password", "mlflow_secret_key"),
    "redis": ("redis_password",),
    "airflow": (
        "pg_airflow_password",
        "pg_reader_password",
        # Airflow's own deadlines raise alerts
        "pg_writer_password",
        "redis_password",
        "metrics_token",
        *(name for name in SECRETS if name.startswith("airflow_")),
    ),
    "steps": STEP_SECRETS,
    "tools": (*STEP_SECRETS, "airflow_admin_password", "airflow_viewer_password", "serving_key"),
    "serving": ("pg_writer_password", "pg_reader_password", "mlflow_password"),
    "gate": (),
}
"""The secrets of each kind of service."""
SHARED_WITH_ALL = ("postgres", "redis", "gate")
"""Services whose own user must read the file; no other service has their volume."""

ADDRESSES = {
    "APEX_HOST": "0.0.0.0",
    "APEX_PG_HOST": "postgres",
    "APEX_PG_PORT": "5432",
    "APEX_MLFLOW_PORT": "5000",
    "APEX_MLFLOW_TRACKING_URI": "http://mlflow:5000",
    "APEX_MLFLOW_USER": "apex",
    "APEX_AIRFLOW_PORT": "8080",
    "APEX_AIRFLOW_URL": "http://airflow-api-server:8080",
    "APEX_RUNTIME": "docker",
    "APEX_SERVING_HOST": "0.0.0.0",
    "APEX_SERVING_PORT": "8008",
    "APEX_DOCKER_HOST": "tcp://docker-proxy:2375",
}
"""Addresses of the services on their private network."""
KEYS = variable_of("serving_keys")
FROM_OUTSIDE = {"APEX_SERVING_HOST": "serving"}
"""The settings that the tools use instead: they connect to the service."""
OF_THE_HOST = ("home", "env_file", "pipelines", "database_url", "reader_database_url", "git_commit")
"""Settings of an ``.env`` that concern the machine, not the containers."""


def part_secrets(settings: Settings, target: Path) -> None:
    """Write ``<target>/<kind>/env`` for every kind of service, and the files from which Postgres and Redis read.

    Raises ConfigError naming each secret that the settings, read from ``.env``, lack.
    """
    for kind, values in parts(settings).items():
        folder = target / kind
        folder.mkdir(exist_ok=True)
        mode = 0o444 if kind in SHARED_WITH_ALL else 0o400
        _write(folder / "env", "".join(f"{name}={format_value(value)}\n" for name, value in values.items()), mode)
        if kind == "postgres":
            _write(folder / "admin_password", values["APEX_PG_ADMIN_PASSWORD"], mode)
        if kind == "redis":
            _write(folder / "redis.conf", f"requirepass {values['APEX_REDIS_PASSWORD']}\n", mode)


def digests(settings: Settings) -> dict[str, str]:
    """A digest of the settings of a kind of service, without the keys of the online service.

    A service reads its settings when it starts, so it must be restarted when its digest changes. The online service
    reads new keys by itself.
    """
    variables = {}
    for kind, values in parts(settings).items():
        counted = json_text(sorted((name, value) for name, value in values.items() if name not in (KEYS, READERS)))
        variables[kind] = hashlib.sha256(counted.encode()).hexdigest()[:16]
    return variables


def parts(settings: Settings) -> dict[str, dict[str, str]]:
    """The variables of every kind of service. Raises as :func:`part_secrets`."""
    given = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name in settings.model_fields_set
        if (value := getattr(settings, name)) is not None
    }
    missing = [variable_of(name) for name in (*SECRETS, *CONTAINER_SECRETS) if not given.get(name)]
    if missing:
        raise ConfigError(f".env lacks {', '.join(missing)}: `RUNTIME=docker make secrets` adds what is missing")
    public = {
        variable_of(name): value
        for name, value in given.items()
        if value and not isinstance(getattr(settings, name), SecretStr) and name not in OF_THE_HOST
    }
    published = {
        "APEX_AIRFLOW_PUBLIC_URL": f"http://127.0.0.1:{settings.airflow_port}",
        "APEX_MLFLOW_PUBLIC_URL": f"http://127.0.0.1:{settings.mlflow_port}",
        "APEX_SERVING_PUBLIC_URL": f"http://127.0.0.1:{settings.serving_port}",
    }
    # the service knows only the hash of the platform's own key
    keys = ",".join(filter(None, (settings.serving_keys, hash_of(given["serving_key"]))))
    readers = {READERS: readers_variable(settings, reader_names(settings))}
    logins = logins_in(settings.env_file)
    besides = {
        # its trigger lists object stores, and waits for messages of queues
        "airflow": {**logins, **connections_in(settings.env_file)},
        "mlflow": logins,
        "steps": logins,
        "tools": {**logins, **FROM_OUTSIDE},
        "postgres": readers,
        "serving": {KEYS: keys, **(logins if _reads_stores(settings) else {})},
    }
    return {
        kind: {
            **published,
            **public,
            **_pipeline_variables(settings),
            **ADDRESSES,
            **{variable_of(name): given[name] for name in names if given.get(name)},
            **besides.get(kind, {}),
        }
        for kind, names in PARTS.items()
    }


def _reads_stores(settings: Settings) -> bool:
    """Whether the online service reads history snapshots from an object store."""
    return any(is_object_store(p.locations.processed) for p in load_all_pipeline_settings(settings)[0])


def _pipeline_variables(settings: Settings) -> dict[str, str]:
    """The options of the pipelines that the settings replace. A folder of the host does not exist in the containers."""
    former = former_pipeline(settings)
    return {
        override_variable(value.pipeline or str(former), value.section, value.key): option_text(value.value)
        for value in settings.pipeline_values
        if (value.section != "locations" or "://" in str(value.value)) and (value.pipeline or former)
    }


def _write(path: Path, text: str, mode: int) -> None:
    """Replace the file in one step: a service that restarts meanwhile reads the old one or the new one."""
    write_atomically(path, text.encode(), mode=mode, owner=(USER, USER) if os.geteuid() == 0 else None)


def container_airflow_environment(settings: Settings) -> dict[str, str]:
    """Airflow's environment: as on one machine, but with logins in its database, and Celery when it is chosen."""
    logs = "/var/log/airflow"
    database = settings.postgres_url("airflow", settings.pg_airflow_password, "airflow")
    queue = quote(settings.redis_password.get_secret_value(), safe="")
    variables = {
        **QUIET,
        **airflow_environment(settings),
        "AIRFLOW_HOME": "/tmp/airflow",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__CORE__EXECUTOR": settings.executor,
        "AIRFLOW__FAB__ENABLE_PROXY_FIX": "True",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": logs,
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": f"{logs}/dag_processor",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "True",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://:{queue}@redis:6379/0",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "1",
        "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
        "AIRFLOW__OPERATORS__DEFAULT_QUEUE": "default",
    }
    for name in ("USERS", "PASSWORDS_FILE"):
        variables.pop(f"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_{name}")
    return variables


def become_airflow(settings: Settings, arguments: list[str]) -> NoReturn:
    """Replace this process by an `airflow` command."""
    os.execvpe("airflow", ["airflow", *arguments], {**os.environ, **container_airflow_environment(settings)})


def prepare_airflow(settings: Settings) -> None:
    """Migrate Airflow's database, make the pools, and the users admin and viewer with the passwords of the settings."""
    from apex_ml.platform.airflow_state import prepare_database

    environment = {**os.environ, **container_airflow_environment(settings)}
    logins = CODE_ROOT / "deployment" / "docker" / "logins.py"
    for command in (["airflow", "db", "migrate"], [sys.executable, str(logins)]):
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        if done.returncode:
            raise ConfigError(f"`{' '.join(command)}` failed:\n{(done.stdout + done.stderr)[-3000:]}")
    prepare_database(settings, logger.warning)


def become_mlflow(settings: Settings) -> NoReturn:
    """Give MLflow's users the passwords of the settings, then replace this process by its server with basic-auth."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    environment = {**os.environ, **QUIET, **mlflow_environment(settings)}
    store_uri = environment["MLFLOW_BACKEND_STORE_URI"]
    config = Path("/tmp/mlflow-auth.ini")
    config.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = {store_uri.replace('%', '%%')}\n"
        # a password is hashed once a minute for each user, not at every request
        "auth_cache_ttl_seconds = 60\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    config.chmod(0o600)
    users = SqlAlchemyStore()
    users.init_db(store_uri)
    for name, password, admin in (
        ("admin", settings.mlflow_admin_password.get_secret_value(), True),
        (settings.mlflow_user, settings.mlflow_password.get_secret_value(), False),
    ):
        if users.has_user(name):
            users.update_user(name, password=password, is_admin=admin)
        else:
            users.create_user(name, password, is_admin=admin)
    environment |= {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": settings.mlflow_secret_key.get_secret_value(),
    }
    public = settings.mlflow_address.split("://", 1)[-1].split("/", 1)[0]
    hosts = f"mlflow:{settings.mlflow_port},localhost:{settings.mlflow_port},127.0.0.1:{settings.mlflow_port},{public}"
    command = ["mlflow", "server", "--app-name", "basic-auth", "--host", settings.host]
    command += ["--port", str(settings.mlflow_port), "--workers", "1", "--serve-artifacts", "--allowed-hosts", hosts]
    command += ["--artifacts-destination", artifacts_place(settings, "/var/lib/mlflow")]
    os.execvpe("mlflow", command, environment)


def prepare_apex(settings: Settings) -> None:
    """Migrate the apex database, and create the folders of the home."""
    from apex_ml.pipelines import load_all_pipelines
    from apex_ml.platform.data_folders import begin_tables, make_data_folders, move_former_folders
    from apex_ml.platform.pipeline_tables import migrate_pipelines

    for line in move_former_folders(settings):
        logger.info("%s", line)
    # the online service, which may not write in the home, has a volume of its own there
    settings.spool.mkdir(parents=True, exist_ok=True)
    for pipeline in load_all_pipelines(settings)[0]:
        make_data_folders(settings, pipeline)
    migrate_pipelines(settings, logger.warning)
    begin_tables(settings, logger.warning)
