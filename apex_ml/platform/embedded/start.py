"""Bring the embedded platform up and down.

Cold start: secrets → ports → Postgres → databases and roles → Apex's and Airflow's migrations, while MLflow starts →
pools → Airflow → healthy. Everything is safe to rerun; an `up` that was killed half way is finished by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import psutil

from apex_ml.adapters.postgres.administration import airflow_database, airflow_revision
from apex_ml.adapters.storage.drops import Inbox
from apex_ml.adapters.storage.files import map_disk_errors
from apex_ml.errors import ApexError, ConfigError, TransientError
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.airflow_state import make_pools, repair
from apex_ml.platform.embedded import health, postgres
from apex_ml.platform.embedded.env_file import ensure_env
from apex_ml.platform.embedded.environment import airflow_environment, common, inherited, write_airflow_passwords
from apex_ml.platform.embedded.home_record import (
    has_new_contract,
    record_home,
    refuse_contradiction,
    refuse_unusable,
    remember_given,
    unremembered,
)
from apex_ml.platform.embedded.paths import run_folder, service_log, supervisor_config, supervisor_socket
from apex_ml.platform.embedded.ports import check_ports
from apex_ml.platform.embedded.processes import alive, family
from apex_ml.platform.embedded.progress import Phases
from apex_ml.platform.embedded.supervision import (
    AIRFLOW,
    MLFLOW,
    POSTGRES,
    SERVING,
    WATCHDOG,
    encoded,
    programs,
    render,
    services,
)
from apex_ml.platform.embedded.supervisor_client import Supervisor
from apex_ml.setting_sources import variable_of
from apex_ml.settings import Settings

HEALTHY_SECONDS = 180


def up(settings: Settings, phases: Phases | None = None) -> Settings:
    """Bring everything up and return the settings with their secrets, when every service is healthy.

    The services of a platform that is up already are left alone; one that runs with other settings is restarted with
    these. What a person deleted in Airflow is made again in both cases, and so are the folders of the data. Ports,
    contract and model name that were given are remembered in ``.env``. Ctrl-C or a failure takes down what this call
    started. Raises ConfigError for a taken port, another contract or model than the home's, or a failed migration, and
    TransientError with the last lines of its log for a service that does not get healthy. What can be refused is
    refused before anything is stopped.
    """
    phases = phases or Phases()
    refuse_contradiction(settings)
    if services(settings):
        refuse_unusable(settings)
    make_folders(settings)
    if not services(settings):
        phases.say("Every service of this platform runs elsewhere.")
        repair_airflow(settings, phases)
        return settings
    settings = ensure_env(settings)
    with _exclusive(settings, phases):
        supervisor = Supervisor(settings)
        if new := unremembered(settings):
            ours = [process.pid for process in family(settings)]
            check_ports(settings, [name for name in _port_names(services(settings)) if name in new], ours)
            settings = remember_given(settings)
            phases.say(f"Remembered in {settings.env_file}: {', '.join(variable_of(name) for name in new)}")
        if supervisor.running():
            if _as_configured(settings) and _all_well(settings, supervisor):
                phases.say("The platform is up already.")
                if POSTGRES in services(settings):  # the reader's limits may have changed
                    postgres.ensure_databases(settings, postgres.locate(settings))
                repair_airflow(settings, phases)
                record_home(settings)
                return settings
            if not _as_configured(settings):
                ours = [process.pid for process in family(settings)]
                check_ports(settings, _port_names(services(settings)), ours)
                what = "contract has" if has_new_contract(settings) else "settings have"
                phases.say(f"The {what} changed: restarting the platform.")
                _stop(settings)
        started_here = not supervisor.running()
        if started_here:
            _stop(settings)  # what a power cut or a killed supervisor left behind
        ours = [process.pid for process in family(settings)]
        check_ports(settings, _port_names(services(settings)), ours)
        try:
            _start(settings, supervisor, phases)
            record_home(settings)
        except BaseException:
            if started_here:
                phases.say("Taking down what was started.")
                _stop(settings)
            raise
        repair_airflow(settings, phases)
    return settings


def make_folders(settings: Settings) -> None:
    """Make the folders in which drops and raw files arrive; a folder of raw files that a person chose is left alone."""
    Inbox(settings).prepare()
    if not settings.raw_url:
        raw = Path(settings.raw)
        with map_disk_errors(raw.parent):
            raw.mkdir(parents=True, exist_ok=True)


def repair_airflow(settings: Settings, phases: Phases) -> None:
    """Bring the pools and DAGs of the platform's own Airflow back as they were first made."""
    if settings.runtime == "docker" or AIRFLOW[0] in services(settings):
        with AirflowApi(settings) as api:
            repair(settings, api, phases.say)


def down(settings: Settings) -> bool:
    """Stop everything, so that no process of this home is left; return whether anything ran.

    Also removes pid and socket files that a power cut left. Data stays. Raises TransientError when a process
    survives even SIGKILL.
    """
    if not settings.state.exists():
        return False
    with _exclusive(settings, None):
        return _stop(settings)


def destroy(settings: Settings) -> None:
    """Take the platform down and delete its database and all it keeps outside the home; for throwaway platforms."""
    down(settings)
    postgres.remove(settings)
    folder = run_folder(settings)
    for leftover in folder.glob("supervis*"):
        leftover.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def airflow_command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an `airflow` command on this platform; its output is captured."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "airflow"), *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=run_folder(settings),
        env={**inherited(settings), **common(settings), **airflow_environment(settings)},
    )


def _start(settings: Settings, supervisor: Supervisor, phases: Phases) -> None:
    mine = services(settings)
    with phases.phase("PostgreSQL"):
        server = postgres.prepare(settings)
        if not supervisor.running():
            postgres.forget_dead(server)
            write_airflow_passwords(settings)
            supervisor.launch(render(settings, programs(settings, server)))
        if POSTGRES in mine:
            supervisor.start([POSTGRES])
            _patiently(settings, POSTGRES, lambda: postgres.wait_ready(settings, server))
            postgres.ensure_databases(settings, server)
    if MLFLOW in mine:
        supervisor.start([MLFLOW])
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(_migrate_apex, settings, phases)]
        if AIRFLOW[0] in mine:
            jobs.append(pool.submit(_migrate_airflow, settings, phases))
        for job in jobs:
            job.result()
    supervisor.start([name for name in (*AIRFLOW, SERVING) if name in mine])
    _wait_healthy(settings, supervisor, mine, phases)


def _port_names(mine: tuple[str, ...]) -> list[str]:
    names = {"pg_port": POSTGRES, "mlflow_port": MLFLOW, "airflow_port": AIRFLOW[0], "serving_port": SERVING}
    return [name for name, service in names.items() if service in mine]


def _migrate_apex(settings: Settings, phases: Phases) -> None:
    with phases.phase("Apex's tables"):
        from apex_ml.adapters.postgres.migrations import migrate

        migrate(settings)


def _migrate_airflow(settings: Settings, phases: Phases) -> None:
    """Migrate Airflow's database, unless this version did it already, and make the pools."""
    stamp = settings.state / "airflow" / "migrated"
    wanted = version("apache-airflow-core")
    with phases.phase("Airflow's tables"), airflow_database(settings) as connection:
        revision = airflow_revision(connection)
        # the revision is compared too: the database may be an older one than the stamp, after a restore
        if not revision or not stamp.exists() or stamp.read_text() != f"{wanted} {revision}":
            done = airflow_command(settings, "db", "migrate")
            log = service_log(settings, "airflow-migrate")
            log.write_text(done.stdout + done.stderr)
            if done.returncode != 0:
                raise ConfigError(f"`airflow db migrate` failed, see {log}:\n{_last_lines(log)}")
            stamp.write_text(f"{wanted} {airflow_revision(connection)}")
    make_pools(settings)


def _wait_healthy(settings: Settings, supervisor: Supervisor, mine: tuple[str, ...], phases: Phases) -> None:
    begin = time.monotonic()
    waiting = list(mine)
    with phases.waiting(lambda: waiting):
        while waiting:
            states = supervisor.states()
            for name in waiting:
                if states[name].state == "FATAL":
                    raise ConfigError(_failure(settings, name, "does not start"))
            running = [name for name in waiting if states[name].state == "RUNNING"]
            found = health.check(settings, running)
            for name in running:
                if name in found and found[name].ok:
                    waiting.remove(name)
                    phases.done(name, time.monotonic() - begin)
            if waiting and time.monotonic() - begin > HEALTHY_SECONDS:
                detail = found[waiting[0]].detail if waiting[0] in found else states[waiting[0]].why
                raise TransientError(_failure(settings, waiting[0], f"is not healthy: {detail}"))
            if waiting:
                time.sleep(0.3)


def _patiently(settings: Settings, service: str, wait: Callable[[], None]) -> None:
    """Wait for a service; when it does not come, the error shows its log."""
    try:
        wait()
    except TransientError as error:
        raise TransientError(_failure(settings, service, str(error))) from error


def _failure(settings: Settings, service: str, what: str) -> str:
    log = service_log(settings, service)
    return f"{service} {what}\nlog: {log}\n{_last_lines(log)}"


def _last_lines(log: Path, count: int = 15) -> str:
    if not log.exists():
        return "(no log)"
    return "\n".join("  " + line for line in log.read_text(errors="replace").splitlines()[-count:])


def _as_configured(settings: Settings) -> bool:
    """Whether the running platform was started with these settings, this contract and this code."""
    if has_new_contract(settings):  # its tables grow with it, and the online service reads it when it starts
        return False
    try:
        rendered = render(settings, programs(settings, postgres.locate(settings, make=True)))
        return supervisor_config(settings).read_bytes() == encoded(rendered)
    except FileNotFoundError:
        return False


def _all_well(settings: Settings, supervisor: Supervisor) -> bool:
    states = supervisor.states()
    mine = services(settings)
    if any(name not in states or states[name].state != "RUNNING" for name in mine):
        return False
    found = health.check(settings, mine)
    return all(found[name].ok for name in mine)


def _stop(settings: Settings) -> bool:
    members = family(settings)
    supervisor = Supervisor(settings)
    if supervisor.running():
        with contextlib.suppress(ApexError):  # it dies under our hands: what it leaves is ended below
            # the watchdog first, or it would look at what is going away; Postgres last, so that nobody loses it
            supervisor.stop([WATCHDOG, SERVING, MLFLOW, *AIRFLOW])
            supervisor.stop([POSTGRES])
        supervisor.shutdown()
        psutil.wait_procs(members, timeout=5)
    _end(settings, members)
    with contextlib.suppress(ConfigError):
        postgres.forget_dead(postgres.locate(settings))
    for leftover in (supervisor_socket(settings), run_folder(settings) / "supervisord.pid"):
        leftover.unlink(missing_ok=True)
    return bool(members)


def _end(settings: Settings, members: list[psutil.Process]) -> None:
    """See every process out: ask, then kill; look again, for some were born meanwhile."""
    for _ in range(3):
        left = {process.pid: process for process in [*members, *family(settings)] if alive(process)}
        if not left:
            return
        database = _database_family(settings)
        _ask([process for pid, process in left.items() if pid not in database], signal.SIGTERM, patience=8)
        # the server last and by itself: its children end with it, and INT is its fast shutdown
        _ask([process for pid, process in left.items() if pid in database[:1]], signal.SIGINT, patience=60)
        _ask([process for pid, process in left.items() if pid in database[1:]], signal.SIGTERM, patience=5)
    survivors = ", ".join(f"{process.pid} ({process.name()})" for process in family(settings))
    if survivors:
        raise TransientError(f"these processes of the platform do not end: {survivors}")


def _database_family(settings: Settings) -> list[int]:
    """Process ids of the database server, first, and of its children."""
    server = postgres.postmaster(postgres.locate(settings))
    with contextlib.suppress(psutil.NoSuchProcess):
        return [server.pid, *(child.pid for child in server.children(recursive=True))] if server else []
    return []


def _ask(processes: list[psutil.Process], how: signal.Signals, patience: float) -> None:
    """Send a signal, wait, and kill what is left."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    _, left = psutil.wait_procs(processes, timeout=patience)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


@contextlib.contextmanager
def _exclusive(settings: Settings, phases: Phases | None) -> Iterator[None]:
    """One `up` or `down` at a time for a home; another one waits."""
    settings.state.mkdir(parents=True, exist_ok=True)
    handle = os.open(settings.state / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if phases:
                phases.say("Another `apex up` or `apex down` is at work: waiting for it.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
