"""Pages show how many drops wait in an object store, and never wait for the store."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest

from apex_airflow import waiting_objects
from apex_airflow.inbox import count_waiting
from apex_airflow.waiting_objects import WaitingObjects
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.settings import Settings
from tests.support.object_servers import ObjectServer
from tests.support.waiting import until


@pytest.fixture
def pipeline(moto: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineSettings:
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{moto.bucket}/{uuid.uuid4().hex}"
    return load_pipeline_settings(Settings.load(home=tmp_path, pipeline="orders", locations__drops=url))


def test_the_objects_of_the_inbox_are_counted_and_counted_again(
    pipeline: PipelineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_objects(pipeline.locations, pipeline.locations.drops)
    for key in ("inbox/a.parquet", "inbox/b.parquet", "inbox/_c", "done/d.parquet"):
        storage.put(key, b"x")
    until(lambda: count_waiting(pipeline) == 2, 20)
    storage.delete("inbox/a.parquet")
    assert count_waiting(pipeline) == 2  # fresh enough
    monkeypatch.setattr(waiting_objects, "FRESH_SECONDS", 0.0)
    until(lambda: count_waiting(pipeline) == 1, 20)


def test_a_store_that_hangs_or_fails_does_not_stop_a_page(
    pipeline: PipelineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = WaitingObjects()
    monkeypatch.setattr(waiting_objects, "_list", lambda pipeline: time.sleep(3))
    began = time.monotonic()
    assert [counts.count(pipeline) for _ in range(3)] == [None] * 3
    assert time.monotonic() - began < 2
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("apex_ml.adapters.storage.stores.RETRIES", {"max_retries": 0})
    assert waiting_objects._list(pipeline) is None


def test_of_a_bucket_that_is_only_read_the_number_is_unknown(moto: ObjectServer, tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, pipeline="orders", locations__drops="s3://b/x", scoring__after="keep")
    assert count_waiting(load_pipeline_settings(settings)) is None
