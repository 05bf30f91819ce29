"""A step as a container: what the engine is asked for, and what the gate lets pass. Run for real in tests/docker."""

from __future__ import annotations

import os
from typing import Any

import pytest

from apex_airflow.runtimes.container import ContainerRunner, container_body, container_name, host_config
from apex_airflow.runtimes.docker_proxy import refusal
from apex_airflow.runtimes.process import StepCommand
from apex_ml.errors import TransientError
from apex_ml.settings import Settings

COMMAND = StepCommand(
    ("score", "--drops", '["a.parquet"]'),
    {"APEX_HOME": "/somewhere/else", "APEX_ORIGIN": "http://airflow/run", "APEX_PIPELINE": "orders"},
    task="score-manual-1.score.0",
    number=2,
    seconds=60,
)


def settings(**values: Any) -> Settings:
    return Settings.load(home="/nowhere", env_file=os.devnull, **values)


def test_the_request() -> None:
    body = container_body(settings(project="team", step_memory_mb=2048, step_cpus=1.5), COMMAND)
    assert body["Cmd"] == ["timeout", "--kill-after=30", "90", "apex", *COMMAND.args]
    assert body["Env"] == [
        "APEX_ENV_FILE=/run/secrets/apex/env",
        "APEX_HOME=/apex",
        "APEX_ORIGIN=http://airflow/run",
        "APEX_PIPELINE=orders",
    ]
    assert body["Labels"] == {"apex.step": "team", "apex.task": "score-manual-1.score.0"}
    host = body["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 2048 << 20 and host["NanoCpus"] == 1_500_000_000
    assert host["NetworkMode"] == "team" and host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"]
    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in host["Mounts"]] == [
        ("team_home", "/apex", False),
        ("team_secrets-steps", "/run/secrets/apex", True),
    ]


def test_only_training_gets_a_gpu() -> None:
    requested = {
        step: "DeviceRequests" in host_config(settings(device="cuda"), step, "orders")
        for step in ("train", "score", "elt")
    }
    assert requested == {"train": True, "score": False, "elt": False}
    assert "DeviceRequests" not in host_config(settings(), "train", "orders")


def test_a_pipeline_can_have_limits_of_its_own() -> None:
    own = host_config(settings(step_memory_mb=2048, resources__memory_mb=8192, resources__cpus=3.5), "train", "orders")
    assert (own["Memory"], own["MemorySwap"], own["NanoCpus"]) == (8192 << 20, 8192 << 20, 3_500_000_000)
    shared = host_config(settings(step_memory_mb=2048, step_cpus=1.5), "train", "orders")
    assert (shared["Memory"], shared["NanoCpus"]) == (2048 << 20, 1_500_000_000)


def test_names_differ_by_try_and_task_and_are_allowed() -> None:
    tasks = ("a.score.1", "a.score.11", "é" * 200, "x" * 300, "x" * 299)
    names = {container_name(StepCommand(("score",), task=t, number=n), "apex") for t in tasks for n in (1, 2)}
    assert len(names) == 10
    assert all(len(name) < 128 and name.replace("-", "").replace(".", "").isalnum() for name in names)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"Image": "debian"}, "Image"),
        ({"Cmd": ["sh", "-c", "id"]}, "Cmd"),
        ({"Cmd": ["timeout", "1", "2", "sh"]}, "Cmd"),
        ({"Cmd": None}, "Cmd"),
        ({"Entrypoint": ["sh"]}, "Entrypoint"),
        ({"User": "root"}, "User"),
        ({"Env": ["LD_PRELOAD=/apex/evil.so"]}, "Env"),
        ({"Env": ["APEX_PIPELINE=unknown"]}, "Env: no pipeline unknown in "),
        ({"Labels": {}}, "Labels"),
        ({"Volumes": {"/": {}}}, "Volumes"),
        ({"HostConfig": {}}, "HostConfig"),
    ],
)
def test_the_proxy_accepts_only_steps(change: dict[str, Any], reason: str | None) -> None:
    answer = refusal(settings(), container_body(settings(), COMMAND) | change)
    assert answer is None if reason is None else (answer or "").startswith(reason)


@pytest.mark.parametrize(
    "change",
    [{"Privileged": True}, {"Binds": ["/:/host"]}, {"PidMode": "host"}, {"NetworkMode": "host"}, {"Memory": 0}],
)
def test_the_proxy_compares_the_full_host_configuration(change: dict[str, Any]) -> None:
    body = container_body(settings(), COMMAND)
    assert refusal(settings(), {**body, "HostConfig": {**body["HostConfig"], **change}})


def test_an_engine_without_an_answer_is_a_transient_error() -> None:
    runner = ContainerRunner(settings(docker_host="tcp://127.0.0.1:9"))
    with pytest.raises(TransientError, match="tcp://127.0.0.1:9 .APEX_DOCKER_HOST. does not answer"):
        runner.run(COMMAND, print)
