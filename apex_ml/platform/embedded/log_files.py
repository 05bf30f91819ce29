"""The logs of services and steps, by name."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import NoReturn

from apex_ml.errors import ConfigError
from apex_ml.platform.embedded.paths import service_log
from apex_ml.platform.embedded.supervision import services
from apex_ml.settings import Settings


def log_files(settings: Settings) -> dict[str, Path]:
    """Every log by name: those of the services, existing or not, then all others in logs/."""
    logs = {name: service_log(settings, name) for name in services(settings)}
    if settings.logs.is_dir():
        logs |= {path.stem: path for path in sorted(settings.logs.glob("*.log")) if path.stem not in logs}
    return logs


def task_logs(settings: Settings) -> Path:
    """The folder with the logs of Airflow's tasks, one file per try."""
    return settings.logs / "airflow"


def log_file(settings: Settings, name: str) -> Path:
    """The log with a name; ``scheduler`` means ``airflow-scheduler``.

    Raises ConfigError that lists the names, or says that nothing was written yet.
    """
    files = log_files(settings)
    path = files.get(name) or files.get(f"airflow-{name}")
    if path is None:
        raise ConfigError(
            f"no log is named {name!r}; there are: {', '.join(files)}; the log of each task is a file below"
            f" {task_logs(settings)}"
        )
    if not path.exists():
        raise ConfigError(f"{path} is not there yet: {name} was never started here; `apex up` starts it")
    return path


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, without line ends."""
    with path.open(errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=count)]


def follow(path: Path, count: int) -> NoReturn:
    """Replace this process by `tail -F`, which also follows a rotated log."""
    os.execvp("tail", ["tail", "-n", str(count), "-F", str(path)])
