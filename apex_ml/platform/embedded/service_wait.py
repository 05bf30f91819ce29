"""Wait until services are healthy; the error of one that is not shows the end of its log."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from apex_ml.errors import ConfigError, TransientError
from apex_ml.platform.embedded import health
from apex_ml.platform.embedded.paths import service_log
from apex_ml.platform.embedded.progress import Phases
from apex_ml.platform.embedded.supervisor_client import Supervisor
from apex_ml.settings import Settings

HEALTHY_SECONDS = 180


def wait_until_healthy(settings: Settings, supervisor: Supervisor, mine: tuple[str, ...], phases: Phases) -> None:
    """Wait until these services answer. Raises ConfigError for one that does not start, TransientError after 180 s."""
    begin = time.monotonic()
    waiting = list(mine)
    with phases.waiting(lambda: waiting):
        while waiting:
            states = supervisor.states()
            for name in waiting:
                if states[name].state == "FATAL":
                    raise ConfigError(_failure(settings, name, "does not start"))
            running = [name for name in waiting if states[name].state == "RUNNING"]
            healths = health.check(settings, running)
            for name in running:
                if name in healths and healths[name].ok:
                    waiting.remove(name)
                    phases.done(name, time.monotonic() - begin)
            if waiting and time.monotonic() - begin > HEALTHY_SECONDS:
                detail = healths[waiting[0]].detail if waiting[0] in healths else states[waiting[0]].why
                raise TransientError(_failure(settings, waiting[0], f"is not healthy: {detail}"))
            if waiting:
                time.sleep(0.3)


def wait_for_service(settings: Settings, service: str, wait: Callable[[], None]) -> None:
    """Call `wait`, and add the end of the service's log to its TransientError."""
    try:
        wait()
    except TransientError as error:
        raise TransientError(_failure(settings, service, str(error))) from error


def _failure(settings: Settings, service: str, what: str) -> str:
    log = service_log(settings, service)
    return f"{service} {what}\nlog: {log}\n{last_lines(log)}"


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, indented."""
    if not log.exists():
        return "(no log)"
    return "\n".join("  " + line for line in log.read_text(errors="replace").splitlines()[-count:])
