"""The set-up script, with a pip and a uv that only say how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from apex_ml.settings import CODE_ROOT

STORES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")


@pytest.mark.skipif(not any(os.path.exists(store) for store in STORES), reason="no store of certificates")
@pytest.mark.parametrize(("variables", "passed"), [(None, "true"), ("false", "false")])
def test_uv_trusts_the_certificates_of_the_machine(tmp_path: Path, variables: str | None, passed: str) -> None:
    project = tmp_path / "a b"
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / "deployment" / "local").mkdir(parents=True)
    shutil.copy2(CODE_ROOT / "deployment" / "local" / "setup.sh", project / "deployment" / "local")
    for name in ("requirements.txt", "pyproject.toml"):
        (project / name).touch()
    for name, line in {"python": "", "uv": f"echo ${{UV_SYSTEM_CERTS-unset}} >>'{tmp_path}/passed'"}.items():
        program = project / ".venv" / "bin" / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "UV_SYSTEM_CERTS"}
    if variables is not None:
        environment["UV_SYSTEM_CERTS"] = variables
    environment["PYTHON"] = sys.executable
    script = str(project / "deployment" / "local" / "setup.sh")
    subprocess.run([script], env=environment, check=True, capture_output=True)
    assert (tmp_path / "passed").read_text().split() == [passed, passed]
