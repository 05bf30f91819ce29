"""Kill services of a running platform with SIGKILL, while a step is halted at a fault point."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from apex_ml.faults import HALT
from apex_ml.platform.embedded import supervision, supervisor_client
from apex_ml.settings import Settings


def halted_step(settings: Settings) -> psutil.Process | None:
    """The scoring step of this home that is halted at a fault point."""
    result = psutil.process_iter(["status", "cmdline"])
    halted = (p for p in result if p.info["status"] == psutil.STATUS_STOPPED and "score" in (p.info["cmdline"] or []))
    return next((p for p in halted if p.environ().get("APEX_HOME") == str(settings.home)), None)


@contextmanager
def fault_for_steps(settings: Settings, point: str) -> Iterator[None]:
    """While the block runs, every step of Airflow that begins is to halt at a fault point."""
    before = settings.env_file.read_text()
    settings.env_file.write_text(f"{before}\nAPEX_FAULT={point}{HALT}\n")
    try:
        yield
    finally:
        settings.env_file.write_text(before)


def kill_service(settings: Settings, name: str) -> None:
    """End a service as by kill -9; of MLflow also the process that answers."""
    service = psutil.Process(supervisor_client.Supervisor(settings).states()[name].pid)
    family = [service, *(service.children(recursive=True) if name == supervision.MLFLOW else [])]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=20)
