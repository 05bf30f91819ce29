"""The settings of Apex as fields: name, type, default, range and description of each.

``.env.example`` and the settings page of the reference are generated from the descriptions. Every variable is
``APEX_`` and the name of the field in capitals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from apex_ml.setting_types import (
    BucketUrl,
    ChannelOptions,
    DatabaseUrl,
    EngineUrl,
    FernetKey,
    Hashes,
    Host,
    Mail,
    Mails,
    MailServerUrl,
    WebhookUrl,
    WebUrl,
)

CODE_ROOT = Path(__file__).resolve().parents[1]


class SettingFields(BaseSettings):
    """Every setting of the platform. Load them with :meth:`apex_ml.settings.Settings.load`."""

    model_config = SettingsConfigDict(
        env_prefix="APEX_", extra="ignore", frozen=True, env_ignore_empty=True, allow_inf_nan=False
    )

    home: Path = Field(CODE_ROOT, description="Folder that holds all state: data/, .apex/, logs/ and .env.")
    env_file: Path = Field(
        default_factory=lambda known: Path(known["home"]) / ".env",
        description="File of settings and secrets. Empty: <home>/.env.",
    )

    # pipelines
    pipelines: Path = Field(
        CODE_ROOT / "pipelines", description="Folder of the pipelines: <name>/pipeline.yaml for each."
    )
    pipeline: str = Field(
        "", description="Name of the pipeline that a command is about. Empty: the only one in the folder."
    )

    # services
    host: Host = Field("127.0.0.1", description="Address every service of the embedded platform binds to.")
    pg_host: Host = Field("", description="Host of an external Postgres. Empty: the embedded one.")
    pg_port: int = Field(15432, ge=1, le=65535, description="Port of Postgres.")
    pg_reader_connections: int = Field(
        30,
        ge=1,
        le=80,
        description="Maximum number of connections of the role apex_reader: people and pools together.",
    )
    pg_reader_idle_minutes: int = Field(
        10, ge=0, description="Timeout of an idle transaction of apex_reader, in minutes; 0: none."
    )
    mlflow_port: int = Field(5000, ge=1, le=65535, description="Port of the MLflow server.")
    airflow_port: int = Field(8080, ge=1, le=65535, description="Port of the Airflow API server and UI.")
    serving_port: int = Field(8008, ge=1, le=65535, description="Port of the online service.")
    database_url: DatabaseUrl = Field(
        "", description="SQLAlchemy URL of the apex database as the writer. Empty: the embedded Postgres."
    )
    reader_database_url: DatabaseUrl = Field(
        "", description="The same database as the reader. Empty: the embedded Postgres."
    )
    mlflow_tracking_uri: WebUrl = Field("", description="MLflow server. Empty: the embedded one.")
    mlflow_public_url: WebUrl = Field("", description="MLflow's address in links for people. Empty: the same as above.")
    mlflow_artifacts: BucketUrl = Field(
        "",
        description="Where the platform's MLflow keeps models and reports: a prefix of S3 such as s3://bucket/mlflow,"
        " which needs boto3. Empty: a folder of the home.",
    )
    mlflow_user: str = Field("", description="Account of the steps in an MLflow with basic-auth. Empty: no login.")
    airflow_url: WebUrl = Field("", description="Airflow API server. Empty: the embedded one.")
    airflow_public_url: WebUrl = Field(
        "", description="Airflow's address in links for people. Empty: the same as above."
    )
    serving_public_url: WebUrl = Field(
        "", description="The online service's address in links for people. Empty: its own address."
    )

    # secrets: `make up` generates them once and writes them into .env
    pg_admin_password: SecretStr = Field(SecretStr(""), description="Postgres superuser, used at start-up only.")
    pg_airflow_password: SecretStr = Field(SecretStr(""), description="Owner of Airflow's database.")
    pg_mlflow_password: SecretStr = Field(SecretStr(""), description="Owner of MLflow's database.")
    pg_writer_password: SecretStr = Field(SecretStr(""), description="Role apex_writer.")
    pg_reader_password: SecretStr = Field(SecretStr(""), description="Role apex_reader.")
    airflow_admin_password: SecretStr = Field(SecretStr(""), description="Airflow user admin.")
    airflow_viewer_password: SecretStr = Field(SecretStr(""), description="Airflow user viewer (read only).")
    airflow_jwt_secret: SecretStr = Field(SecretStr(""), description="Signs Airflow's tokens.")
    airflow_secret_key: SecretStr = Field(SecretStr(""), description="Signs Airflow's sessions.")
    airflow_fernet_key: FernetKey = Field(SecretStr(""), description="Encrypts Airflow's connections.")
    mlflow_admin_password: SecretStr = Field(SecretStr(""), description="MLflow user admin, in containers.")
    mlflow_password: SecretStr = Field(SecretStr(""), description="MLflow user of the steps, in containers.")
    mlflow_secret_key: SecretStr = Field(SecretStr(""), description="Signs MLflow's forms, in containers.")
    redis_password: SecretStr = Field(SecretStr(""), description="Queue of the Celery workers, in containers.")
    serving_key: SecretStr = Field(
        SecretStr(""), description="API key that apex loadtest sends; in containers the online service accepts it."
    )

    # object stores
    spool_mb: int = Field(
        20_000,
        ge=1,
        description="Limit of the disk space for files of object stores, in MB: for a pipeline's raw files, for the"
        " outputs of its steps, and for a drop.",
    )

    # where steps run
    runtime: Literal["local", "docker"] = Field(
        "local", description="A step is a process beside Airflow (local) or a container of its own (docker)."
    )
    docker_host: EngineUrl = Field(
        "unix:///var/run/docker.sock", description="Docker engine that runs the steps, or the proxy to it."
    )
    step_image: str = Field("apex-ml:latest", description="Image of the steps.")
    project: str = Field("apex", description="Compose project: the network's name, and the prefix of its volumes.")
    step_memory_mb: int = Field(4096, ge=512, description="Memory limit of a step's container, in MB.")
    step_cpus: float = Field(2, gt=0, description="CPU limit of a step's container.")
    executor: Literal["LocalExecutor", "CeleryExecutor"] = Field(
        "LocalExecutor", description="Airflow's executor in containers; CeleryExecutor with the profile scale."
    )

    # alerts
    alert_webhook_url: WebhookUrl = Field(
        SecretStr(""), description="URL to which new alerts are posted as JSON. Empty: none."
    )
    alert_mail_to: Mails = Field(
        "", description="E-mail addresses that receive new alerts, separated by commas. Empty: none."
    )
    alert_mail_from: Mail = Field("", description="Sender of alert mails. Empty: the first receiver.")
    alert_smtp_url: MailServerUrl = Field(
        SecretStr(""), description="Mail server: smtp://user:password@host:587 or smtps://user:password@host:465."
    )
    alert_channels: ChannelOptions = Field(
        SecretStr(""),
        description='Options of your own alert channels by name, as JSON: {"pager": "https://…"}. Empty: none.',
    )
    metrics_token: SecretStr = Field(
        SecretStr(""),
        description="Bearer token with which Prometheus reads /apex/metrics. Empty: only a login is accepted.",
    )

    # limits of a step
    threads: int = Field(2, ge=1, description="Threads of a step.")
    memory_limit_mb: int = Field(
        1024, ge=256, description="Memory limit of DuckDB in a step before it spills to disk, in MB."
    )

    git_commit: str = Field("", description="Commit of the code where there is no checkout: an image sets it.")
    origin: str = Field(
        "",
        description="URL of the DAG run that started the step; logged for lineage. With it a step prints its result as"
        " one line of JSON instead of text.",
    )

    fault: str = Field(
        "", description="For tests: the fault point at which a step kills itself, or stops with :halt. Leave empty."
    )

    # the online service
    serving: bool = Field(True, description="The platform runs the online service.")
    serving_host: Host = Field("", description="Address the online service binds to. Empty: APEX_HOST.")
    serving_keys: Hashes = Field(
        "",
        description="Sha256 hashes of the API keys that the online service accepts, separated by commas; apex"
        " serve-key makes one. <sha256>@claims+flights is a key for these pipelines only. Empty: no key is required,"
        " which only a loopback address allows.",
    )
    serving_memory_mb: int = Field(
        2048,
        ge=32,
        description="Memory budget of the online service for the champions of all pipelines with their histories, in"
        " MiB: a champion that does not fit is not loaded.",
    )
    serving_rate: float = Field(
        5000,
        ge=0,
        description="Rate limit of the online service for one key or address, in requests a second; 0: none.",
    )
    serving_body_kb: int = Field(
        1024, ge=16, description="Maximum size of a request body of the online service, in KiB."
    )
    serving_timeout_seconds: float = Field(
        10,
        gt=0,
        description="Request timeout of the online service, in seconds: for receiving a request and for answering it.",
    )
    serving_record_queue: int = Field(
        20_000,
        ge=1,
        description="Maximum number of online answers of a pipeline that wait to be recorded; more are dropped and"
        " counted.",
    )
