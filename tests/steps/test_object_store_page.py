"""The pipelines that the page about object stores shows, used on a real server."""

from __future__ import annotations

import json
import re
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from apex_airflow.assets import inbox
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.contract.model import Contract
from apex_ml.contract.options import PipelineOptions
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.simulate.drop import make_drop
from tests.support import watching
from tests.support.apex_home import Apex
from tests.support.object_servers import KEY, SECRET, ObjectServer, Queue

PAGE = (CODE_ROOT / "docs" / "how-to" / "object-stores.md").read_text(encoding="utf-8")
MOVES, KEEPS, ASCENDING, EVENTS = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))


def pipelines_with(sections: dict[str, Any], folder: Path, server: ObjectServer) -> tuple[Path, dict[str, str]]:
    """A folder with the orders pipeline and sections of the page, whose bucket is the test's, and its locations."""
    text = json.dumps(sections).replace("https://minio.example.org", server.endpoint)
    for bucket in ("s3://lake", "s3://partner"):
        text = text.replace(bucket, f"s3://{server.bucket}/{folder.name}")
    own = yaml.safe_load(load_pipeline(Settings.load()).file.read_text()) | json.loads(text)
    file = folder / "pipelines" / "orders" / "pipeline.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(own, sort_keys=False))
    return folder / "pipelines", own["locations"]


@pytest.mark.parametrize("sections", [MOVES, KEEPS, ASCENDING, EVENTS])
def test_the_sections_can_be_read(sections: dict[str, Any]) -> None:
    PipelineOptions.model_validate(sections)


@pytest.mark.parametrize(
    ("sections", "key"), [(MOVES, "inbox/a.parquet"), (KEEPS | ASCENDING, "dt=2026-01-01/a.parquet")]
)
def test_a_drop_in_the_store_of_the_page_is_scored_by_apex_score(
    chain: Any,
    scoring: Apex,
    moto: ObjectServer,
    raw: Path,
    contract: Contract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Any],
    key: str,
) -> None:
    login = moto.login if sections is MOVES else moto.environment
    pipelines, places = pipelines_with(sections, tmp_path, moto)
    apex = scoring.but(pipelines=pipelines, pipeline="orders", drops_url=places["drops"])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    apex.settings.env_file.parent.mkdir(parents=True, exist_ok=True)
    apex.settings.env_file.write_text("".join(f"{name}={value}\n" for name, value in login.items()))
    if "processed" in places:
        apex = apex.but(processed_url=places["processed"])
        with apex.context("first").runs.new_output("first", "elt") as output:
            shutil.copytree(chain.apex.context("first").output("elt"), output, dirs_exist_ok=True)
        shutil.rmtree(apex.settings.spool)
    path = tmp_path / "a.parquet"
    make_drop(str(raw), date(2024, 8, 24), 200, 1, path, contract)
    storage = open_objects(apex.pipeline.locations, apex.pipeline.locations.drops)
    storage.put(key, path.read_bytes())
    done = apex.call("score")
    assert done.code == 0, done.err
    assert apex.sql("SELECT name, state FROM orders.drops") == [(key.removeprefix("inbox/"), "done")]
    assert [file.key for file in storage.list_all("")] == [key.replace("inbox/", "done/")]
    for secret in login.values():
        assert secret not in done.err + json.dumps(done.result)


def test_an_event_of_the_bucket_wakes_the_trigger_of_the_page(
    moto: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket itself sends the message; the login is in ``.env``."""
    queue = moto.queue(tmp_path.name)
    sections = json.loads(json.dumps(MOVES | EVENTS).replace(EVENTS["scoring"]["events"], queue.url))
    pipelines, places = pipelines_with(sections, tmp_path, moto)
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in moto.login.items()))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_PIPELINES", str(pipelines))
    pipeline = load_pipeline(Settings.load(pipeline="orders"))
    send_events(moto, queue)
    storage = open_objects(pipeline.locations, places["drops"])
    (watcher,) = inbox(pipeline).watchers
    trigger: Any = watcher.trigger
    assert trigger.poll_seconds == 300
    received = watching.watch(trigger, 4.0, lambda: None, lambda: storage.put("inbox/a.parquet", b"1"))
    assert received == [[], ["a.parquet"]]


def send_events(server: ObjectServer, queue: Queue) -> None:
    """Let the bucket send its events to the queue."""
    arn = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    login = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
    client = boto3.client("s3", "us-east-1", endpoint_url=server.endpoint, **login)
    client.put_bucket_notification_configuration(Bucket=server.bucket, NotificationConfiguration=events)
