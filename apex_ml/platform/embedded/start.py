"""Start the embedded platform.

Cold start: secrets → ports → Postgres → databases and roles → Apex's and Airflow's migrations, while MLflow starts →
pools → Airflow → healthy. Everything is safe to rerun: the next `up` completes one that was killed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from apex_ml.pipelines import usable_pipelines
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.airflow_state import repair
from apex_ml.platform.data_folders import has_former_folders, make_data_folders, move_former_folders
from apex_ml.platform.embedded import health
from apex_ml.platform.embedded.env_file import ensure_env
from apex_ml.platform.embedded.environment import write_airflow_passwords
from apex_ml.platform.embedded.home_record import (
    has_new_pipeline,
    record_home,
    refuse_contradiction,
    refuse_unusable,
    remember_given,
    unremembered,
)
from apex_ml.platform.embedded.migrate import migrate_airflow, migrate_apex
from apex_ml.platform.embedded.paths import supervisor_config
from apex_ml.platform.embedded.ports import check_ports
from apex_ml.platform.embedded.postgres.data_folder import prepare_server
from apex_ml.platform.embedded.postgres.databases import ensure_databases
from apex_ml.platform.embedded.postgres.process import forget_dead_server, wait_until_ready
from apex_ml.platform.embedded.postgres.server import locate_server
from apex_ml.platform.embedded.processes import family
from apex_ml.platform.embedded.progress import Phases
from apex_ml.platform.embedded.service_wait import wait_for_service, wait_until_healthy
from apex_ml.platform.embedded.stop import stop_everything
from apex_ml.platform.embedded.supervision import (
    AIRFLOW,
    MLFLOW,
    POSTGRES,
    SERVING,
    encoded,
    programs,
    render,
    services,
)
from apex_ml.platform.embedded.supervisor_client import Supervisor
from apex_ml.platform.embedded.up_lock import hold_up_lock
from apex_ml.settings import Settings


def up(settings: Settings, phases: Phases | None = None) -> Settings:
    """Start everything and return the settings with their secrets, when every service is healthy.

    A running platform is not touched; one with other settings is restarted with these. Pools and DAGs that were
    deleted in Airflow are created again in both cases, and so are the folders of the data. Ports,
    contract and model name of the environment are written to ``.env``. Ctrl-C or a failure takes down what this call
    started. Raises ConfigError for a taken port, another contract or model than the home's, or a failed migration, and
    TransientError with the last lines of its log for a service that does not get healthy. Settings, contract and ports
    are checked before anything is stopped: a running platform is not restarted while a pipeline's contract is refused.
    """
    phases = phases or Phases()
    refused = refuse_contradiction(settings)
    for name, fault in refused.items():
        phases.say(f"pipeline {name}: refused: {fault}")
    if services(settings):
        refuse_unusable(settings)
    if not services(settings):
        make_folders(settings, phases)
        phases.say("Every service of this platform runs elsewhere.")
        repair_airflow(settings, phases)
        return settings
    settings = ensure_env(settings)
    with hold_up_lock(settings, phases):
        supervisor = Supervisor(settings)
        make_folders(settings, phases, supervisor)
        settings = _remember(settings, phases)
        if supervisor.running():
            if _as_configured(settings) and _all_well(settings, supervisor):
                phases.say("The platform already runs.")
                if POSTGRES in services(settings):  # the limits of the reader can have changed
                    ensure_databases(settings, locate_server(settings))
                repair_airflow(settings, phases)
                record_home(settings)
                return settings
            if not _as_configured(settings):
                if refused:  # after a restart, what runs of that pipeline could not go on with its file
                    raise next(iter(refused.values()))
                _stop_for_change(settings, phases)
        started_here = not supervisor.running()
        if started_here:
            stop_everything(settings)  # leftovers of a power cut or a killed supervisor
        ours = [process.pid for process in family(settings)]
        check_ports(settings, _port_names(services(settings)), ours)
        try:
            _start(settings, supervisor, phases)
            record_home(settings)
        except BaseException:
            if started_here:
                phases.say("Stopping the started services.")
                stop_everything(settings)
            raise
        repair_airflow(settings, phases)
    return settings


def _remember(settings: Settings, phases: Phases) -> Settings:
    """Write what the environment gives of the home into ``.env``; a port that it changes must be free."""
    if new := unremembered(settings):
        ours = [process.pid for process in family(settings)]
        check_ports(settings, [name for name in _port_names(services(settings)) if name in new], ours)
    settings, written = remember_given(settings)
    if written:
        phases.say(f"Remembered in {settings.env_file}: {', '.join(written)}")
    return settings


def _stop_for_change(settings: Settings, phases: Phases) -> None:
    """Stop a platform that runs with other settings or pipelines, when it can be started with these."""
    ours = [process.pid for process in family(settings)]
    check_ports(settings, _port_names(services(settings)), ours)
    what = "pipelines" if has_new_pipeline(settings) else "settings"
    phases.say(f"The {what} have changed: restarting the platform.")
    stop_everything(settings)


def make_folders(settings: Settings, phases: Phases, supervisor: Supervisor | None = None) -> None:
    """Create the folders of every pipeline.

    Folders of the first edition move first, and the platform is stopped for that.
    """
    if has_former_folders(settings) and supervisor is not None and supervisor.running():
        phases.say("The folders of the data move: stopping the platform.")
        stop_everything(settings)
    for line in move_former_folders(settings):
        phases.say(line)
    for pipeline in usable_pipelines(settings)[0]:
        make_data_folders(settings, pipeline)


def repair_airflow(settings: Settings, phases: Phases) -> None:
    """Restore the pools and DAGs of the platform's own Airflow."""
    if settings.runtime == "docker" or AIRFLOW[0] in services(settings):
        with AirflowApi(settings) as api:
            repair(settings, api, phases.say)


def _start(settings: Settings, supervisor: Supervisor, phases: Phases) -> None:
    mine = services(settings)
    with phases.phase("PostgreSQL"):
        server = prepare_server(settings)
        if not supervisor.running():
            forget_dead_server(server)
            write_airflow_passwords(settings)
            supervisor.launch(render(settings, programs(settings, server)))
        if POSTGRES in mine:
            supervisor.start([POSTGRES])
            wait_for_service(settings, POSTGRES, lambda: wait_until_ready(settings, server))
            ensure_databases(settings, server)
    if MLFLOW in mine:
        supervisor.start([MLFLOW])
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(migrate_apex, settings, phases)]
        if AIRFLOW[0] in mine:
            jobs.append(pool.submit(migrate_airflow, settings, phases))
        for job in jobs:
            job.result()
    supervisor.start([name for name in (*AIRFLOW, SERVING) if name in mine])
    wait_until_healthy(settings, supervisor, mine, phases)


def _port_names(mine: tuple[str, ...]) -> list[str]:
    names = {"pg_port": POSTGRES, "mlflow_port": MLFLOW, "airflow_port": AIRFLOW[0], "serving_port": SERVING}
    return [name for name, service in names.items() if service in mine]


def _as_configured(settings: Settings) -> bool:
    """Whether the running platform was started with these settings, this contract and this code."""
    if has_new_pipeline(settings):  # its tables grow with it, and the online service reads it when it starts
        return False
    try:
        rendered = render(settings, programs(settings, locate_server(settings, make=True)))
        return supervisor_config(settings).read_bytes() == encoded(rendered)
    except FileNotFoundError:
        return False


def _all_well(settings: Settings, supervisor: Supervisor) -> bool:
    states = supervisor.states()
    mine = services(settings)
    if any(name not in states or states[name].state != "RUNNING" for name in mine):
        return False
    checks = health.check(settings, mine)
    return all(checks[name].ok for name in mine)
