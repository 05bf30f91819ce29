"""A platform in containers, with its own project and ports. It needs a Docker engine and no registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from dotenv import dotenv_values

from apex_ml.settings import CODE_ROOT
from tests.support.throwaway_home import free_ports

STANDIN = Path(__file__).parent / "standin"
PLATFORM = CODE_ROOT / "deployment" / "docker" / "platform.sh"
OF_A_REGISTRY = bool(os.environ.get("APEX_TEST_REGISTRY"))
"""Whether the test uses the images of the compose file instead of substitutes."""
STANDINS = ("apex-test/base:bookworm", "apex-test/postgres:15", "apex-test/redis:7")


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def why_not() -> str:
    """Why these tests cannot run here; nothing when they can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker engine answers"
    compose = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    if not compose and shutil.which("docker-compose") is None:
        return "docker compose is not installed"
    if OF_A_REGISTRY:
        return ""
    created = (
        subprocess.run(["docker", "image", "inspect", *STANDINS], capture_output=True, check=False).returncode == 0
    )
    if not created and (os.geteuid() != 0 or shutil.which("debootstrap") is None):
        return "the substitute images are not built yet, which needs root and debootstrap"
    return ""


class Stack:
    """The platform of one compose project."""

    def __init__(self, folder: Path) -> None:
        self.project = f"apex-test-{uuid.uuid4().hex[:8]}"
        self.env_file = folder / "env"
        names = ("APEX_AIRFLOW_PORT", "APEX_MLFLOW_PORT", "APEX_SERVING_PORT")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.ran = ""
        values = {
            "COMPOSE_PROJECT_NAME": self.project,
            **(
                {}
                if OF_A_REGISTRY
                else dict(zip(("BASE_IMAGE", "POSTGRES_IMAGE", "REDIS_IMAGE"), STANDINS, strict=True))
            ),
            "POSTGRES_MEMORY": "1g",
            "APEX_STEP_IMAGE": "apex-ml:test",
            "APEX_PIPELINE": "orders",
            "AIRFLOW_IMAGE": "apex-airflow:test",
            "APEX_ORDERS__STEPS__RETRY_DELAY_SECONDS": "3",
            # the sweep finds the rest of a run that was marked as failed
            "APEX_ORDERS__SCHEDULE__SWEEP": "'* * * * *'",
            **self.ports,
        }
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        self.env_file.chmod(0o600)

    def set(self, **values: str) -> None:
        """Set lines of .env."""
        kept = [
            line for line in self.env_file.read_text().splitlines() if line.partition("=")[0] not in values and line
        ]
        kept += [f"{name}={value}" for name, value in values.items() if value]
        self.env_file.write_text("\n".join(kept) + "\n")

    def platform(self, *arguments: str, check: bool = True, seconds: int = 900) -> subprocess.CompletedProcess[str]:
        """A command of RUNTIME=docker make."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("APEX_", "COMPOSE_"))}
        done = subprocess.run(
            [str(PLATFORM), *arguments],
            env=kept | {"APEX_ENV_FILE": str(self.env_file)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done

    @property
    def values(self) -> dict[str, str]:
        return {name: value for name, value in dotenv_values(self.env_file).items() if value}

    @property
    def secrets(self) -> dict[str, str]:
        """Every secret, by name."""
        marks = ("PASSWORD", "SECRET", "FERNET", "SERVING_KEY")
        return {name: value for name, value in self.values.items() if any(mark in name for mark in marks)}

    def apex(self, *arguments: str, seconds: int = 600) -> str:
        """The command `apex` in the platform's network."""
        name = f"{self.project}-tool-{uuid.uuid4().hex[:6]}"
        volumes = [f"{self.project}_home:/apex", f"{self.project}_secrets-tools:/run/secrets/apex:ro"]
        mounts = [part for volume in volumes for part in ("--volume", volume)]
        done = subprocess.run(
            ["docker", "run", "--rm", "--name", name, "--network", self.project, *mounts, "apex-ml:test", *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def sql(self, query: str) -> list[list[str]]:
        """Rows of a query, as the writer."""
        script = (
            '. /run/secrets/apex/env; PGPASSWORD="$APEX_PG_WRITER_PASSWORD" exec psql -X -q -h 127.0.0.1'
            ' -U apex_writer -d apex -At -F "|" -c "$0"'
        )
        out = docker("exec", self.container("postgres"), "sh", "-c", script, query)
        return [line.split("|") for line in out.splitlines()]

    def container(self, service: str) -> str:
        """Id of the newest container of a service."""
        return self.every(service)[0]

    def every(self, service: str) -> list[str]:
        """Ids of the containers of a service."""
        labels = (f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}")
        filters = [part for label in labels for part in ("--filter", f"label={label}")]
        result = docker("ps", "--all", "--quiet", "--no-trunc", *filters).splitlines()
        assert result, service
        return result

    def steps(self, *tasks: str) -> list[str]:
        """Ids of the containers of steps that are there, of these tasks or of all."""
        steps = f"label=apex.step={self.project}"
        labels = [f"label=apex.task={task}" for task in tasks] or [steps]
        listed = (docker("ps", "-aq", "--no-trunc", "--filter", steps, "--filter", label) for label in labels)
        return [line for result in listed for line in result.splitlines()]

    def airflow(self, user: str = "") -> httpx.Client:
        """A client of Airflow's API; without a user an anonymous one."""
        base = f"http://127.0.0.1:{self.ports['APEX_AIRFLOW_PORT']}"
        headers = {}
        if user:
            login = {"username": user, "password": self.values[f"APEX_AIRFLOW_{user.upper()}_PASSWORD"]}
            answer = httpx.post(f"{base}/auth/token", json=login, trust_env=False, timeout=60)
            headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=60)

    def put(self, name: str, rows: int, seed: int, compression: str = "") -> None:
        """A drop of the coming day appears in the inbox as a whole; with a compression the same rows in other bytes."""
        script = f"""
import os
import pyarrow.parquet as pq
from pathlib import Path
from datetime import date
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop
pipeline = load_pipeline(Settings.load())
inbox = Path(pipeline.locations.drops) / "inbox"
half = inbox / ".{name}"
make_drop(pipeline.locations.raw, date(2024, 8, 24), {rows}, {seed}, half, pipeline.contract)
if "{compression}":
    pq.write_table(pq.read_table(half), half, compression="{compression}")
os.rename(half, inbox / "{name}")
"""
        self.apex("python3", "-c", script)

    def pause(self, dag: str, value: bool = True) -> None:
        """Pause a DAG, or let it go on."""
        with self.airflow("admin") as api:
            assert api.patch(f"/api/v2/dags/{dag}", json={"is_paused": value}).status_code == 200

    def healthy(self, service: str) -> bool:
        state = json.loads(docker("inspect", "--format", "{{json .State}}", self.container(service)))
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    def left(self) -> list[str]:
        """Containers, volumes and networks of the project."""
        result = docker("ps", "--all", "--filter", f"name={self.project}", "--format", "{{.Names}}").splitlines()
        result += self.steps()
        for kind in ("volume", "network"):
            result += docker(kind, "ls", "--filter", f"name={self.project}", "--format", "{{.Name}}").splitlines()
        return result

    def remove(self) -> None:
        """Take down the platform with its data."""
        self.platform("down", "--volumes", check=False)


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """The platform, its images built, up with a champion and one scored drop; `ran` is the output of the main job.

    Afterwards nothing is left of it but the images.
    """
    if not OF_A_REGISTRY:
        created = subprocess.run([str(STANDIN / "make.sh")], capture_output=True, text=True, check=False)
        assert created.returncode == 0, created.stderr
    stack = Stack(folder)
    try:
        stack.platform("images", seconds=1500)
        stack.platform("up")
        stack.apex("apex", "simulate", "--orders", "60000", "--clients", "8000", "--files", "3", "--seed", "5")
        stack.ran = stack.platform("run").stdout
        yield stack
    finally:
        stack.remove()
    assert stack.left() == []
