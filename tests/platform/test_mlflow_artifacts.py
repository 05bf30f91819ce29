"""The MLflow server of the platform keeps its artifacts in an object store."""

from __future__ import annotations

import os
import subprocess
import uuid
from importlib import util
from pathlib import Path
from typing import Any

import httpx
import pytest

from apex_ml.adapters.storage.stores import open_objects
from apex_ml.contract.pipeline import Locations
from apex_ml.errors import ConfigError
from apex_ml.platform.embedded import environment, supervision
from apex_ml.settings import Settings
from tests.support.object_servers import ObjectServer
from tests.support.throwaway_home import free_ports
from tests.support.waiting import until

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


def test_the_command_of_the_platform_serves_artifacts_from_the_store(
    moto: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in moto.environment:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in moto.environment.items()))
    place = f"s3://{moto.bucket}/{uuid.uuid4().hex}"
    (port,) = free_ports(1)
    program = supervision._mlflow(Settings.load(home=tmp_path, mlflow_port=port, mlflow_artifacts=place))
    assert not any(secret in part for part in program.command for secret in moto.login.values())
    given = {**os.environ, **program.environment, "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(program.command, env=given, cwd=tmp_path, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: _healthy(url), 120)
        httpx.put(f"{url}{ARTIFACTS}/1/report.html", content=b"<p>report", timeout=30).raise_for_status()
        assert httpx.get(f"{url}{ARTIFACTS}/1/report.html", timeout=30).content == b"<p>report"
    finally:
        server.terminate()
        server.wait(30)
    places = Locations(place, place, place, {}, tmp_path / ".env")
    assert [file.key for file in open_objects(places, place).list_all("")] == ["1/report.html"]


def test_without_the_package_that_mlflow_needs_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find: Any = util.find_spec
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == "boto3" else find(name))
    settings = Settings.load(home=tmp_path, mlflow_artifacts="s3://lake/mlflow")
    with pytest.raises(ConfigError, match=r"APEX_MLFLOW_ARTIFACTS=s3://lake/mlflow: .*pip install boto3"):
        supervision._mlflow(settings)


def test_the_logins_stay_out_of_the_environment_without_a_store(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AWS_SECRET_ACCESS_KEY=secret\n")
    program = supervision._mlflow(Settings.load(home=tmp_path))
    assert "secret" not in program.environment.values()
    assert program.command[-1] == str(tmp_path / ".apex" / "mlflow" / "artifacts")


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.TransportError:
        return False
