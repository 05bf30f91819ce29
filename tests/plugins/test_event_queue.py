"""Messages of a queue wake the trigger of an object store, and do nothing else; on a real server of SQS."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from apex_airflow.triggers import events, objects
from apex_airflow.triggers.objects import ObjectTrigger
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.contract.pipeline import Locations
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.settings import Settings
from tests.support import watching
from tests.support.object_servers import KEY, SECRET, ObjectServer, Queue, free_port, moto_server

NEVER = 3600.0
"""Seconds between two looks without a message."""
PAUSE = 0.8


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setattr(objects, "SHORTEST_PAUSE", 0.05)
    monkeypatch.setattr(events, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(events, "LONGEST_PAUSE", 0.2)


def store(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{server.bucket}/{uuid.uuid4().hex}"
    return open_objects(Locations(url, url, url), url)


def watch(storage: ObjectStorage, queue: str, poll: float, *acts: Callable[[], Any]) -> list[list[str]]:
    """The keys announced after each act."""
    return watching.watch(
        ObjectTrigger("orders", storage.url, poll, False, False, {"complete": "never"}, queue), PAUSE, *acts
    )


def new_queue(server: ObjectServer) -> Queue:
    return server.queue(uuid.uuid4().hex)


def test_a_message_makes_the_next_look_happen_at_once(moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, queue = store(moto, monkeypatch), new_queue(moto)
    received = watch(
        storage,
        queue.url,
        NEVER,
        lambda: None,
        lambda: storage.put("a.parquet", b"1"),
        lambda: queue.send("anything"),
        lambda: storage.put("b.parquet", b"1"),
        lambda: queue.send("anything"),
    )
    assert received == [[], [], ["a.parquet"], [], ["b.parquet"]]
    assert queue.waiting() == 0


def test_nothing_is_read_from_a_message(moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, queue = store(moto, monkeypatch), new_queue(moto)
    key = f"{storage.url}/b.parquet"
    event = json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": key, "size": 1}}}]})
    storage.put("a.parquet", b"1")
    received = watch(
        storage,
        queue.url,
        NEVER,
        lambda: None,  # without a message: the first look
        lambda: queue.send(event),  # of an object that is not there
        lambda: [queue.send(event) for _ in range(25)],
        lambda: [queue.send(body) for body in ("{", "null", "\x85é😀", "x" * 200_000, '{"Records": 7}')],
        lambda: (storage.put("b.parquet", b"1"), queue.send("ObjectRemoved"), queue.send(event)),
        lambda: queue.send(event),  # again, and late
    )
    assert received == [["a.parquet"], [], [], [], ["b.parquet"], []]
    assert queue.waiting() == 0


def test_without_a_message_the_store_is_polled(moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, queue = store(moto, monkeypatch), new_queue(moto)
    assert watch(storage, queue.url, 0.2, lambda: storage.put("a.parquet", b"1")) == [["a.parquet"]]


def test_many_messages_cause_few_looks(moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, queue = store(moto, monkeypatch), new_queue(moto)
    monkeypatch.setattr(objects, "SHORTEST_PAUSE", 0.5)
    looks = 0
    list_objects = ObjectStorage.list_async

    async def counted(self: ObjectStorage, *args: Any, **named: Any) -> Any:
        nonlocal looks
        looks += 1
        return await list_objects(self, *args, **named)

    monkeypatch.setattr(ObjectStorage, "list_async", counted)
    began = time.monotonic()
    watch(storage, queue.url, NEVER, lambda: [queue.send("x") for _ in range(100)])
    assert 2 <= looks <= 2 + (time.monotonic() - began) / 0.5


@pytest.mark.parametrize("fault", ["no server", "no queue", "no provider", "no package"])
def test_a_queue_that_cannot_be_read_is_logged_once_and_the_store_is_polled(
    moto: ObjectServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    storage = store(moto, monkeypatch)
    if fault == "no package":
        monkeypatch.setitem(sys.modules, "airflow.providers.common.messaging.triggers.msg_queue", None)
    queue, text = {
        "no server": (f"http://127.0.0.1:{free_port()}/123456789012/drops", "Could not connect to the endpoint URL"),
        "no queue": (f"{moto.endpoint}/123456789012/absent", "The specified queue does not exist"),
        "no provider": ("google+pubsub://project/drops", "apache-airflow-providers-google"),
        "no package": (f"{moto.endpoint}/123456789012/drops", "pip install apex-ml[events]"),
    }[fault]
    received = watch(storage, queue, 0.2, lambda: storage.put("a.parquet", b"1"), lambda: None)
    assert received == [["a.parquet"], []]
    log = "".join(capfd.readouterr())
    assert log.count("cannot be read, the inbox is polled meanwhile") == 1
    assert queue in log and text in log and SECRET not in log and KEY not in log


def test_a_queue_that_comes_back_is_read_again(
    moto: ObjectServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    storage, name = store(moto, monkeypatch), uuid.uuid4().hex
    received = watch(
        storage,
        f"{moto.endpoint}/123456789012/{name}",
        NEVER,
        lambda: storage.put("a.parquet", b"1"),
        lambda: None,
        lambda: (storage.put("b.parquet", b"1"), moto.queue(name).send("x")),
    )
    assert received[1:] == [[], ["b.parquet"]]
    log = "".join(capfd.readouterr())
    assert log.count("cannot be read, the inbox") == log.count("can be read again") == 1


def test_messages_do_not_shorten_the_pauses_of_a_store_that_fails(
    moto: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("apex_ml.adapters.storage.stores.RETRIES", {"max_retries": 0})
    monkeypatch.setattr(objects, "LONGEST_PAUSE", NEVER)
    queue = new_queue(moto)
    with moto_server(tmp_path) as other:
        storage = store(other, monkeypatch)
    opened = 0

    def counted(_: ObjectTrigger) -> ObjectStorage:
        nonlocal opened
        opened += 1
        return storage

    monkeypatch.setattr(ObjectTrigger, "_open", counted)
    watch(storage, queue.url, 0.2, *[lambda: queue.send("x")] * 3)
    assert 1 < opened < 6  # after 0.4, 0.8, 1.6 and 3.2 seconds
    assert "".join(capfd.readouterr()).count("cannot be listed, trying again") == 1


def test_the_login_comes_from_env_and_the_server_from_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio.example.org")
    (tmp_path / ".env").write_text(f"AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY={SECRET}\nAWS_REGION=eu-south-2\n")
    regions = {}
    for queue in ("https://sqs.eu-west-1.amazonaws.com/1/drops", "http://localhost:9324/1/drops"):
        trigger: Any = events.open_queue(queue, lambda: None)
        connection = trigger.hook.conn_config
        regions[connection.endpoint_url] = connection.region_name
        assert (connection.aws_access_key_id, connection.aws_secret_access_key) == (KEY, SECRET)
        assert SECRET not in str(trigger.serialize())
    assert regions == {"https://sqs.eu-west-1.amazonaws.com": "eu-west-1", "http://localhost:9324": "eu-south-2"}


def test_the_login_is_not_in_the_serialization_of_the_trigger() -> None:
    queue = "https://sqs.eu-west-1.amazonaws.com/1/drops"
    path, kwargs = ObjectTrigger("orders", "s3://b/drops", 1.5, True, False, {"complete": "never"}, queue).serialize()
    assert kwargs["events"] == queue
    assert ObjectTrigger(**kwargs).serialize() == (path, kwargs)


def test_a_provider_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="pip install .*apache-kafka"):
        events.open_queue("kafka://kafka_default/drops", lambda: None)


@pytest.mark.parametrize(
    ("queue", "fault"),
    [
        ("s3://bucket/drops", "is no queue; write one such as https://sqs.eu-west-1"),
        ("https://sqs.eu-west-1.amazonaws.com/drops", "is no queue"),
        ("kafka://drops", "is no queue"),
        ("kafka://broker/", "is no queue"),
        ("https://[sqs/1/drops", "is no queue"),
        (f"https://{KEY}:{SECRET}@sqs.eu-west-1.amazonaws.com/1/drops", "the login belongs in .env"),
    ],
)
def test_another_text_is_no_queue_and_a_login_in_it_is_not_shown(tmp_path: Path, queue: str, fault: str) -> None:
    own = yaml.safe_load((Settings.load().pipelines / "orders" / "pipeline.yaml").read_text())
    file = tmp_path / "pipelines" / "orders" / "pipeline.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(own | {"scoring": {"events": queue}}, sort_keys=False))
    by_file = Settings.load(pipelines=file.parent.parent)
    for settings in (by_file, Settings.load(scoring__events=queue)):
        with pytest.raises(ConfigError, match=r"scoring.*events") as raised:
            load_pipeline_settings(settings)
        assert fault in str(raised.value) and SECRET not in str(raised.value)
