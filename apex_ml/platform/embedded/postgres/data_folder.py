"""The data folder of the embedded server: made by initdb, checked, and with the superuser's present password."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import tempfile
from pathlib import Path

from apex_ml.adapters.postgres.administration import password_statement
from apex_ml.errors import ConfigError
from apex_ml.platform.embedded.paths import private_folder, temporary_root
from apex_ml.platform.embedded.postgres.account import last_lines, run_as, write_as
from apex_ml.platform.embedded.postgres.process import is_running
from apex_ml.platform.embedded.postgres.server import ADMIN, Server, locate_server
from apex_ml.settings import Settings


def prepare_server(settings: Settings) -> Server:
    """Choose the folders, make the OS user and the data folder when missing, and return the server, not started.

    Safe to rerun, also after an ``initdb`` that was killed half way. Raises ConfigError when the OS user cannot be
    made or the data belongs to another user or another major version.
    """
    server = locate_server(settings, make=True)
    if not (server.data / "PG_VERSION").exists():
        _initialize(settings, server)
    _refuse_foreign(server)
    _write_hba(settings, server)
    _reset_admin_password(settings, server)
    private_folder(server.socket, server.account.pw_uid if server.account else None)
    return server


def _initialize(settings: Settings, server: Server) -> None:
    """Make the data folder beside its place and move it there when whole."""
    account = server.account
    half = server.base / "data.new"
    shutil.rmtree(half, ignore_errors=True)
    if server.data.exists():
        if any(server.data.iterdir()):
            raise ConfigError(f"{server.data} holds something that is not a Postgres data folder: move it away")
        server.data.rmdir()
    private_folder(half, account.pw_uid if account else None)
    handle, password_file = tempfile.mkstemp(dir=temporary_root())
    try:
        with os.fdopen(handle, "w") as file:
            file.write(settings.pg_admin_password.get_secret_value() + "\n")
        if account:
            os.chown(password_file, account.pw_uid, account.pw_gid)
        command = [str(server.binaries / "initdb"), "-D", str(half), "-U", ADMIN, f"--pwfile={password_file}"]
        # the order of libc's C.UTF-8, but an index of texts is built in half the time
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        done = run_as(command, account)
    finally:
        os.unlink(password_file)
    if done.returncode != 0:
        raise ConfigError(f"initdb failed in {half}: {last_lines(done.stderr or done.stdout)}")
    _stamp_admin_password(settings, half, account)
    half.rename(server.data)


def _refuse_foreign(server: Server) -> None:
    owner = server.data.stat().st_uid
    expected = server.account.pw_uid if server.account else os.geteuid()
    if owner != expected:
        raise ConfigError(
            f"{server.data} belongs to user id {owner}, and Postgres would run as {expected}: "
            f"run as the user who made it, or `chown -R {expected} {server.data}`"
        )
    major = (server.data / "PG_VERSION").read_text().strip()
    if major != "18":
        raise ConfigError(f"{server.data} is of PostgreSQL {major}, the installed one is 18: dump and restore it")


def _write_hba(settings: Settings, server: Server) -> None:
    """Let the superuser log in by the socket only, and everybody else by password from the addresses that reach us."""
    addresses = ["127.0.0.1/32", "::1/128"]
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        addresses.append("all")
    lines = ["# written by `apex up`", "local all all scram-sha-256", f"host all {ADMIN} all reject"]
    lines += [f"host all all {address} scram-sha-256" for address in addresses]
    write_as(server.data / "pg_hba.conf", "\n".join(lines) + "\n", server.account)


def _reset_admin_password(settings: Settings, server: Server) -> None:
    """Give the superuser the password of ``.env``, when it had another before. Needs the server stopped.

    Nobody can log in with a password that was lost with its ``.env``, so the server's single-user mode sets it.
    """
    stamp = server.data / "apex_admin.sha256"
    if (stamp.exists() and stamp.read_text() == _admin_digest(settings)) or is_running(server):
        return
    statement = password_statement(ADMIN, settings.pg_admin_password.get_secret_value())
    command = [str(server.binaries / "postgres"), "--single", "-D", str(server.data)]
    command += ["-c", "log_min_error_statement=panic", "postgres"]
    done = run_as(command, server.account, stdin=statement)
    if done.returncode != 0 or "ERROR:" in done.stderr:
        raise ConfigError(f"cannot set the password of {ADMIN} in {server.data}: {last_lines(done.stderr)}")
    _stamp_admin_password(settings, server.data, server.account)


def _admin_digest(settings: Settings) -> str:
    return hashlib.sha256(settings.pg_admin_password.get_secret_value().encode()).hexdigest()


def _stamp_admin_password(settings: Settings, data: Path, account: pwd.struct_passwd | None) -> None:
    write_as(data / "apex_admin.sha256", _admin_digest(settings), account)
