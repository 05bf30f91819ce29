"""`platform.sh up` with a substitute of docker: what an upgraded platform is started with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from apex_ml.settings import CODE_ROOT

SCRIPT = CODE_ROOT / "deployment" / "docker" / "platform.sh"
DOCKER = r"""#!/bin/bash
case "$*" in
    "compose version") ;;
    "compose "*) echo "$DOCKER_PROXY_USER $*" >>"$CALLS" ;;
    *"secrets --complete") cat ;;
    "ps "* | *digests | "image inspect"*) ;;
    *) echo "unexpected: docker $*" >&2; exit 1 ;;
esac
"""
"""Keeps the calls of Compose with the user of the proxy. There are images and no containers."""


def up(folder: Path, env_lines: str) -> tuple[list[str], str]:
    """Return the calls of Compose, each after the user of the proxy, and what `platform.sh up` warns of."""
    docker, env_file, calls = folder / "docker", folder / "env", folder / "calls"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    env_file.write_text(f"COMPOSE_PROJECT_NAME=upgraded\n{env_lines}")
    done = subprocess.run(
        ["bash", str(SCRIPT), "up"],
        env={
            "PATH": f"{folder}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "APEX_ENV_FILE": str(env_file),
            "APEX_STEP_IMAGE": "apex-ml:test",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return calls.read_text().splitlines(), done.stderr


@pytest.mark.parametrize(
    ("env_lines", "user", "warning"),
    [
        ("", "0:0", ""),
        ("DOCKER_PROXY_USER=10001:999\n", "10001:999", ""),
        ("DOCKER_GATE_USER=10001:999\n", "10001:999", "DOCKER_GATE_USER is now called DOCKER_PROXY_USER."),
        (
            "DOCKER_GATE_USER=10001:999\nDOCKER_PROXY_USER=10001:998\n",
            "10001:998",
            "DOCKER_GATE_USER is not read, because DOCKER_PROXY_USER, its new name, is also set; remove it",
        ),
    ],
)
def test_up_reads_the_former_name_with_a_warning_and_removes_former_services(
    tmp_path: Path, env_lines: str, user: str, warning: str
) -> None:
    calls, printed = up(tmp_path, env_lines)
    start = next(call for call in calls if " up " in call)
    assert start.startswith(f"{user} compose ") and " --remove-orphans" in start, calls
    assert all(call.startswith(f"{user} ") for call in calls)
    assert (warning in printed and printed.count("apex: ") == 1) if warning else printed == ""
