"""The main job in a fresh clone, as a person runs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apex_ml.settings import CODE_ROOT, Settings
from benchmarks.memory import Peak, sampled_peak
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import CommandError, Scene, clean_environment, destroy, own_group
from tests.support.throwaway_home import free_ports, open_folder


@measurement
def run(scene: Scene) -> Iterator[Row]:
    """`make run` twice in a fresh clone, and `make down`."""
    with open_folder() as folder:
        clone = folder / "apex"
        commit = _clone(clone)
        ports = dict(zip(("pg_port", "mlflow_port", "airflow_port", "serving_port"), free_ports(4), strict=True))
        settings = Settings.load(home=clone, **ports)
        python = shutil.which("python3", path=str(Path(sys.base_prefix) / "bin")) or "python3"
        env = clean_environment(PYTHON=python, **{f"APEX_{k.upper()}": str(v) for k, v in ports.items()})
        raw = {"RAW": str(scene.raw)} if scene.given_raw is not None else {}
        try:
            setup = _make("setup", "setup", clone, env, settings)
            first = _make("run", "first", clone, env | raw, settings)
            second = _make("run", "second", clone, env, settings)
            down = _make("down", "down", clone, env, settings)
        finally:
            destroy(settings, folder)
    packages = Beside("of it make setup", setup.seconds)
    yield Row("make run, fresh clone", setup.seconds + first.seconds, "s", 300.0, packages, f"commit {commit}")
    yield Row("make run again", second.seconds, "s", 90.0, Beside("the first, without set-up", first.seconds))
    peak = max(first.peak, second.peak, key=lambda p: p.mib)
    note = f"{peak.processes} processes, {peak.samples} samples"
    yield Row("make run, peak memory", peak.mib, "MiB", 4096.0, Beside("of make setup", setup.peak.mib), note)
    yield Row("make down", down.seconds, "s")


def _clone(target: Path) -> str:
    subprocess.run(["git", "clone", "--quiet", str(CODE_ROOT), str(target)], check=True)
    output = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=target, capture_output=True, text=True)
    return output.stdout.strip()


@dataclass(frozen=True)
class _Made:
    seconds: float
    peak: Peak


def _make(target: str, log: str, clone: Path, env: dict[str, str], settings: Settings) -> _Made:
    began = time.monotonic()
    with own_group(["make", target], cwd=clone, env=env) as process, sampled_peak(settings, process.pid) as peak:
        output, _ = process.communicate()
        seconds = time.monotonic() - began
    (CODE_ROOT / "build").mkdir(exist_ok=True)
    (CODE_ROOT / "build" / f"bench-make-run-{log}.log").write_text(output)
    if process.returncode:
        raise CommandError(f"make {target}: exit code {process.returncode}: {output.strip()[-1500:]}")
    return _Made(seconds, peak)
