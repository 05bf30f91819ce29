"""One embedded server: where its files are, and the command that runs it."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from apex_ml.errors import ConfigError
from apex_ml.platform.embedded.paths import home_hash, short_folder
from apex_ml.platform.embedded.postgres.account import ACCOUNT, can_run, make_account
from apex_ml.platform.embedded.postgres.binaries import copy_binaries, wheel_binaries
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)

ADMIN = "apex_admin"
OUTSIDE = Path("/var/lib/apex-postgres")

# modest on purpose: the whole platform shares 4 GiB with the steps
OPTIONS: Mapping[str, str] = {
    "shared_buffers": "128MB",
    "max_connections": "100",
    # for the writer alone, so that scoring goes on whatever others open
    "reserved_connections": "10",
    "maintenance_work_mem": "64MB",
    "fsync": "on",
    "synchronous_commit": "on",
    # no replicas: a table filled in the transaction that made it goes to disk once, not twice
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_checkpoints": "off",
}


@dataclass(frozen=True)
class Server:
    """Where one embedded server lives. ``user`` is the OS user it runs as; None means the caller."""

    binaries: Path
    base: Path
    socket: Path
    user: str | None

    @property
    def data(self) -> Path:
        """The data folder, mode 0700, owned by ``user``."""
        return self.base / "data"

    @property
    def account(self) -> pwd.struct_passwd | None:
        """The OS account of ``user``."""
        return pwd.getpwnam(self.user) if self.user else None

    def command(self, settings: Settings) -> list[str]:
        """The command that runs the server in the foreground."""
        options = {
            **OPTIONS,
            "listen_addresses": settings.host,
            "port": str(settings.pg_port),
            "unix_socket_directories": str(self.socket),
        }
        return [
            str(self.binaries / "postgres"),
            "-D",
            str(self.data),
            *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
        ]


def locate_server(settings: Settings, make: bool = False) -> Server:
    """The places of this home's server. With ``make``, missing folders, copies and the OS user are made."""
    inside = settings.state / "postgres"
    note = inside / "LOCATION"
    if make:
        inside.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return Server(wheel_binaries(), inside, _socket_folder(settings, inside), None)
    if make:
        make_account()
    outside = OUTSIDE / home_hash(settings)
    # once made, the place stays: a chmod of a parent must not make the data seem lost
    if (outside / "data" / "PG_VERSION").exists() and note.exists():
        base = outside
    elif (inside / "data" / "PG_VERSION").exists():
        base = inside
        if make and not can_run("test", "-x", str(inside)):
            raise ConfigError(
                f"OS user {ACCOUNT} cannot reach {inside} any more: open a way to it "
                f"(`namei -m {inside}` shows the closed folder), or move the data to {outside}/data"
            )
    elif not make or can_run("test", "-x", str(inside)):
        base = inside
    else:
        base = outside
        base.mkdir(parents=True, exist_ok=True)
        (base / "HOME").write_bytes(os.fsencode(f"Data of the embedded Postgres of {settings.home}\n"))
        note.write_bytes(os.fsencode(f"{base}\n"))
        logger.warning("OS user %s cannot reach %s: the database is kept in %s", ACCOUNT, settings.state, base)
    binaries = wheel_binaries()
    if make and not can_run(str(binaries / "postgres"), "--version"):
        binaries = copy_binaries(outside)
    return Server(binaries, base, _socket_folder(settings, base), ACCOUNT)


def remove_server(settings: Settings) -> None:
    """Delete the data and everything kept outside the home. The server must be stopped."""
    server = locate_server(settings)
    for folder in (server.data, server.base / "data.new", server.socket, OUTSIDE / home_hash(settings)):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        OUTSIDE.rmdir()  # only when no other home uses it


def _socket_folder(settings: Settings, base: Path) -> Path:
    return short_folder(base / "socket", ".s.PGSQL.65535", f"apex-pg-{home_hash(settings)}")
