"""All settings of Apex, read from the environment (prefix ``APEX_``) and from ``<home>/.env`` or ``APEX_ENV_FILE``.

The environment is read when ``Settings.load()`` is called, never at import. A variable of the environment wins over the
same name in ``.env``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Hashable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from pydantic import PrivateAttr, SecretStr, ValidationError

from apex_ml.env_syntax import EnvSyntaxError, EnvValue, read_env_file
from apex_ml.errors import ConfigError
from apex_ml.pipeline_values import (
    FORMER_CONTRACT,
    PipelineValue,
    callers_values,
    former_contract,
    given_pipeline_values,
    is_pipeline_argument,
    warn_of_former_contract,
)
from apex_ml.setting_fields import CODE_ROOT, SettingFields
from apex_ml.setting_sources import Given, given_values, misspelt_variables, unknown_names, variable_of
from apex_ml.wording import violated_rule

__all__ = ["CODE_ROOT", "PORTS", "Settings"]

PORTS = ("pg_port", "mlflow_port", "airflow_port", "serving_port")


def _home(given: object) -> Path:
    return Path(str(given or os.environ.get("APEX_HOME") or CODE_ROOT)).expanduser().resolve()


def _former_contract(stored: Mapping[str, EnvValue], home: Path) -> PipelineValue | None:
    """The file that APEX_CONTRACT names. A relative path of ``.env`` is below the home, another below the caller's."""
    if by_shell := os.environ.get(FORMER_CONTRACT):
        return former_contract(Path.cwd() / Path(by_shell).expanduser(), "environment")
    in_file = stored.get(FORMER_CONTRACT)
    return former_contract(home / Path(in_file.text).expanduser(), ".env") if in_file and in_file.text else None


class Settings(SettingFields):
    """The settings of one platform, and the addresses and folders that follow from them.

    Construct it with :meth:`load`, which raises :class:`~apex_ml.errors.ConfigError` when a value is of the wrong type
    or out of range, naming the variable, the value and the rule.
    """

    _clock_offset: timedelta = PrivateAttr(timedelta())
    _pipeline_values: tuple[PipelineValue, ...] = PrivateAttr(())
    _former_contract: PipelineValue | None = PrivateAttr(None)

    @classmethod
    def load(cls, **overrides: object) -> Settings:
        """Read ``.env`` and the environment; keyword arguments win over both.

        The folder that holds ``.env`` is ``APEX_HOME``, by default the checkout; ``APEX_ENV_FILE`` names another file.
        """
        home = _home(overrides.get("home"))
        is_home_of_environment = home == Path(os.environ.get("APEX_HOME") or CODE_ROOT).expanduser().resolve()
        named = overrides.get("env_file") or (is_home_of_environment and os.environ.get("APEX_ENV_FILE"))
        env_file = Path(str(named)).absolute() if named else home / ".env"
        faults: list[str] = []
        try:
            stored = read_env_file(env_file)
        except EnvSyntaxError as error:  # the faults of the other lines are reported with it
            stored = error.values
            faults.append(str(error))
        contract = _former_contract(stored, home)
        if named_file := overrides.pop("contract", None):
            contract = former_contract(Path(str(named_file)), "argument")
        of_pipeline = {name: overrides.pop(name) for name in [*overrides] if is_pipeline_argument(name)}
        if unknown := set(overrides) - set(cls.model_fields):
            raise TypeError(f"no settings: {', '.join(sorted(unknown))}")
        faults += [*unknown_names(stored, env_file, home), *misspelt_variables()]
        given = given_values(stored, env_file)
        values = {field: value.text for field, value in given.items()}
        try:
            loaded = cls(**{**values, **overrides, "home": home, "env_file": env_file})  # type: ignore[arg-type]
        except ValidationError as error:
            faults += [cls._fault(dict(e), overrides, given) for e in error.errors()]
        else:
            loaded = loaded.model_copy(update=loaded._absolute(overrides, home))
            loaded._pipeline_values = (
                *given_pipeline_values(stored, env_file),
                *callers_values(None if contract else loaded.pipeline or None, of_pipeline),
            )
            loaded._former_contract = contract
            if contract and contract.where != "argument":
                warn_of_former_contract(Path(str(contract.value)), contract.where)
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
    def _fault(cls, error: Mapping[str, Any], overrides: Mapping[str, object], given: Mapping[str, Given]) -> str:
        """Say what is wrong with one value and where it stands; a secret is not repeated."""
        name = "_".join(map(str, error["loc"]))
        source = given.get(name) if name not in overrides else None
        variable = source.variable if source else variable_of(name)
        secret = name in cls.model_fields and isinstance(cls.model_fields[name].default, SecretStr)
        hidden = secret or name in ("serving_keys", "database_url", "reader_database_url")
        shown = "" if hidden else f"={error['input']!r}"
        message = violated_rule(error)
        return f"{variable}{shown}: {message}" + (f" ({source.where})" if source else "")

    def _absolute(self, overrides: Mapping[str, object], home: Path) -> dict[str, object]:
        """A relative folder of pipelines that the environment gives is below the caller's folder.

        Every process of the platform has a working folder of its own, so a relative path would mean another in each.
        A relative path in ``.env`` is below the home.
        """
        if "pipelines" in overrides or self.pipelines.is_absolute():
            return {}
        called = bool(os.environ.get("APEX_PIPELINES"))
        return {"pipelines": (Path.cwd() if called else home) / self.pipelines.expanduser()}

    def _contradictions(self) -> Iterator[str]:
        """What is wrong with settings that are each right alone, and with the folders they name."""
        if self.home.exists() and not self.home.is_dir():
            yield f"APEX_HOME={self.home}: is a file; name a folder"
        if match := re.search(r"""["\n\r*?\[]| [;#]|'$|^~""", str(self.home)):
            # supervisor's configuration cannot hold them, and DuckDB takes them for a pattern
            yield f"APEX_HOME={self.home}: a path with {match[0]!r} cannot be used; rename the folder, or set another"
        ports: dict[int, str] = {}
        for name in PORTS:
            port = getattr(self, name)
            if port in ports and not self._elsewhere(name) and not self._elsewhere(ports[port]):
                yield f"APEX_{name.upper()}={port}: is also APEX_{ports[port].upper()}; give each service its own"
            ports.setdefault(port, name)

    def _elsewhere(self, port: str) -> bool:
        """Whether the service of a port is not run by this platform."""
        others = {
            "pg_port": self.pg_host or self.database_url,
            "mlflow_port": self.mlflow_tracking_uri,
            "airflow_port": self.airflow_url,
            "serving_port": not self.serving,
        }
        return bool(others[port])

    def with_clock(self, now: datetime) -> Self:
        """A copy whose clock shows another time from now on; only a simulation passes one.

        The clock keeps running. Steps and the ledger in Postgres take the time from it.
        """
        copy = self.model_copy()
        copy._clock_offset = now - datetime.now(UTC)
        return copy

    def with_pipeline_values(self, pipeline: str | None = None, /, **values: Hashable) -> Self:
        """A copy that replaces values of a pipeline: ``model__trials=3`` is the key trials of the section model.

        It is the named pipeline, or that of the settings; where they name none, all.
        """
        copy = self.model_copy()
        name = pipeline or (None if self._former_contract else self.pipeline or None)
        copy._pipeline_values = (*self._pipeline_values, *callers_values(name, values))
        return copy

    def with_pipeline_file(self, file: Path) -> Self:
        """A copy whose pipeline is in this file, wherever that is."""
        copy = self.model_copy()
        copy._former_contract = former_contract(file, "argument")
        return copy

    def without_environment(self) -> Self:
        """A copy without the values of pipelines that the environment or a caller gives: those of files alone."""
        copy = self.model_copy()
        copy._pipeline_values = tuple(value for value in self._pipeline_values if value.is_stored)
        if self._former_contract and not self._former_contract.is_stored:
            copy._former_contract = None
        return copy

    @property
    def pipeline_values(self) -> tuple[PipelineValue, ...]:
        """Values that replace options of pipelines: of ``.env``, the environment and callers. The last one wins."""
        return self._pipeline_values

    @property
    def former_contract(self) -> Path | None:
        """File of the pipeline by the variable of the first edition, APEX_CONTRACT."""
        return Path(str(self._former_contract.value)) if self._former_contract else None

    @property
    def clock_offset(self) -> timedelta:
        """How far the clock of these settings lies from the machine's; zero outside of a simulation."""
        return self._clock_offset

    def now(self) -> datetime:
        """The time by the clock of these settings, in UTC."""
        return datetime.now(UTC) + self._clock_offset

    # derived locations: an empty setting means the embedded default
    @property
    def state(self) -> Path:
        """State of the embedded platform."""
        return self.home / ".apex"

    @property
    def spool(self) -> Path:
        """Copies of files of object stores."""
        return self.state / "spool"

    @property
    def logs(self) -> Path:
        """Logs of services and steps."""
        return self.home / "logs"

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

    def alert_channel_option(self, channel: str) -> str:
        """The option of an alert channel of your own; empty when it has none."""
        options: dict[str, str] = json.loads(self.alert_channels.get_secret_value() or "{}")
        return options.get(channel, "")

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
