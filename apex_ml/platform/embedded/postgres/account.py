"""The OS account that Postgres runs as, and programs and files of that account."""

from __future__ import annotations

import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.errors import ConfigError

ACCOUNT = "apex-postgres"


def make_account() -> None:
    """Make the OS user, unless it exists. Raises ConfigError when that fails."""
    try:
        pwd.getpwnam(ACCOUNT)
        return
    except KeyError:
        pass
    command = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", "--user-group", ACCOUNT]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ConfigError(f"Postgres refuses to run as root, and useradd is missing: make a user {ACCOUNT}") from error
    if done.returncode not in (0, 9):  # 9: another `up` made it at the same moment
        raise ConfigError(f"cannot make the OS user {ACCOUNT} that Postgres runs as: {done.stderr.strip()}")


def _as_account(account: pwd.struct_passwd | None) -> dict[str, object]:
    """Arguments of subprocess.run for a child of that OS user, without root's groups."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def clean_environment(**extra: str) -> dict[str, str]:
    """An environment without the caller's variables."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", **extra}


def run_as(
    command: list[str],
    account: pwd.struct_passwd | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a program as an OS user (None: the caller), with its output captured."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command,
        check=False,
        capture_output=True,
        text=True,
        input=stdin,
        cwd="/",  # the caller's folder may be closed to the account
        env=environment or clean_environment(),
        **_as_account(account),
    )


def can_run(*command: str) -> bool:
    """Whether the account can run this: it is tried, because computed permissions can be wrong."""
    try:
        return run_as(list(command), pwd.getpwnam(ACCOUNT)).returncode == 0
    except PermissionError:
        return False


def write_as(path: Path, text: str, account: pwd.struct_passwd | None) -> None:
    """Write a file of mode 0600 that belongs to an OS user (None: the caller)."""
    owner = (account.pw_uid, account.pw_gid) if account else None
    write_atomically(path, text.encode(), mode=0o600, owner=owner)


def last_lines(text: str, lines: int = 5) -> str:
    """The last lines of a program's output, in one line."""
    return " | ".join(line.strip() for line in text.strip().splitlines()[-lines:])
