"""Backup of the platform in one file: three databases, MLflow's artifacts, the Data Docs and the data.

The file is the same for the platform of one machine and that in containers, so a backup of one can be brought back on
the other: ``databases/<name>.dump`` by pg_dump, ``files.tar`` and ``manifest.json``.

A backup is taken while everything runs. The databases come first: files are only ever added, so that what a dump
refers to is among the files copied after it. Secrets are not in it; keep ``.env`` by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from apex_ml import __version__
from apex_ml.adapters.postgres.administration import drop_databases, make_readers_of
from apex_ml.adapters.storage.atomic_writes import new_file
from apex_ml.errors import ConfigError, TransientError
from apex_ml.json_text import json_text
from apex_ml.platform.embedded import stop
from apex_ml.platform.embedded.env_file import ensure_env
from apex_ml.platform.embedded.postgres.binaries import wheel_binaries
from apex_ml.platform.embedded.postgres.data_folder import prepare_server
from apex_ml.platform.embedded.postgres.databases import ensure_databases
from apex_ml.platform.embedded.postgres.process import forget_dead_server, superuser_connection, wait_until_ready
from apex_ml.platform.embedded.postgres.server import ADMIN, Server, locate_server
from apex_ml.platform.embedded.supervision import POSTGRES, programs, render, services
from apex_ml.platform.embedded.supervisor_client import Supervisor
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)
DATABASES = ("apex", "mlflow", "airflow")
FORMAT = 1


def folders(settings: Settings) -> dict[str, Path]:
    """The folders in the backup, by their place in ``files.tar``."""
    return {
        "data": settings.home / "data",
        "artifacts": settings.state / "mlflow" / "artifacts",
        "great_expectations": settings.state / "great_expectations",
    }


def backup(settings: Settings, folder: Path) -> Path:
    """Write a backup of the running platform into a folder and return the file, mode 0600.

    A link to a file is stored as that file, and a relative link to a folder of the backup as it is. A link to a folder
    elsewhere, a dead link, a pipe and a device are left out, with a warning for each. Raises ConfigError when the
    databases are run by others or the folder cannot be made, and TransientError when the databases do not answer.
    """
    _refuse_elsewhere(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"TO={folder}: cannot be made: {error.strerror}; name another folder") from error
    created = datetime.now(UTC)
    target = folder / f"apex-{created:%Y%m%dT%H%M%SZ}.tar"
    server = locate_server(settings)
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=folder) as scratch:
        parts: dict[str, Path] = {}
        for name in DATABASES:
            parts[f"databases/{name}.dump"] = dump = Path(scratch) / f"{name}.dump"
            with dump.open("wb") as file:
                _client(settings, server, "pg_dump", "--format=custom", f"--dbname={name}", stdout=file)
        parts["files.tar"] = files = Path(scratch) / "files.tar"
        with tarfile.open(files, "w") as archive:
            for name, source in folders(settings).items():
                if source.is_dir():
                    archive.add(source, name, filter=_storable(archive, source, name))
        manifest = {
            "format": FORMAT,
            "apex": __version__,
            "made_at": created.isoformat(timespec="seconds"),
            "sha256": {name: _sha256(path) for name, path in parts.items()},
        }
        parts["manifest.json"] = about = Path(scratch) / "manifest.json"
        about.write_text(json_text(manifest, indent=1))
        with new_file(target, mode=0o600) as half, tarfile.open(half, "w") as archive:
            for name, path in parts.items():
                archive.add(path, name, filter=_without_owner)
    return target


def restore(settings: Settings, file: Path) -> None:
    """Replace databases and files by those of a backup; the platform is stopped afterwards.

    Raises ConfigError, before any change, for a file that is not a complete backup. The replaced files stay
    in ``<folder>.before``; the replaced databases do not. Links to folders and other entries that are no files are
    left out, with a warning for each.
    """
    _refuse_elsewhere(settings)
    settings = ensure_env(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    with opened(file) as parts, tempfile.TemporaryDirectory(prefix=".restore-", dir=settings.home) as scratch:
        _extract(parts / "files.tar", Path(scratch))
        stop.down(settings)
        with _postgres_alone(settings) as server:
            with contextlib.closing(superuser_connection(settings, server)) as connection:
                drop_databases(connection, DATABASES)
            ensure_databases(settings, server)
            _make_readers(settings, server, parts / "databases" / "apex.dump", Path(scratch))
            for name in DATABASES:
                dump = str(parts / "databases" / f"{name}.dump")
                call = ("--exit-on-error", f"--dbname={name}", dump)
                _client(settings, server, "pg_restore", *call)
        for name, target in folders(settings).items():
            source = Path(scratch) / name
            if not source.is_dir():
                continue
            before = replaced(target)
            shutil.rmtree(before, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rename(before)
            source.rename(target)


def replaced(folder: Path) -> Path:
    """Where a restore leaves the folder that it replaces."""
    return folder.with_name(f"{folder.name}.before")


def _storable(archive: tarfile.TarFile, source: Path, name: str) -> Callable[[tarfile.TarInfo], tarfile.TarInfo | None]:
    """A filter of `archive` that keeps files and folders of `source`, and the file that a link leads to."""

    def keep(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = source / Path(info.name).relative_to(name)
        if info.issym() and path.is_file():
            info = archive.gettarinfo(str(path.resolve()), info.name)
        elif info.issym() and not Path(info.linkname).is_absolute() and _is_within(path, source):
            pass  # the former name of a folder
        elif not (info.isreg() or info.isdir() or info.islnk()):
            kind = f"a link to {info.linkname}" if info.issym() else "neither a file nor a folder"
            logger.warning("left out of the backup: %s is %s; back up what it stands for by itself", path, kind)
            return None
        return _without_owner(info)

    return keep


def _is_within(path: Path, folder: Path) -> bool:
    """Whether a path leads to something that exists below the folder."""
    return path.exists() and path.resolve().is_relative_to(folder.resolve())


def _extract(file: Path, folder: Path) -> None:
    """Unpack the files of a backup; entries that could lead out of the folder are left out, with a warning."""

    def keep(info: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
        try:
            return tarfile.data_filter(info, destination)
        except tarfile.FilterError:
            kind = f"a link to {info.linkname}" if info.issym() else "neither a file nor a folder"
            logger.warning("not restored: %s is %s in the backup; create it again if you need it", info.name, kind)
            return None

    try:
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter=keep)
    except (tarfile.TarError, OSError) as error:
        raise ConfigError(f"{file.name} of the backup cannot be unpacked: {error}; nothing was changed") from error


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Path]:
    """Verify the parts of a backup and unpack it into a folder, which is removed at the end."""
    if not file.is_file():
        raise ConfigError(f"FROM={file}: there is no such file; `make backup` writes one")
    with tempfile.TemporaryDirectory(prefix="apex-restore-") as scratch:
        try:
            with tarfile.open(file) as archive:
                archive.extractall(scratch, filter="data")
            manifest = json.loads((Path(scratch) / "manifest.json").read_text())
        except (tarfile.TarError, OSError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"{file} is no backup of Apex: {first}; give a file that `make backup` wrote") from error
        if manifest.get("format") != FORMAT:
            raise ConfigError(f"{file}: format {manifest.get('format')!r}, this version reads {FORMAT}")
        for name, sha256 in manifest["sha256"].items():
            path = Path(scratch) / name
            if not path.is_file() or _sha256(path) != sha256:
                raise ConfigError(f"{file}: {name} is damaged, its sha256 is not {sha256[:12]}…")
        os.chmod(scratch, 0o700)
        yield Path(scratch)


def _refuse_elsewhere(settings: Settings) -> None:
    if POSTGRES not in services(settings):
        raise ConfigError("the databases are run by others (APEX_PG_HOST, APEX_DATABASE_URL): back them up there")


@contextlib.contextmanager
def _postgres_alone(settings: Settings) -> Iterator[Server]:
    """Run the embedded Postgres without anything that uses it."""
    server = prepare_server(settings)
    forget_dead_server(server)
    supervisor = Supervisor(settings)
    try:
        supervisor.launch(render(settings, programs(settings, server)))
        supervisor.start([POSTGRES])
        wait_until_ready(settings, server)
        yield server
    finally:
        stop.down(settings)


def _make_readers(settings: Settings, server: Server, dump: Path, scratch: Path) -> None:
    """Make the roles that the dump grants views to and that the server lacks."""
    text = scratch / "schema.sql"
    _client(settings, server, "pg_restore", "--schema-only", f"--file={text}", str(dump))
    with contextlib.closing(superuser_connection(settings, server)) as connection:
        make_readers_of(connection, text.read_text(encoding="utf-8"))
    text.unlink()


def _client(settings: Settings, server: Server, program: str, *arguments: str, stdout: object = None) -> None:
    """Run a program of Postgres as its superuser, through the socket."""
    call = [str(wheel_binaries() / program), "--host", str(server.socket), "--port", str(settings.pg_port)]
    call += ["--username", ADMIN, *arguments]
    environment: Mapping[str, str] = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "PGPASSWORD": settings.pg_admin_password.get_secret_value(),
    }
    done = subprocess.run(  # type: ignore[call-overload]
        call, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        down = "; start Postgres with: make up" if "connection to server" in done.stderr else ""
        raise TransientError(f"{program} {arguments[-1]} failed: {done.stderr.strip()[-1000:]}{down}")


def _without_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
