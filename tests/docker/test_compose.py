"""docker-compose.yaml and what belongs to it, without an engine."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import pytest
import yaml

from apex_ml.platform.containers.prepare import ADDRESSES, PARTS
from apex_ml.settings import CODE_ROOT, Settings

ONCE = {"secrets", "prepare-postgres", "prepare", "prepare-airflow", "apex", "gpu-check"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (CODE_ROOT / "docker-compose.yaml").read_text()
    results: dict[str, Any] = yaml.safe_load(text)
    return results


def test_every_service_has_limits_and_no_privileges(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["pids_limit"], name
        assert service["mem_limit"] and service["logging"]["options"]["max-size"], name
        assert service["restart"] == ("no" if name in ONCE else "unless-stopped"), name
        assert "privileged" not in service and service.get("network_mode") in (None, "none"), name
        assert name in ONCE or service["healthcheck"]["test"], name
        assert set(service.get("cap_add", [])) <= {"CHOWN", "DAC_OVERRIDE", "FOWNER"}, name
        assert not service.get("cap_add") or service["network_mode"] == "none", name


def test_only_pages_are_published_and_on_loopback(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert set(published) == {"mlflow", "airflow-api-server", "serving"}
    assert all(port.startswith("${BIND:-127.0.0.1}:") for ports in published.values() for port in ports)


def test_only_the_proxy_has_the_socket(compose: dict[str, Any]) -> None:
    having = {
        name: service["networks"]
        for name, service in compose["services"].items()
        if any("docker.sock" in volume for volume in service.get("volumes", []))
    }
    assert having == {"docker-proxy": ["gate"]}
    reaching = {name for name, service in compose["services"].items() if "gate" in service.get("networks", [])}
    assert reaching == {"docker-proxy", "airflow-scheduler", "airflow-worker"}
    assert compose["networks"]["gate"]["internal"] is True


def test_images_are_chosen_by_variables_and_pinned(compose: dict[str, Any]) -> None:
    images = {service["image"] for service in compose["services"].values()}
    assert images == {
        "${APEX_STEP_IMAGE:-apex-ml:latest}",
        "${AIRFLOW_IMAGE:-apex-airflow:latest}",
        "${POSTGRES_IMAGE:-postgres:18-bookworm}",
        "${REDIS_IMAGE:-redis:7-bookworm}",
    }
    dockerfile = (CODE_ROOT / "deployment" / "docker" / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)$", dockerfile, re.M).count("${BASE_IMAGE} AS packages") == 1
    assert "ARG BASE_IMAGE=python:3.11-slim-bookworm" in dockerfile


def test_every_part_of_the_secrets_has_a_volume(compose: dict[str, Any]) -> None:
    assert {f"secrets-{part}" for part in PARTS} == {v for v in compose["volumes"] if v.startswith("secrets-")}
    written = {volume.split(":")[0] for volume in compose["services"]["secrets"]["volumes"]}
    assert written == {f"secrets-{part}" for part in PARTS}
    for name, service in compose["services"].items():
        mine = [volume for volume in service.get("volumes", []) if volume.startswith("secrets-")]
        assert name in ("secrets", "gpu-check") or (len(mine) == 1 and mine[0].endswith(":/run/secrets/apex:ro")), name
        assert not any("PASSWORD" in key and not key.endswith("_FILE") for key in service.get("environment", {})), name
        assert "env_file" not in service, name
    assert all(volume["name"].startswith("${COMPOSE_PROJECT_NAME:-apex}_") for volume in compose["volumes"].values())


def test_addresses_are_names_of_services(compose: dict[str, Any]) -> None:
    known = {f"APEX_{name.upper()}" for name in Settings.model_fields}
    assert set(ADDRESSES) <= known
    hosts = {re.sub(r"^\w+://|:\d+$", "", value) for name, value in ADDRESSES.items() if "://" in value}
    assert {*hosts, ADDRESSES["APEX_PG_HOST"]} <= set(compose["services"])


def test_a_gpu_can_be_requested(compose: dict[str, Any]) -> None:
    [device] = compose["services"]["gpu-check"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", "all", ["gpu"])


@pytest.mark.parametrize("name", ["ml.txt", "ml-cuda.txt", "airflow.txt"])
def test_the_packages_of_the_images_are_those_of_the_project(name: str) -> None:
    pin = re.compile(r"^([a-z0-9._-]+)==([^ ;\\]+)", re.M)
    ours = dict(pin.findall((CODE_ROOT / "requirements.txt").read_text()))
    text = (CODE_ROOT / "deployment" / "docker" / name).read_text()
    matches = dict(pin.findall(text))
    assert len(matches) > 100 and "://" not in text
    # Flask-AppBuilder, Airflow's logins on a server, needs python-dateutil 2
    different = {package for package, version in matches.items() if ours.get(package, version) != version}
    assert different <= ({"python-dateutil"} if name == "airflow.txt" else set())
    if name == "airflow.txt":
        assert not {"numpy", "pandas", "pyarrow", "xgboost", "mlflow", "scikit-learn", "duckdb"} & set(matches)
        assert "apache-airflow-providers-fab" in matches and "apache-airflow-providers-celery" in matches
    else:
        assert "apache-airflow" not in matches and "xgboost" in matches
        assert (
            "nvidia-nccl-cu12 ; sys_platform == 'never'" in text.replace(f"=={matches['nvidia-nccl-cu12']}", "")
        ) == (name == "ml.txt")


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["RUNTIME=docker", "up"], "deployment/docker/platform.sh up"),
        (["RUNTIME=docker", "run", "RAW=/srv/raw"], 'deployment/docker/platform.sh -p orders run --raw "/srv/raw"'),
        (["RUNTIME=docker", "run", "P=flights"], 'deployment/docker/platform.sh -p "flights" run'),
        (["run"], ".venv/bin/apex -p orders run"),
        (["train", "P=flights"], '.venv/bin/apex -p "flights" retrain'),
        (["run", "APEX_PIPELINE=mine"], ".venv/bin/apex run"),
        (["status"], ".venv/bin/apex status"),
        (["RUNTIME=docker", "logs", "S=mlflow"], 'deployment/docker/platform.sh logs "mlflow"'),
        (["RUNTIME=docker", "restore", "FROM=a.tar"], 'deployment/docker/platform.sh restore "a.tar"'),
        (["up"], ".venv/bin/apex up"),
        (["restore", "FROM=a.tar"], '.venv/bin/apex restore "a.tar"'),
        (["RUNTIME=moon", "up"], "RUNTIME=moon: expected local or docker"),
    ],
)
def test_make_on_both_runtimes(arguments: list[str], output: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "RUNTIME", "APEX_PIPELINE"))
    }
    done = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=CODE_ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert output in done.stdout + done.stderr
    assert ("setup.sh" in done.stdout) == ("RUNTIME=docker" not in arguments and "RUNTIME=moon" not in arguments)
