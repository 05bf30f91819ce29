"""The file ``<home>/.env``: generated secrets, and remembered settings."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import SecretStr

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.api_keys import make_key
from apex_ml.env_syntax import decode_env, format_value, nonempty, parse_env, read_env_file
from apex_ml.errors import ConfigError
from apex_ml.pipeline_values import FORMER, FORMER_CONTRACT, override_variable
from apex_ml.setting_sources import variable_of
from apex_ml.settings import Settings

HEADER = "# Made by `apex up`; git-ignored, mode 0600. Values here are never changed; missing secrets are added.\n"


def _token() -> str:
    return secrets.token_urlsafe(32)


def _fernet_key() -> str:
    """A key for cryptography's Fernet: 32 random bytes in url-safe base64, with padding."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


# passwords that users type are shorter than those for programs
SECRETS: dict[str, Callable[[], str]] = {
    "pg_admin_password": _token,
    "pg_airflow_password": _token,
    "pg_mlflow_password": _token,
    "pg_writer_password": _token,
    "pg_reader_password": _token,
    "airflow_admin_password": lambda: secrets.token_urlsafe(16),
    "airflow_viewer_password": lambda: secrets.token_urlsafe(16),
    "airflow_jwt_secret": lambda: secrets.token_urlsafe(64),
    "airflow_secret_key": _token,
    "airflow_fernet_key": _fernet_key,
}


CONTAINER_SECRETS: dict[str, Callable[[], str]] = {
    "mlflow_admin_password": lambda: secrets.token_urlsafe(16),
    "mlflow_password": _token,
    "mlflow_secret_key": _token,
    "redis_password": _token,
    "serving_key": lambda: make_key()[0],
}
"""Additional secrets of the platform in containers."""


def completed(text: str) -> str:
    """Return the text of an ``.env`` with every secret that the platform in containers needs; none is changed.

    >>> made = completed("APEX_PG_ADMIN_PASSWORD=mine")
    >>> made.splitlines()[0], "APEX_REDIS_PASSWORD=" in made, completed(made) == made
    ('APEX_PG_ADMIN_PASSWORD=mine', True, True)
    """
    known = nonempty(parse_env(text, ".env"))
    generators = {variable_of(name): make for name, make in (SECRETS | CONTAINER_SECRETS).items()}
    lines = [f"{name}={make()}\n" for name, make in generators.items() if name not in known]
    return text if not lines else (text or HEADER).rstrip("\n") + "\n" + "".join(lines)


def file_values(settings: Settings) -> dict[str, str]:
    """The values in ``.env`` by variable; empty values and a missing file count as absent."""
    return nonempty(read_env_file(settings.env_file))


def ensure_env(settings: Settings) -> Settings:
    """Return the settings with every secret set, making the missing ones once in ``.env``.

    Safe to call at the same time from several processes: all get the same secrets. An existing value is never
    changed; a secret that the environment gives is used and not written. Raises ConfigError when ``.env`` cannot be
    written, and TransientError when the disk is full.
    """
    with _locked(settings):
        known = file_values(settings)
        update: dict[str, SecretStr] = {}
        lines: list[str] = []
        for name, make in SECRETS.items():
            if getattr(settings, name).get_secret_value():
                continue
            value = known.get(variable_of(name))
            if value is None:
                value = make()
                lines.append(f"{variable_of(name)}={value}\n")
            update[name] = SecretStr(value)
        text = _text(settings)
        if lines:
            _write(settings, text.rstrip("\n") + "\n" + "".join(lines))
        elif settings.env_file.exists() and settings.env_file.stat().st_mode & 0o077:
            settings.env_file.chmod(0o600)
    return settings.model_copy(update=update)


def remember(settings: Settings, name: str, value: str) -> Settings:
    """Set one setting in ``.env``, keeping every other line, and return the settings with it.

    ``name`` is the field or its variable (``pg_port`` or ``APEX_PG_PORT``). Refuses an unknown name, a value of
    several lines and a value the setting does not accept with ConfigError.
    """
    field = name.lower().removeprefix("apex_")
    if field not in Settings.model_fields:
        raise ConfigError(f"{name} is not a setting; `apex settings` lists them")
    accepted = getattr(Settings.load(**{"home": settings.home, "env_file": settings.env_file, field: value}), field)
    replace_variables(settings, (), {variable_of(field): value})
    return settings.model_copy(update={field: accepted})


def remember_option(settings: Settings, pipeline: str, section: str, key: str, value: str) -> Settings:
    """Set the variable that replaces an option of a pipeline in ``.env``, and return the settings with it.

    A variable of the first edition for that option is removed. Refuses a value of several lines with ConfigError.
    """
    variable = override_variable(pipeline, section, key)
    former = [name for name, place in FORMER.items() if place == (section, key)]
    replace_variables(settings, former, {variable: value})
    return settings.with_pipeline_values(pipeline, **{f"{section}__{key}": value})


def remember_former_contract(settings: Settings, file: Path) -> None:
    """Set the variable of the first edition for the pipeline's file in ``.env``."""
    replace_variables(settings, (), {FORMER_CONTRACT: str(file)})


def replace_variables(settings: Settings, remove: Sequence[str], add: Mapping[str, str]) -> None:
    """Remove the lines of variables from ``.env`` and set others, in one write; every other line stays.

    Raises ConfigError for a value of several lines.
    """
    for name, value in add.items():
        if "\n" in value or "\r" in value:
            raise ConfigError(f"{name}: a value in .env must be one line, got {value!r}")
    with _locked(settings):
        text = _text(settings)
        changed = text
        for name in remove:
            changed = _lines_of(name).sub("", changed)
        for name, value in add.items():
            changed = _with_line(changed, name, value)
        if changed != text:
            _write(settings, changed)


def _with_line(text: str, variable: str, value: str) -> str:
    """The text with a variable set on its first line, or on a new one."""
    line, pattern = f"{variable}={format_value(value)}\n", _lines_of(variable)
    first = pattern.search(text)
    if first is None:
        return text.rstrip("\n") + "\n" + line
    return text[: first.start()] + line + pattern.sub("", text[first.end() :])


def _lines_of(variable: str) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*(?:export[ \t]+)?{variable}[ \t]*=.*(?:\n|\Z)", re.MULTILINE)


def _text(settings: Settings) -> str:
    """The text of ``.env``, or the first line of one to come."""
    if not settings.env_file.exists():
        return HEADER
    text = decode_env(settings.env_file.read_bytes(), str(settings.env_file))
    return text.replace("\r\n", "\n").replace("\r", "\n")


@contextlib.contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
        handle = os.open(settings.state / "env.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write into APEX_HOME={settings.home}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(settings: Settings, text: str) -> None:
    """Replace ``.env`` in one step: a reader sees the old file or the new one, and other users can read neither."""
    try:
        write_atomically(settings.env_file, text.encode(), mode=0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {settings.env_file}: {error.strerror}") from error
