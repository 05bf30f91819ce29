"""The whole of `make test`."""

from __future__ import annotations

import time
from collections.abc import Iterator

from apex_ml.settings import CODE_ROOT
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import CommandError, Scene, clean_environment, own_group


@measurement
def suite(scene: Scene) -> Iterator[Row]:
    """Seconds of `make test`, and of `make check`, its part without the tests."""
    env = clean_environment()
    if scene.given_raw is not None:
        env["APEX_TEST_RAW"] = str(scene.given_raw)
    check = _make("check", env)
    yield Row("make test", _make("test", env), "s", 600.0, Beside("make check alone", check))


def _make(target: str, env: dict[str, str]) -> float:
    began = time.monotonic()
    with own_group(["make", target], cwd=CODE_ROOT, env=env) as process:
        output, _ = process.communicate()
    if process.returncode:
        raise CommandError(f"make {target}: exit code {process.returncode}: {output.strip()[-1500:]}")
    return time.monotonic() - began
