"""Throwaway homes with free ports, and a throwaway Postgres under supervisor; nothing of them is left behind."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from apex_ml.platform.embedded import stop, supervision, supervisor_client
from apex_ml.platform.embedded.env_file import ensure_env
from apex_ml.platform.embedded.postgres.data_folder import prepare_server
from apex_ml.platform.embedded.postgres.databases import ensure_databases
from apex_ml.platform.embedded.postgres.process import forget_dead_server, wait_until_ready
from apex_ml.platform.embedded.postgres.server import Server, remove_server
from apex_ml.settings import Settings

PORTS = ("pg_port", "mlflow_port", "airflow_port", "serving_port")
SESSION_FOLDER = "APEX_TEST_SESSION_FOLDER"
"""Variable with the folder that goes away with the test run, however the run ends."""


def free_ports(count: int) -> list[int]:
    """Free ports."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def throwaway(home: Path) -> Settings:
    """Settings of a platform of its own."""
    return Settings.load(home=home, **dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))


def ports_of(settings: Settings) -> dict[str, int]:
    """The ports of a platform, as arguments of settings."""
    return {name: getattr(settings, name) for name in PORTS}


@dataclass(frozen=True)
class Database:
    """A running Postgres in a separate home."""

    settings: Settings
    server: Server
    supervisor: supervisor_client.Supervisor


def start_postgres(settings: Settings, stop_seconds: int = 20) -> Database:
    """Bring up Postgres alone, with its databases and roles."""
    server = prepare_server(settings)
    forget_dead_server(server)
    programs = supervision.programs(settings, server, [supervision.POSTGRES])
    programs = [dataclasses.replace(program, stop_seconds=stop_seconds) for program in programs]
    supervisor = supervisor_client.Supervisor(settings)
    supervisor.launch(supervision.render(settings, programs))
    supervisor.start([supervision.POSTGRES])
    wait_until_ready(settings, server)
    ensure_databases(settings, server)
    return Database(settings, server, supervisor)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every OS user can reach; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="apex-test-", dir=os.environ.get(SESSION_FOLDER)))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres(place: str) -> Iterator[Database]:
    """Postgres in an open folder or below one that only its owner can enter."""
    with open_folder() as folder:
        home = folder / "closed" / "home" if place == "closed" else folder / "home"
        home.mkdir(parents=True)
        if place == "closed":
            home.parent.chmod(0o700)
        settings = ensure_env(throwaway(home))
        try:
            yield start_postgres(settings)
        finally:
            stop.destroy(settings)


@dataclass(frozen=True)
class PlainDatabase:
    """A running Postgres in a separate home, without supervisor."""

    settings: Settings
    server: Server
    before: Sequence[str] = ()
    """Beginning of the server's command, for a server in a mount namespace."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start the server, also after a kill, and wait until it answers."""
        account = self.server.account
        drop = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
        command = [*self.server.command(self.settings), "-c", "fsync=off", "-c", "full_page_writes=off"]
        if account and self.before:  # only root may enter the namespace
            drop = {}
            ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
            command = [*self.before, "setpriv", *ids, "--clear-groups", *command]
        log = self.settings.logs / "postgres.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        forget_dead_server(self.server)
        with log.open("ab") as file:
            self.processes.append(
                subprocess.Popen(command, cwd="/", stdout=file, stderr=file, start_new_session=True, **drop)  # type: ignore[call-overload]
            )
        wait_until_ready(self.settings, self.server)

    def move_log(self, place: Path, outside: Path) -> None:
        """Keep the write-ahead log, in segments of a megabyte, at another place: `outside` for this process."""
        self.processes[-1].send_signal(signal.SIGINT)
        self.processes[-1].wait(20)
        account, data = self.server.account, self.server.data
        drop = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
        reset = [str(self.server.binaries / "pg_resetwal"), "--wal-segsize=1", "-D", str(data)]
        subprocess.run(reset, cwd="/", check=True, capture_output=True, **drop)  # type: ignore[call-overload]
        shutil.copytree(data / "pg_wal", outside)
        for path in (outside, *outside.rglob("*")):
            if account:
                os.chown(path, account.pw_uid, account.pw_gid)
        shutil.rmtree(data / "pg_wal")
        (data / "pg_wal").symlink_to(place)
        self.start()

    def kill(self) -> None:
        """End the server and all its processes together with SIGKILL."""
        postmaster = psutil.Process(self.processes[-1].pid)
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.processes[-1].wait(20)
        psutil.wait_procs(family, timeout=20)

    def stop(self) -> None:
        """End the server immediately, without keeping its data."""
        if self.processes and self.processes[-1].poll() is None:
            self.processes[-1].send_signal(signal.SIGQUIT)
            self.processes[-1].wait(20)


@contextmanager
def plain_postgres(before: Sequence[str] = ()) -> Iterator[PlainDatabase]:
    """Postgres as a child of this process; it and its data are gone at the end."""
    with open_folder() as folder:
        home = folder / "home"
        home.mkdir()
        settings = ensure_env(throwaway(home))
        database = PlainDatabase(settings, prepare_server(settings), before)
        try:
            database.start()
            ensure_databases(settings, database.server)
            yield database
        finally:
            database.stop()
            remove_server(settings)
