"""Paths of the embedded platform: short socket folders, configuration, logs, the names of a home."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from apex_ml.errors import ConfigError
from apex_ml.settings import Settings

# the kernel allows 107 bytes for a socket path; servers add a suffix while they create it
SOCKET_PATH_LIMIT = 90


def home_hash(settings: Settings) -> str:
    """A short name of this home, for files outside it."""
    return hashlib.sha256(str(settings.home).encode()).hexdigest()[:12]


def temporary_root() -> Path:
    """The system's temporary folder, independent of TMPDIR: `up` and `down` must agree on it."""
    return Path("/tmp") if os.path.isdir("/tmp") else Path(tempfile.gettempdir())


def short_folder(preferred: Path, socket_name: str, fallback: str) -> Path:
    """``preferred``, or a folder of the temporary root when a socket's path in the former would be too long."""
    if len(str(preferred / socket_name)) <= SOCKET_PATH_LIMIT:
        return preferred
    return temporary_root() / fallback


def private_folder(folder: Path, uid: int | None = None) -> Path:
    """Make the folder with mode 0700 for one user (by default the caller).

    Raises ConfigError when something else is already there: a link, a file, another user's folder.
    """
    owner = os.geteuid() if uid is None else uid
    try:
        folder.mkdir(parents=True, mode=0o700)
        if uid is not None:
            os.chown(folder, uid, -1)
    except FileExistsError:
        pass
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner:
        raise ConfigError(f"{folder} is not a folder of user id {owner}: remove it and run again")
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def run_folder(settings: Settings) -> Path:
    """Folder of supervisor's socket and pid; the working folder of every program, by which strays are recognised."""
    return short_folder(settings.state / "run", "supervisor.sock", f"apex-{home_hash(settings)}")


def supervisor_socket(settings: Settings) -> Path:
    """Unix socket of this home's supervisor."""
    return run_folder(settings) / "supervisor.sock"


def supervisor_config(settings: Settings) -> Path:
    """Supervisor's configuration; it holds secrets, so its mode is 0600."""
    return settings.state / "supervisord.conf"


def service_log(settings: Settings, service: str) -> Path:
    """Log of a service."""
    return settings.logs / f"{service}.log"
