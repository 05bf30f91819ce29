"""psql of the installed wheel on the apex database, as the reader."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from apex_ml.adapters.postgres.administration import split_url
from apex_ml.adapters.postgres.connection import PLATFORM_SCHEMA, ping_reader, search_path
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.pipeline_settings import pipeline_file, settings_by_pipeline
from apex_ml.platform.embedded.environment import inherited
from apex_ml.platform.embedded.postgres.binaries import wheel_binaries
from apex_ml.settings import Settings

EXIT_CODES = {1: DataError.exit_code, 2: TransientError.exit_code, 3: DataError.exit_code}
"""Exit codes for those of psql: 1 a query, a file or an option failed, 2 the connection broke, 3 a script stopped."""


def psql_call(settings: Settings, arguments: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """The command and its environment. The password is only in the environment, where `ps` does not show it.

    Raises ConfigError when the reader has no password yet, its URL cannot be read, or the named pipeline does not
    exist.
    """
    if not settings.reader_database_url and not settings.pg_reader_password.get_secret_value():
        raise ConfigError(f"role apex_reader has no password in {settings.env_file}: `apex up` makes it")
    try:
        address, password = split_url(settings.reader_url)
    except ConfigError as error:
        raise ConfigError(f"APEX_READER_DATABASE_URL: {error}") from error
    environment = {
        **inherited(settings),
        "PGOPTIONS": search_path(_schema(settings)),
        "PGAPPNAME": "apex sql",
        "PGCONNECT_TIMEOUT": "5",
    }
    if password:
        environment["PGPASSWORD"] = password
    return [str(wheel_binaries() / "psql"), "-X", "-d", address, *arguments], environment


def _schema(settings: Settings) -> str:
    """The schema whose views need no prefix: that of the named pipeline or of the only one, else that of all."""
    if settings.pipeline or len(settings_by_pipeline(settings)) == 1:
        name, _ = pipeline_file(settings)
        return name
    return PLATFORM_SCHEMA


def run_psql(settings: Settings, arguments: Sequence[str]) -> int:
    """Run psql in this terminal; return the exit code of Apex for how it ended.

    Raises as :func:`psql_call` does, and as :func:`~apex_ml.adapters.postgres.connection.ping_reader` when the reader
    cannot connect.
    """
    command, environment = psql_call(settings, arguments)
    ping_reader(settings)
    with subprocess.Popen(command, env=environment) as psql:

        def end(number: int, frame: FrameType | None) -> None:
            psql.terminate()

        def leave_to_psql(number: int, frame: FrameType | None) -> None:
            """Ctrl-C reaches psql too, which cancels the query and may go on."""

        handlers = {
            number: signal.signal(number, handler)
            for number, handler in ((signal.SIGINT, leave_to_psql), (signal.SIGTERM, end))
        }
        try:
            code = psql.wait()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return 128 - code if code < 0 else EXIT_CODES.get(code, code)
