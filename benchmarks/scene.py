"""Shared resources of measurements: raw files, throwaway platforms and clones. All are removed at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from apex_ml.platform.embedded import start, stop
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.throwaway_home import free_ports, open_folder

APEX = (sys.executable, "-c", "from apex_ml.cli.main import main; main()")
NOT_INHERITED = ("APEX_", "MAKE", "MFLAGS", "VIRTUAL_ENV", "PYTHON")


class CommandError(Exception):
    """A measured command failed; the text is the end of its output."""


@dataclass(frozen=True)
class Ended:
    """Result of a measured process: wall and CPU seconds, peak MiB of the process itself, and its output."""

    seconds: float
    peak_mib: float
    output: str
    cpu_seconds: float

    @property
    def result(self) -> dict[str, Any]:
        """The APEX_RESULT line of a step."""
        marked = [line for line in self.output.splitlines() if line.startswith("APEX_RESULT ")]
        content: dict[str, Any] = json.loads(marked[-1].split(" ", 1)[1])
        return content


def clean_environment(**extra: str) -> dict[str, str]:
    """The caller's environment without the developer's settings and without make's, about the pipeline orders."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(NOT_INHERITED)}
    return kept | {"APEX_PIPELINE": "orders"} | extra


def run_measured(command: Sequence[str], env: Mapping[str, str]) -> Ended:
    """Run a command to its end. Raises CommandError with the end of its output when it does not exit with 0.

    A small separate process starts the command, because the kernel counts the memory of the forking parent in the
    child's peak.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".json") as report:
        stub = [sys.executable, "-I", "-S", str(Path(__file__).with_name("rusage.py")), report.name, *command]
        with own_group(stub, env=env, cwd=CODE_ROOT) as process:
            output, _ = process.communicate()
        if process.returncode:
            raise CommandError(f"exit code {process.returncode}: {output.strip()[-1500:]}")
        measured = json.loads(report.read())
    return Ended(measured["seconds"], measured["peak_kib"] / 1024, output, measured["cpu_seconds"])


def run_python(code: str, *arguments: str) -> Ended:
    """Run Python code in a fresh process."""
    return run_measured([sys.executable, "-W", "ignore", "-c", code, *arguments], clean_environment())


@contextlib.contextmanager
def own_group(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a command in its own process group, which always ends with the block."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def destroy(settings: Settings, folder: Path) -> None:
    """Stop a throwaway platform, delete its database, and end all processes from its folder."""
    stop.destroy(settings)
    left = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


@dataclass(frozen=True)
class Home:
    """A throwaway home with Postgres and MLflow, and its environment for the `apex` command."""

    settings: Settings
    env: dict[str, str]

    def apex(self, *arguments: str) -> Ended:
        """Run `apex ARGUMENTS` in a separate process, measured; a step prints its result as for Airflow."""
        return run_measured([*APEX, *arguments], {"APEX_ORIGIN": "http://127.0.0.1:9/benchmark", **self.env})


@dataclass
class Scene:
    """Resources that are created at their first use and end with `stack`."""

    given_raw: Path | None
    stack: ExitStack = field(default_factory=ExitStack)
    given: Mapping[str, str] = field(default_factory=dict)
    """Settings of the home, besides its folder and its ports."""

    @cached_property
    def folder(self) -> Path:
        """A scratch folder."""
        return self.stack.enter_context(open_folder())

    @cached_property
    def raw(self) -> Path:
        """Folder of raw files: the given one, or 1,250,000 generated rows."""
        if self.given_raw is not None:
            return self.given_raw
        folder = self.stack.enter_context(open_folder()) / "raw"
        run_measured([*APEX, "simulate", "--out", str(folder)], clean_environment())
        return folder

    @cached_property
    def home(self) -> Home:
        """Postgres and MLflow of a separate home; the steps do not need Airflow."""
        folder = self.stack.enter_context(open_folder())
        pg_port, mlflow_port = free_ports(2)
        inputs = {
            "home": folder,
            "pg_port": pg_port,
            "mlflow_port": mlflow_port,
            "airflow_url": "http://127.0.0.1:9",  # a remote address, so that this platform does not run Airflow
            "serving": False,
            "raw_url": str(self.raw),
            **self.given,
        }
        settings = Settings.load(**inputs)
        self.stack.callback(destroy, settings, folder)
        settings = start.up(settings)
        return Home(settings, clean_environment(**{f"APEX_{k.upper()}": str(v) for k, v in inputs.items()}))

    @cached_property
    def chain(self) -> dict[str, Ended]:
        """The first run on the raw files, step by step; afterwards there is a champion."""
        arguments = {"validate": ("--force",), "elt": (), "split": (), "train": (), "promote": ()}
        return {step: self.home.apex(step, "--run", "bench", *more) for step, more in arguments.items()}
