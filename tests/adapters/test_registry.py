"""The registry against a real MLflow server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import httpx
import pytest

from apex_ml.adapters.mlflow.inference_log import InferenceLog
from apex_ml.adapters.mlflow.registry import CHAMPION, FILES_TAG, Registry
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from tests.support.throwaway_home import free_ports

_numbers: Iterator[int] = count(1)


@pytest.fixture
def settings(mlflow_server: str, home: Any) -> Settings:
    """A registered name of the test's own, with two versions that hold no files."""
    configured: Settings = home(
        mlflow_tracking_uri=mlflow_server, model_name=f"plain {next(_numbers)}/ñ".replace("/", "-")
    )
    base = f"{mlflow_server}/api/2.0/mlflow"
    httpx.post(
        f"{base}/registered-models/create", json={"name": load_pipeline(configured).model_name}
    ).raise_for_status()
    answer = httpx.post(f"{base}/runs/create", json={"experiment_id": "0"})
    run = answer.raise_for_status().json()["run"]["info"]
    for nr in (1, 2):
        content = {"name": load_pipeline(configured).model_name, "source": run["artifact_uri"], "run_id": run["run_id"]}
        content["tags"] = [{"key": "nr", "value": str(nr)}]
        httpx.post(f"{base}/model-versions/create", json=content).raise_for_status()
    return configured


def test_aliases_are_read_and_moved(settings: Settings) -> None:
    registry = Registry(settings, load_pipeline(settings).model_name)
    assert registry.by_alias(CHAMPION) is None
    for version in (1, 2, 2):
        registry.set_alias(CHAMPION, version)
        result = registry.by_alias(CHAMPION)
        assert result is not None and (result.version, result.tags["nr"]) == (version, str(version))


def test_missing_aliases_and_versions_are_reported(settings: Settings) -> None:
    registry = Registry(settings, load_pipeline(settings).model_name)
    assert registry.by_version(3) is None
    with pytest.raises(DataError, match="has no version 3 in MLflow"):
        registry.set_alias(CHAMPION, 3)
    other = Registry(settings, "unknown")
    assert other.by_alias(CHAMPION) is None and other.by_version(1) is None


def test_a_version_that_apex_did_not_register_has_no_files(settings: Settings) -> None:
    registry = Registry(settings, load_pipeline(settings).model_name)
    version = registry.by_version(1)
    assert version is not None
    with pytest.raises(DataError, match=f"was not registered by Apex: it has no tag {FILES_TAG}"):
        registry.files(version)


def test_an_invalid_alias_is_a_configuration_error(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="refused registered-models/alias: 400"):
        Registry(settings, load_pipeline(settings).model_name).set_alias("v1", 1)


CALLS: dict[str, Callable[[Registry], Any]] = {
    "by_alias": lambda r: r.by_alias(CHAMPION),
    "by_version": lambda r: r.by_version(1),
    "set_alias": lambda r: r.set_alias(CHAMPION, 1),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_mlflow_server_is_a_transient_error(home: Any, call: str) -> None:
    (port,) = free_ports(1)
    registry = Registry(home(mlflow_tracking_uri=f"http://127.0.0.1:{port}"), "orders")
    with pytest.raises(TransientError, match=rf"MLflow at http://127\.0\.0\.1:{port} \(APEX_MLFLOW_TRACKING_URI"):
        CALLS[call](registry)


def test_a_deleted_experiment_is_a_configuration_error_and_its_remedy_works(settings: Settings) -> None:
    base = f"{settings.tracking_uri}/api/2.0/mlflow"
    log = InferenceLog(settings, f"deleted_{next(_numbers)}")
    name = log.named
    assert log.experiment(name) is None
    created = log._experiment()
    httpx.post(f"{base}/experiments/delete", json={"experiment_id": created}).raise_for_status()
    with pytest.raises(ConfigError, match=rf"{name} was deleted.*mlflow experiments restore --experiment-id {created}"):
        log._experiment()
    httpx.post(f"{base}/experiments/restore", json={"experiment_id": created}).raise_for_status()
    assert log._experiment() == created


def test_more_metrics_than_one_batch_are_logged(settings: Settings) -> None:
    """A contract may have hundreds of classes, with two metrics each."""
    log = InferenceLog(settings, f"many_{next(_numbers)}")
    base = f"{settings.tracking_uri}/api/2.0/mlflow"
    answer = httpx.post(f"{base}/runs/create", json={"experiment_id": log._experiment()}).raise_for_status()
    run_id = answer.json()["run"]["info"]["run_id"]
    log.metrics(run_id, {f"pred_count_{n}": float(n) for n in range(1001)} | {"lost": float("nan")})
    content = httpx.get(f"{base}/runs/get", params={"run_id": run_id}).json()["run"]["data"]["metrics"]
    assert len(content) == 1001


def test_a_missing_run_is_named(settings: Settings) -> None:
    log = InferenceLog(settings, "orders")
    for call in (lambda: log.metrics("0" * 32, {"a": 1.0}), lambda: log.artifact("0" * 32, "a.json", {})):
        with pytest.raises(ConfigError, match=f"no longer has the run {'0' * 32}"):
            call()


def test_a_renamed_model_is_detected(settings: Settings) -> None:
    registry = Registry(settings, load_pipeline(settings).model_name)
    assert registry.has_model()
    content = {"name": load_pipeline(settings).model_name, "new_name": f"{load_pipeline(settings).model_name} renamed"}
    httpx.post(f"{settings.tracking_uri}/api/2.0/mlflow/registered-models/rename", json=content).raise_for_status()
    assert not registry.has_model()
