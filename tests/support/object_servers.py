"""Object stores for tests: real servers of S3, each in a process of its own on a free port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest

from apex_ml.contract.locations import StoreOptions
from tests.support.apex_home import Apex

KEY, SECRET = "APEXTESTKEY", "apex-test-secret"
"""The login of the servers of S3."""
GOOGLE_KEY = ("client_email", "private_key", "private_key_id")


@dataclass(frozen=True)
class Queue:
    """A queue of SQS."""

    client: Any
    url: str

    def send(self, body: str) -> None:
        self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def waiting(self) -> int:
        """Messages that nobody has received."""
        names = ["ApproximateNumberOfMessages"]
        attributes = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(attributes[names[0]])


@dataclass(frozen=True)
class ObjectServer:
    """A server with one empty bucket."""

    name: str
    endpoint: str
    bucket: str
    scheme: str = "s3"

    @property
    def url(self) -> str:
        """A new prefix of the bucket."""
        return f"{self.scheme}://{self.bucket}/{uuid.uuid4().hex}"

    @property
    def login(self) -> dict[str, str]:
        if self.scheme == "gs":  # the key of a service account, which names the server
            key = {"gcs_base_url": self.endpoint, "disable_oauth": True}
            return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key | dict.fromkeys(GOOGLE_KEY, ""))}
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which every program reaches the server, without options in a pipeline's file."""
        if self.scheme == "gs":
            return self.login
        return {
            **self.login,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    @contextmanager
    def logged_in(self) -> Iterator[None]:
        """This process reaches the server while the block runs."""
        with mock.patch.dict(os.environ, self.environment):
            yield

    def queue(self, name: str) -> Queue:
        """A new queue in the server, which also speaks SQS."""
        client = boto3.client(
            "sqs",
            "us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )
        return Queue(client, client.create_queue(QueueName=name)["QueueUrl"])

    def store_options(self) -> StoreOptions:
        """What a pipeline's file says about the store, as its options."""
        return StoreOptions.model_validate(self.options())

    def options(self) -> dict[str, object]:
        """What a pipeline's file says about the store."""
        if self.scheme == "gs":
            return {"endpoint": self.endpoint}
        return {"endpoint": self.endpoint, "region": "us-east-1", "path_style": True}


def in_object_store(apex: Apex, server: ObjectServer, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Apex:
    """The home with its drops below a new prefix of the server's bucket."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return apex.but(drops_url=server.url, **changes)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def moto_server(folder: Path) -> Iterator[ObjectServer]:
    """A server that honours conditional puts."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, folder / "moto.log", port):
        endpoint = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/apex-test", method="PUT")).close()
        yield ObjectServer("moto", endpoint, "apex-test")


def objects_folder(folder: Path) -> Path:
    """Where the server of :func:`rclone_server` keeps the objects of its bucket as files."""
    return folder / "objects" / "apex-test"


@contextmanager
def rclone_server(folder: Path) -> Iterator[ObjectServer]:
    """A server that keeps objects as files, and that ignores the conditions of a put."""
    port = free_port()
    objects_folder(folder).mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("rclone")
    command = [str(program), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    command += ["--config", str(folder / "none.conf"), "--vfs-cache-mode", "off", str(objects_folder(folder).parent)]
    with _running(command, folder / "rclone.log", port):
        yield ObjectServer("rclone", f"http://127.0.0.1:{port}", "apex-test")


@contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not answer:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
