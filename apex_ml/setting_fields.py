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
    Candidates,
    ChannelOptions,
    Cron,
    DatabaseUrl,
    EngineUrl,
    FernetKey,
    Hashes,
    Host,
    Mail,
    Mails,
    MailServerUrl,
    SplitName,
    WebhookUrl,
    WebUrl,
)

CODE_ROOT = Path(__file__).resolve().parents[1]
MAX_MINUTES = 366 * 24 * 60
"""A year: longer than any time limit. Adding much more to a date would leave the calendar."""


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
    contract: Path = Field(
        CODE_ROOT / "apex_ml" / "contract" / "orders.yaml", description="The data contract (a YAML file)."
    )

    # where data lives
    raw_url: str = Field("", description="Folder of raw parquet files. Empty: <home>/data/raw.")
    processed_url: str = Field("", description="Folder of the steps' outputs. Empty: <home>/data/processed.")
    drops_url: str = Field("", description="Folder with inbox/, done/ and quarantine/. Empty: <home>/data/drops.")

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

    # schedule
    retrain_schedule: Cron = Field("0 2 * * *", description="Cron of apex_retrain, in UTC.")
    sweep_schedule: Cron = Field("*/15 * * * *", description="Cron of apex_score's fallback sweep, in UTC.")
    inbox_poll_seconds: float = Field(
        2.0, gt=0, le=3600, description="Interval at which the inbox is checked for new drops, in seconds."
    )
    step_timeout_minutes: int = Field(
        60, ge=1, le=MAX_MINUTES, description="Time limit of one step in Airflow, in minutes."
    )
    step_retries: int = Field(
        2, ge=0, le=100, description="Number of times Airflow retries a step after a transient error."
    )
    retry_delay_seconds: int = Field(60, ge=0, le=86_400, description="Wait before a retry, in seconds.")

    # promotion
    approval: bool = Field(False, description="Require approval in Airflow before a challenger becomes champion.")
    approval_hours: float = Field(12, gt=0, le=MAX_MINUTES / 60, description="Approval timeout, in hours.")
    approval_default: Literal["Approve", "Reject"] = Field(
        "Reject", description="Answer when nobody responds before the approval timeout."
    )
    shadow_days: int = Field(
        0,
        ge=0,
        le=90,
        description="Days for which a challenger that was not promoted scores the drops in shadow; 0: never.",
    )

    # monitoring
    monitor_schedule: Cron = Field("0 5 * * *", description="Cron of apex_monitor, in UTC; it also follows scoring.")
    drift_alpha: float = Field(
        0.002, gt=0, lt=0.5, description="Probability of a false alarm in one healthy drop or day, over all features."
    )
    drift_min_rows: int = Field(
        1000, ge=100, description="Minimum number of rows of a drop or a day for which drift is measured."
    )
    quality_margin: float = Field(
        0.01, ge=0, description="Tolerated increase of a week's log loss over its value at promotion, in nats."
    )
    quality_alpha: float = Field(0.01, gt=0, lt=0.5, description="Probability of calling one healthy week worse.")
    quality_year_alpha: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Probability of a false alarm in 52 healthy weeks of a version, by the rule over several weeks.",
    )
    quality_min_rows: int = Field(
        500, ge=50, description="Minimum number of known outcomes of a week that is evaluated."
    )
    quality_worse_weeks: int = Field(2, ge=1, description="Number of worse weeks that trigger a retraining …")
    quality_window_weeks: int = Field(3, ge=1, description="… among this many newest weeks.")
    upload_minutes: float = Field(
        10,
        ge=0,
        le=MAX_MINUTES,
        description="Upload timeout, in minutes: an incomplete parquet file in the inbox that has not changed for this"
        " long is quarantined.",
    )
    drop_deadline_minutes: int = Field(
        60, ge=1, le=MAX_MINUTES, description="Scoring deadline of a drop, in minutes after it arrived."
    )
    retrain_deadline_minutes: int = Field(
        240, ge=1, le=MAX_MINUTES, description="Deadline of a run of apex_retrain, in minutes."
    )
    deadline_alerts: bool = Field(True, description="Airflow watches both deadlines as well.")
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

    # checking
    quarantine_rows_in_sql: int = Field(
        10_000,
        ge=0,
        description="Maximum number of quarantined rows of a raw file or a refused drop that are copied to Postgres.",
    )

    expectation_rows: int = Field(
        1_500_000,
        ge=1000,
        description="Maximum number of accepted rows that Great Expectations checks; of more rows it checks a"
        " sample. Row checks"
        " always check every row.",
    )

    # training
    seed: int = Field(42, description="Seed of the split, the search and the training.")
    split: SplitName = Field(
        "temporal",
        description="How examples are split: temporal, stratified_random or legacy (as the original project did). Only"
        " temporal is promotable.",
    )
    trials: int = Field(
        0, ge=0, description="Hyper-parameter trials of a training; 0: train with the fixed parameters."
    )
    search_seconds: float = Field(
        0, ge=0, description="Time limit of the search, in seconds; 0: none, which keeps results reproducible."
    )
    search_folds: int = Field(
        1,
        ge=1,
        le=10,
        description="Number of rolling-origin folds inside the training part by which the search scores; 1: none.",
    )
    candidates: Candidates = Field(
        "xgboost",
        description="Candidate models, in order: xgboost, logistic, lightgbm (an extra) or your own. Ties go to the"
        " first.",
    )
    selection: Literal["noise", "none"] = Field(
        "noise",
        description="Feature selection: features that beat permuted copies of themselves (noise), or all (none).",
    )
    class_weights: Literal["none", "balanced"] = Field("none", description="Class weights in training.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Device on which XGBoost trains.")
    early_stopping_rounds: int = Field(
        30, ge=0, description="Early stopping: rounds without progress before training stops; 0: off."
    )
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

    # scoring
    score_chunk_drops: int = Field(1000, ge=1, description="Maximum number of drops in one mapped task of apex_score.")
    score_chunk_mb: int = Field(
        256, ge=1, description="Maximum size of the drops in one mapped task of apex_score, in MB."
    )
    model_name: str = Field("digital_orders_xgboost", description="Name of the registered model in MLflow.")

    # the online service
    serving: bool = Field(True, description="The platform runs the online service.")
    serving_host: Host = Field("", description="Address the online service binds to. Empty: APEX_HOST.")
    serving_keys: Hashes = Field(
        "",
        description="Sha256 hashes of the API keys that the online service accepts, separated by commas; apex"
        " serve-key makes"
        " one. Empty: no key is required, which only a loopback address allows.",
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
    serving_record_share: float = Field(
        0, ge=0, le=1, description="Share of online answers that are recorded in Postgres and monitored, from 0 to 1."
    )
    serving_record_queue: int = Field(
        20_000,
        ge=1,
        description="Maximum number of online answers that wait to be recorded; more are dropped and counted.",
    )
