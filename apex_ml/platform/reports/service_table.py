"""The table of services that `apex status` shows: state, health, memory, address."""

from __future__ import annotations

import time
from datetime import timedelta

import psutil
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apex_ml.platform.embedded import health
from apex_ml.platform.embedded.supervision import AIRFLOW, MLFLOW, POSTGRES, SERVING, services
from apex_ml.platform.embedded.supervisor_client import State, Supervisor
from apex_ml.settings import Settings


def show_services(settings: Settings, console: Console) -> bool:
    """Print a table of the services; return whether all are well."""
    supervisor = Supervisor(settings)
    states = supervisor.states() if supervisor.running() else {}
    mine = services(settings)
    if not mine:
        return _show_elsewhere(settings, console)
    healths = health.check(settings, [name for name in mine if states.get(name) and states[name].state == "RUNNING"])
    table = Table(header_style="dim", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("service", "state", "pid", "uptime", "health", "memory", "address"):
        table.add_column(name, overflow="fold", no_wrap=name not in ("health", "address"))
    addresses = {
        POSTGRES: f"{settings.host}:{settings.pg_port}",
        MLFLOW: settings.tracking_uri,
        AIRFLOW[0]: settings.airflow,
        SERVING: settings.serving_for_people,
    }
    total = 0
    well = True
    for name in mine:
        state = states.get(name)
        result = healths.get(name, health.Health(False, "down"))
        memory = memory_of(state.pid) if state and state.pid else 0
        total += memory
        well &= bool(result.ok)
        table.add_row(
            name,
            state.state.lower() if state else "down",
            str(state.pid) if state and state.pid else "",
            _uptime(state),
            Text("ok" if result.ok else result.detail),
            f"{memory >> 20} MiB" if memory else "",
            addresses.get(name, ""),
        )
    if total:
        table.add_section()
        table.add_row("", "", "", "", "", f"{total >> 20} MiB", "")
    console.print(table)
    if not states:
        console.print("The platform is down: `make up` or `apex up` brings it up.", markup=False)
    return well


def _show_elsewhere(settings: Settings, console: Console) -> bool:
    """Print the health of services that others run; return whether all are well."""
    addresses = dict.fromkeys(AIRFLOW, settings.airflow_address) | {MLFLOW: settings.mlflow_address}
    if settings.serving:
        addresses[SERVING] = settings.serving_for_people
    healths = health.check(settings, list(addresses))
    table = Table(header_style="dim", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("service", "health", "address"):
        table.add_column(name, overflow="fold")
    for name, address in addresses.items():
        table.add_row(name, Text("ok" if healths[name].ok else healths[name].detail), address)
    console.print(table)
    return all(result.ok for result in healths.values())


def memory_of(pid: int) -> int:
    """Bytes that a process and its descendants use; pages they share count once, where the system can tell."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    for process in family:
        try:
            full = process.memory_full_info()
            total += getattr(full, "pss", full.rss)
        except psutil.Error:
            continue
    return total


def _uptime(state: State | None) -> str:
    if state is None or state.state != "RUNNING":
        return ""
    return str(timedelta(seconds=max(0, int(time.time() - state.since))))
