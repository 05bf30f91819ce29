"""psql of the installed wheel on the apex database, as the reader."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from apex_ml.adapters.postgres.administration import split_url
from apex_ml.errors import ConfigError
from apex_ml.platform.embedded.environment import inherited
from apex_ml.platform.embedded.postgres.binaries import wheel_binaries
from apex_ml.settings import Settings


def psql_call(settings: Settings, arguments: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """The command and its environment. The password is only in the environment, where `ps` does not show it.

    Raises ConfigError when the reader has no password yet, or its URL cannot be read.
    """
    if not settings.reader_database_url and not settings.pg_reader_password.get_secret_value():
        raise ConfigError(f"role apex_reader has no password in {settings.env_file}: `apex up` makes it")
    try:
        address, password = split_url(settings.reader_url)
    except ConfigError as error:
        raise ConfigError(f"APEX_READER_DATABASE_URL: {error}") from error
    environment = {
        **inherited(settings),
        "PGOPTIONS": "-c search_path=apex",
        "PGAPPNAME": "apex sql",
        "PGCONNECT_TIMEOUT": "5",
    }
    if password:
        environment["PGPASSWORD"] = password
    return [str(wheel_binaries() / "psql"), "-X", "-d", address, *arguments], environment


def become_psql(settings: Settings, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by psql."""
    command, environment = psql_call(settings, arguments)
    os.execve(command[0], command, environment)
