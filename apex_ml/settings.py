"""All settings of Apex, read from the environment (prefix ``APEX_``) and from ``<home>/.env`` or ``APEX_ENV_FILE``.

This is the only module that reads the environment, and it does so when ``Settings.load()`` is called, never at
import. A variable of the environment wins over the same name in ``.env``. The table in the README and
``.env.example`` are generated from the field descriptions below.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from apex_ml.env_syntax import EnvSyntaxError, EnvValue, read_env_file
from apex_ml.errors import ConfigError
from apex_ml.setting_types import (
    Candidates,
    Cron,
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

logger = logging.getLogger(__name__)
CODE_ROOT = Path(__file__).resolve().parents[1]
MAX_MINUTES = 366 * 24 * 60
"""A year: longer than any time limit; a date to which much more is added would leave the calendar."""
PORTS = ("pg_port", "mlflow_port", "airflow_port", "serving_port")
FOLDERS = ("raw_url", "processed_url", "drops_url")
OTHER_VARIABLES = re.compile(r"APEX_(SUPERVISED|TEST_\w+|DIGEST_\w+)")
"""Variables with the prefix that are no settings: the mark of a process, the tests' and the compose file's own."""
SURELY_MEANT = 0.75
"""From this likeness on a name of the environment that is no setting is a misspelt one."""


def _home(given: object) -> Path:
    return Path(str(given or os.environ.get("APEX_HOME") or CODE_ROOT)).expanduser().resolve()


class Settings(BaseSettings):
    """Every knob of the platform. Construct it with :meth:`load`.

    Raises :class:`~apex_ml.errors.ConfigError` from :meth:`load` when a value is of the wrong type or out of range,
    naming the variable, the value and the rule.
    """

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
    pg_host: Host = Field("", description="Host of a Postgres that others run. Empty: the embedded one.")
    pg_port: int = Field(15432, ge=1, le=65535, description="Port of Postgres.")
    pg_reader_connections: int = Field(
        30,
        ge=1,
        le=80,
        description="Connections that the role apex_reader may hold at once, of people and pools.",
    )
    pg_reader_idle_minutes: int = Field(
        10, ge=0, description="Minutes after which an idle transaction of apex_reader is ended; 0: never."
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
    serving_public_url: WebUrl = Field("", description="The online service's address for people. Empty: where it is.")

    # secrets, made once by `make up` into .env
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
        SecretStr(""), description="API key that apex loadtest sends; in containers the online service takes it."
    )

    # where steps run
    runtime: Literal["local", "docker"] = Field(
        "local", description="A step is a process beside Airflow (local) or a container of its own (docker)."
    )
    docker_host: EngineUrl = Field(
        "unix:///var/run/docker.sock", description="Engine, or gate to it, that runs the steps."
    )
    step_image: str = Field("apex-ml:latest", description="Image of the steps.")
    project: str = Field("apex", description="Compose project: the network's name, and the prefix of its volumes.")
    step_memory_mb: int = Field(4096, ge=512, description="Memory limit of a step's container.")
    step_cpus: float = Field(2, gt=0, description="CPU limit of a step's container.")
    executor: Literal["LocalExecutor", "CeleryExecutor"] = Field(
        "LocalExecutor", description="Airflow's executor in containers; CeleryExecutor with the profile scale."
    )

    # schedule
    retrain_schedule: Cron = Field("0 2 * * *", description="Cron of apex_retrain, in UTC.")
    sweep_schedule: Cron = Field("*/15 * * * *", description="Cron of apex_score's fallback sweep, in UTC.")
    inbox_poll_seconds: float = Field(2.0, gt=0, le=3600, description="How often the inbox is looked at for new drops.")
    step_timeout_minutes: int = Field(60, ge=1, le=MAX_MINUTES, description="Time limit of one step in Airflow.")
    step_retries: int = Field(2, ge=0, le=100, description="Retries of a step in Airflow after a transient error.")
    retry_delay_seconds: int = Field(60, ge=0, le=86_400, description="Wait before such a retry.")

    # promotion
    approval: bool = Field(False, description="A person is asked in Airflow before a challenger becomes champion.")
    approval_hours: float = Field(
        12, gt=0, le=MAX_MINUTES / 60, description="So long the question waits for an answer."
    )
    approval_default: Literal["Approve", "Reject"] = Field(
        "Reject", description="The answer when nobody gives one in time."
    )
    shadow_days: int = Field(
        0, ge=0, le=90, description="So many days a challenger that was not promoted also scores the drops; 0: never."
    )

    # monitoring
    monitor_schedule: Cron = Field("0 5 * * *", description="Cron of apex_monitor, in UTC; it also follows scoring.")
    drift_alpha: float = Field(
        0.002, gt=0, lt=0.5, description="Probability of a false alarm in one healthy drop or day, over all features."
    )
    drift_least_rows: int = Field(1000, ge=100, description="Drops and days of fewer rows are not judged for drift.")
    quality_margin: float = Field(0.01, ge=0, description="Nats by which a week may be worse than at promotion.")
    quality_alpha: float = Field(0.01, gt=0, lt=0.5, description="Probability of calling one healthy week worse.")
    quality_year_alpha: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Probability of a false alarm in 52 healthy weeks of a version, by the rule over several weeks.",
    )
    quality_least_orders: int = Field(500, ge=50, description="Weeks of fewer known outcomes are not judged.")
    quality_worse_weeks: int = Field(2, ge=1, description="So many worse weeks trigger a retraining …")
    quality_of_weeks: int = Field(3, ge=1, description="… out of the newest so many.")
    upload_minutes: float = Field(
        10,
        ge=0,
        le=MAX_MINUTES,
        description="Minutes without a change in which an incomplete parquet file in the inbox may go on; then it is"
        " quarantined.",
    )
    drop_deadline_minutes: int = Field(
        60, ge=1, le=MAX_MINUTES, description="A drop that waits longer since it arrived is late."
    )
    retrain_deadline_minutes: int = Field(
        240, ge=1, le=MAX_MINUTES, description="A run of apex_retrain that takes longer is late."
    )
    deadline_alerts: bool = Field(True, description="Airflow itself watches both deadlines, too.")
    alert_webhook_url: WebhookUrl = Field(SecretStr(""), description="New alerts are posted here as JSON. Empty: not.")
    alert_mail_to: Mails = Field(
        "", description="New alerts are mailed to these addresses, with commas between. Empty: not."
    )
    alert_mail_from: Mail = Field("", description="Sender of such mails. Empty: the first receiver.")
    alert_smtp_url: MailServerUrl = Field(
        SecretStr(""), description="Mail server: smtp://user:password@host:587 or smtps://user:password@host:465."
    )
    metrics_token: SecretStr = Field(
        SecretStr(""), description="Bearer token with which Prometheus reads /apex/metrics. Empty: only with a login."
    )

    # checking
    quarantine_rows_in_sql: int = Field(
        10_000, ge=0, description="At most so many quarantined rows of a raw file go to Postgres; all stay in parquet."
    )

    expectation_rows: int = Field(
        1_500_000,
        ge=1000,
        description="Of more accepted rows Great Expectations judges a sample; row checks see every row all the same.",
    )

    # training
    seed: int = Field(42, description="Seed of the split, the search and the training.")
    split: Literal["temporal", "stratified_random", "legacy"] = Field(
        "temporal",
        description="How examples are split; legacy: the original project's way. Only temporal is promotable.",
    )
    trials: int = Field(0, ge=0, description="Hyper-parameter trials a night; 0 trains with the fixed parameters.")
    search_seconds: float = Field(0, ge=0, description="Time limit of the search; 0: none, so that results repeat.")
    search_folds: int = Field(
        1,
        ge=1,
        le=10,
        description="Above 1: the search scores by so many rolling-origin folds inside the training part.",
    )
    candidates: Candidates = Field(
        "xgboost", description="Contenders, in order: xgboost, logistic, lightgbm (an extra). Ties go to the first."
    )
    selection: Literal["noise", "none"] = Field(
        "noise", description="Features: those that beat permuted copies of themselves, or all."
    )
    class_weights: Literal["none", "balanced"] = Field("none", description="Weights of the classes in training.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where XGBoost trains.")
    early_stopping_rounds: int = Field(30, ge=0, description="Rounds without progress before training stops; 0: off.")
    threads: int = Field(2, ge=1, description="Threads a step may use.")
    memory_limit_mb: int = Field(1024, ge=256, description="Memory DuckDB may use in a step before it spills to disk.")

    git_commit: str = Field("", description="Commit of the code where there is no checkout: an image sets it.")
    origin: str = Field("", description="Address of the run that called the step; logged for lineage.")

    fault: str = Field(
        "", description="For tests: the fault point at which a step kills itself, with :halt stands still. Leave empty."
    )

    # scoring
    score_chunk_drops: int = Field(1000, ge=1, description="At most so many drops in one mapped task of apex_score.")
    score_chunk_mb: int = Field(256, ge=1, description="At most so many megabytes of drops in one mapped task.")
    model_name: str = Field("digital_orders_xgboost", description="Name of the registered model in MLflow.")

    # the online service
    serving: bool = Field(True, description="The platform runs the online service.")
    serving_host: Host = Field("", description="Address the online service binds to. Empty: APEX_HOST.")
    serving_keys: Hashes = Field(
        "",
        description="Sha256 of the API keys that the online service takes, with commas between; apex serve-key makes"
        " one. Empty: none is asked for, which only a loopback address allows.",
    )
    serving_rate: float = Field(
        5000, ge=0, description="Requests a second that the online service takes of one key or address; 0: no limit."
    )
    serving_body_kb: int = Field(1024, ge=16, description="Largest body of a request to the online service, in KiB.")
    serving_timeout_seconds: float = Field(
        10, gt=0, description="So long the online service waits for a request to arrive, and works on it at most."
    )
    serving_record_share: float = Field(
        0, ge=0, le=1, description="Share of the online answers that is recorded in Postgres and monitored; 0: none."
    )
    serving_record_queue: int = Field(
        20_000, ge=1, description="Online answers that wait to be recorded at most; more are dropped and counted."
    )

    @classmethod
    def load(cls, **overrides: object) -> Settings:
        """Read ``.env`` and the environment; keyword arguments win over both.

        The folder that holds ``.env`` is ``APEX_HOME``, by default the checkout; ``APEX_ENV_FILE`` names another file.
        """
        home = _home(overrides.get("home"))
        of_the_environment = home == Path(os.environ.get("APEX_HOME") or CODE_ROOT).expanduser().resolve()
        named = overrides.get("env_file") or (of_the_environment and os.environ.get("APEX_ENV_FILE"))
        env_file = Path(str(named)).absolute() if named else home / ".env"
        faults: list[str] = []
        try:
            stored = read_env_file(env_file)
        except EnvSyntaxError as error:  # what is wrong with the other lines is said, too
            stored = error.values
            faults.append(str(error))
        faults += [*_unknown_names(stored, env_file, home), *_misspelt_variables()]
        given = {
            name.removeprefix("APEX_").lower(): value.text
            for name, value in stored.items()
            if value.text and name.startswith("APEX_") and not os.environ.get(name)
        }
        known = {name: value for name, value in given.items() if name in cls.model_fields}
        try:
            loaded = cls(**{**known, **overrides, "home": home, "env_file": env_file})  # type: ignore[arg-type]
        except ValidationError as error:
            faults += [cls._fault(dict(e), overrides, stored, env_file) for e in error.errors()]
        else:
            loaded = loaded.model_copy(update=loaded._absolute(overrides, home))
            faults += loaded._contradictions()
        if faults:
            raise ConfigError("settings: " + "; ".join(faults))
        return loaded

    @classmethod
    def defaults_of_home(cls) -> Settings:
        """The home with every other setting at its default: enough to stop a platform whose settings are wrong."""
        home = _home(None)
        return cls.model_construct(home=home, env_file=home / ".env")

    @classmethod
    def _fault(
        cls, error: Mapping[str, Any], overrides: Mapping[str, object], stored: Mapping[str, EnvValue], env_file: Path
    ) -> str:
        """What is wrong with one value, and where it stands; a secret is not repeated."""
        name = "_".join(map(str, error["loc"]))
        variable = f"APEX_{name.upper()}"
        secret = name in cls.model_fields and isinstance(cls.model_fields[name].default, SecretStr)
        hidden = secret or name in ("serving_keys", "database_url", "reader_database_url")
        shown = "" if hidden else f"={error['input']!r}"
        message = str(error["msg"]).removeprefix("Value error, ")
        if name in overrides:
            return f"{variable}{shown}: {message}"
        if os.environ.get(variable) or variable not in stored:
            return f"{variable}{shown}: {message} (environment)"
        return f"{variable}{shown}: {message} ({env_file}, line {stored[variable].line})"

    def _absolute(self, overrides: Mapping[str, object], home: Path) -> dict[str, object]:
        """What the environment gives by a path that is relative to the caller's folder, and a relative contract.

        Every process of the platform has a working folder of its own, so a relative path would mean another in each.
        A relative path in ``.env`` is below the home.
        """
        update: dict[str, object] = {}
        for name in (*FOLDERS, "contract"):
            text, called = str(getattr(self, name)), bool(os.environ.get(f"APEX_{name.upper()}"))
            if (
                name in overrides
                or not text
                or "://" in text
                or text.startswith("file:")
                or not (called or name == "contract")
            ):
                continue
            path = (Path.cwd() if called else home) / Path(text).expanduser()
            if str(path) != text:
                update[name] = path if name == "contract" else str(path)
        return update

    def _folder(self, url: str, *default: str) -> str:
        """A folder by its URL or path; an empty one is a folder of the home, where a relative one lies, too."""
        return (
            url
            if "://" in url or url.startswith("file:")
            else str(self.home / (Path(url).expanduser() if url else Path(*default)))
        )

    def _contradictions(self) -> Iterator[str]:
        """What is wrong with settings that are each right alone, and with the folders they name."""
        if self.home.exists() and not self.home.is_dir():
            yield f"APEX_HOME={self.home}: is a file; name a folder"
        if found := re.search(r"""["\n\r*?\[]| [;#]|'$|^~""", str(self.home)):
            # supervisor's configuration cannot hold them, and DuckDB takes them for a pattern
            yield f"APEX_HOME={self.home}: a path with {found[0]!r} cannot be used; rename the folder, or set another"
        ports: dict[int, str] = {}
        for name in PORTS:
            port = getattr(self, name)
            if port in ports and not self._elsewhere(name) and not self._elsewhere(ports[port]):
                yield f"APEX_{name.upper()}={port}: is also APEX_{ports[port].upper()}; give each service its own"
            ports.setdefault(port, name)
        if self.quality_worse_weeks > self.quality_of_weeks:
            yield (
                f"APEX_QUALITY_WORSE_WEEKS={self.quality_worse_weeks}: is more than"
                f" APEX_QUALITY_OF_WEEKS={self.quality_of_weeks}, so nothing would ever trigger a retraining"
            )

    def _elsewhere(self, port: str) -> bool:
        """Whether the service of a port is not run by this platform."""
        others = {
            "pg_port": self.pg_host or self.database_url,
            "mlflow_port": self.mlflow_tracking_uri,
            "airflow_port": self.airflow_url,
            "serving_port": not self.serving,
        }
        return bool(others[port])

    # derived locations: an empty setting means the embedded default
    @property
    def state(self) -> Path:
        """State of the embedded platform."""
        return self.home / ".apex"

    @property
    def logs(self) -> Path:
        """Logs of services and steps."""
        return self.home / "logs"

    @property
    def raw(self) -> str:
        """URL of the raw files."""
        return self._folder(self.raw_url, "data", "raw")

    @property
    def processed(self) -> str:
        """URL of the steps' outputs."""
        return self._folder(self.processed_url, "data", "processed")

    @property
    def drops(self) -> str:
        """URL of the folder with inbox/, done/ and quarantine/."""
        return self._folder(self.drops_url, "data", "drops")

    @property
    def tracking_uri(self) -> str:
        """URL of the MLflow server."""
        return self.mlflow_tracking_uri or f"http://{self.host}:{self.mlflow_port}"

    @property
    def mlflow_address(self) -> str:
        """MLflow's address for people, without a slash at its end."""
        return (self.mlflow_public_url or self.tracking_uri).rstrip("/")

    @property
    def airflow(self) -> str:
        """URL of the Airflow API server."""
        return self.airflow_url or f"http://{self.host}:{self.airflow_port}"

    @property
    def airflow_address(self) -> str:
        """Airflow's address for people, without a slash at its end."""
        return (self.airflow_public_url or self.airflow).rstrip("/")

    @property
    def serving_address(self) -> str:
        """Address that the online service binds to."""
        return self.serving_host or self.host

    @property
    def serving_url(self) -> str:
        """URL of the online service, as seen from this machine."""
        # an address that stands for all of them is no address to call
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.serving_address, self.serving_address)
        return f"http://[{host}]:{self.serving_port}" if ":" in host else f"http://{host}:{self.serving_port}"

    @property
    def serving_for_people(self) -> str:
        """The online service's address for people, without a slash at its end."""
        return (self.serving_public_url or self.serving_url).rstrip("/")

    def postgres_url(self, role: str, password: SecretStr, database: str, driver: str = "postgresql") -> str:
        """URL of a database of the platform's Postgres, password quoted."""
        secret = quote(password.get_secret_value(), safe="")
        return f"{driver}://{role}:{secret}@{self.pg_host or self.host}:{self.pg_port}/{database}"

    @property
    def writer_url(self) -> str:
        """libpq URL of the apex database as role apex_writer."""
        url = self.database_url or self.postgres_url("apex_writer", self.pg_writer_password, "apex")
        return url.replace("postgresql+psycopg2://", "postgresql://")

    @property
    def reader_url(self) -> str:
        """libpq URL of the apex database as role apex_reader."""
        url = self.reader_database_url or self.postgres_url("apex_reader", self.pg_reader_password, "apex")
        return url.replace("postgresql+psycopg2://", "postgresql://")


def nearest(name: str, cutoff: float = 0.0) -> str | None:
    """The variable whose name is most like another one.

    >>> nearest("APEX_TRAILS"), nearest("APEX_SOMETHING_ELSE", SURELY_MEANT)
    ('APEX_TRIALS', None)
    """
    bare = name.upper().removeprefix("APEX_")
    found = difflib.get_close_matches(bare, [field.upper() for field in Settings.model_fields], 1, cutoff)
    return f"APEX_{found[0]}" if found else None


def _is_variable(name: str) -> bool:
    """Whether a name with the prefix is a setting, or known to be none."""
    field = name.removeprefix("APEX_")
    return (field.isupper() and field.lower() in Settings.model_fields) or bool(OTHER_VARIABLES.fullmatch(name))


def _unknown_names(stored: Mapping[str, EnvValue], env_file: Path, home: Path) -> Iterator[str]:
    """Names in ``.env`` that are no settings; the file is this project's, so each is an error."""
    for name, value in stored.items():
        if not name.upper().startswith("APEX_"):
            continue
        where = f"{env_file}, line {value.line}"
        if not _is_variable(name):
            yield f"{name} is no setting; did you mean {nearest(name)}? `apex settings` lists all ({where})"
        elif name == "APEX_HOME" and value.text and env_file == home / ".env":
            if Path(value.text).expanduser().resolve() != home:
                yield f"APEX_HOME={value.text!r}: names the folder of this file: give it in the environment ({where})"
        elif name == "APEX_ENV_FILE" and value.text and Path(value.text).expanduser().absolute() != env_file:
            yield f"APEX_ENV_FILE={value.text!r}: names this file: give it in the environment ({where})"


def _misspelt_variables() -> Iterator[str]:
    """Variables of the environment that are no settings and look like one; what is unlike all is another tool's."""
    for name in sorted(os.environ):
        if not name.upper().startswith("APEX_") or _is_variable(name) or not os.environ[name]:
            continue
        if meant := nearest(name, SURELY_MEANT):
            yield f"{name} is no setting; did you mean {meant}? `apex settings` lists all (environment)"
        else:
            _report_unknown(name)


@functools.cache
def _report_unknown(name: str) -> None:
    """Say once a process that a variable is not read."""
    logger.warning("%s is no setting of Apex and is not read; the nearest is %s (environment)", name, nearest(name))
