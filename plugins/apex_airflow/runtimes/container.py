"""The runner that executes each step in its own container."""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from apex_airflow.runtimes.process import GRACE_SECONDS, Emit, Outcome, ResultOfLines, StepCommand, find_result, text_of
from apex_ml.errors import ConfigError, TransientError
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.settings import Settings

if TYPE_CHECKING:  # Airflow parses this file: the SDK is imported when a step runs
    from docker import APIClient

LABEL = "apex.step"
"""Label of every step's container; its value is the project, ``apex.task`` names the task."""
TASK_LABEL = "apex.task"
HOME = "/apex"
ENV_FILE = "/run/secrets/apex/env"
PIPELINE = "APEX_PIPELINE"
ENVIRONMENT = frozenset({"APEX_HOME", "APEX_ENV_FILE", "APEX_ORIGIN", PIPELINE})
"""Environment variables of a step's container. `docker inspect` shows them, so none is a secret."""
BEYOND = 30
"""Seconds after Airflow's own time limit after which the container stops itself, in case Airflow is down."""
API_VERSION = "1.41"
ENGINE_TIMEOUT = 60
"""Timeout of a call to the engine, in seconds."""


def container_name(command: StepCommand, project: str) -> str:
    """Return the unique name of a try.

    >>> container_name(StepCommand(("elt",), task="retrain-x-1.elt", number=2), "apex")
    'apex-retrain-x-1.elt-2-696d4c'
    """
    whole = f"{project}/{command.task}/{command.number}"
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", command.task)[:100]
    return f"{project}-{readable}-{command.number}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def host_config(settings: Settings, step: str, pipeline: str | None) -> dict[str, Any]:
    """The host configuration of a step's container: limits, two mounts, one network, no privileges.

    The proxy to the engine accepts exactly this. The pipeline can have limits of its own, and only its training gets a
    GPU, with ``device: cuda``. Raises ConfigError for a pipeline that does not exist.
    """
    options = load_pipeline_settings(settings.model_copy(update={"pipeline": pipeline or settings.pipeline})).options
    memory = (options.resources.memory_mb or settings.step_memory_mb) << 20
    created: dict[str, Any] = {
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": int((options.resources.cpus or settings.step_cpus) * 1e9),
        "PidsLimit": 1024,
        "NetworkMode": settings.project,
        "Init": True,
        "AutoRemove": False,
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": "rw,nosuid,nodev,size=1g,mode=1777"},
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        # the log is read and then removed with its container, independent of the engine's default log driver
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "100m", "max-file": "1"}},
        "Mounts": [
            _volume(f"{settings.project}_home", HOME),
            _volume(f"{settings.project}_secrets-steps", "/run/secrets/apex", read_only=True),
        ],
    }
    if step == "train" and options.model.device == "cuda":
        created["DeviceRequests"] = [{"Count": -1, "Capabilities": [["gpu"]]}]
    return created


def container_body(settings: Settings, command: StepCommand) -> dict[str, Any]:
    """The whole request to create a step's container."""
    limit = ["timeout", f"--kill-after={BEYOND}", str(int(command.seconds + BEYOND))] if command.seconds else []
    variables = {**command.env, "APEX_HOME": HOME, "APEX_ENV_FILE": ENV_FILE}
    return {
        "Image": settings.step_image,
        "Cmd": [*limit, "apex", *command.args],
        "Env": [f"{name}={value}" for name, value in sorted(variables.items())],
        "Labels": {LABEL: settings.project, TASK_LABEL: command.task},
        "HostConfig": host_config(settings, command.args[0], command.env.get(PIPELINE)),
    }


def _volume(source: str, target: str, read_only: bool = False) -> dict[str, Any]:
    return {"Type": "volume", "Source": source, "Target": target, "ReadOnly": read_only}


class ContainerRunner:
    """Runs a step as a container of the step image, with limits of memory, processors and time.

    The container is removed when the step has ended, is killed by :meth:`kill`, on any exception of the reader (a
    timeout), and, behind the proxy, when this process itself is killed. A try first removes the leftovers of an earlier
    try of the same task.

    :meth:`run` raises TransientError when the engine does not answer, and ConfigError when it refuses.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings.load()
        self._container: str | None = None
        self._stopped = False

    def run(self, command: StepCommand, emit: Emit) -> Outcome:
        """Run to the end; pass every line of stdout and stderr to ``emit`` immediately."""
        from docker.errors import APIError

        output = ResultOfLines(emit)
        with self._map_engine_errors(), contextlib.closing(self._client()) as client:
            self._remove_leftovers(client, command)
            self._stopped = False
            created = client.create_container_from_config(
                container_body(self._settings, command), container_name(command, self._settings.project)
            )
            self._container = container = created["Id"]
            exit_code, printed, out_of_memory = -signal.SIGTERM, b"", False
            try:
                client.start(container)
                for line in _lines(client.logs(container, stdout=True, stderr=True, stream=True, follow=True)):
                    output.take(line)
                exit_code = client.wait(container, timeout=ENGINE_TIMEOUT)["StatusCode"]
                out_of_memory = client.inspect_container(container)["State"].get("OOMKilled", False)
                # read alone, stdout is complete: no byte of stderr is inside one of its lines
                printed = client.logs(container, stdout=True, stderr=False)
            except APIError:
                if not self._stopped:  # a killed container is gone
                    raise
            finally:
                stopped = self._stopped
                self.kill()
        results = [match for line in printed.split(b"\n") if (match := find_result(text_of(line))) is not None]
        if out_of_memory:
            limit = f"killed at its memory limit of {self._settings.step_memory_mb} MB (APEX_STEP_MEMORY_MB)"
            output.tail.append(f"apex: {limit}")
        # like a shell, the engine adds 128 to the number of a signal
        code = 128 - exit_code if exit_code > 128 else exit_code
        return Outcome(code, results[-1] if results else None, tuple(output.tail), stopped)

    def kill(self) -> None:
        """Stop the container and remove it. Safe to call at any time, also from a signal handler."""
        container, self._container = self._container, None
        if container is None:
            return
        self._stopped = True
        # a separate client, because another one can be reading
        with contextlib.suppress(Exception), contextlib.closing(self._client(timeout=GRACE_SECONDS + 1)) as client:
            with contextlib.suppress(Exception):
                client.stop(container, timeout=int(GRACE_SECONDS))
            client.remove_container(container, force=True, v=True)

    def _client(self, timeout: float = ENGINE_TIMEOUT) -> APIClient:
        from docker import APIClient

        return APIClient(base_url=self._settings.docker_host, version=API_VERSION, timeout=timeout)

    def _remove_leftovers(self, client: APIClient, command: StepCommand) -> None:
        filters = {"label": [f"{LABEL}={self._settings.project}", f"{TASK_LABEL}={command.task}"]}
        for left in client.containers(all=True, filters=filters):
            client.remove_container(left["Id"], force=True, v=True)

    @contextlib.contextmanager
    def _map_engine_errors(self) -> Iterator[None]:
        """Map errors of the engine to TransientError or ConfigError."""
        from docker.errors import APIError, DockerException, ImageNotFound
        from requests.exceptions import RequestException

        where = f"Docker at {self._settings.docker_host} (APEX_DOCKER_HOST)"
        try:
            yield
        except ImageNotFound as error:
            raise ConfigError(
                f"{where} has no image {self._settings.step_image} (APEX_STEP_IMAGE): `make images` builds it"
            ) from error
        except APIError as error:
            kind = TransientError if error.is_server_error() else ConfigError
            raise kind(f"{where} refuses: {error.explanation or error}") from error
        except (DockerException, RequestException) as error:
            raise TransientError(f"{where} does not answer: {error}") from error


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    pending = b""
    for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        yield from (text_of(line) for line in lines)
    if pending:
        yield text_of(pending)
