"""The model registry by MLflow's REST API. MLflow itself is not imported, as that alone takes seconds."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from apex_ml.adapters.storage.local import new_folder
from apex_ml.contract.names import encoded
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.settings import Settings
from apex_ml.surroundings import own_hosts

logger = logging.getLogger(__name__)
CHAMPION = "champion"
CHALLENGER = "challenger"
TRY_LATER = (408, 425, 429)
"""Answers of HTTP that refuse nothing for good, although they begin with a 4."""
BUNDLE = "bundle"
"""Name of the folder with the model's own files among the artifacts of a logged model."""
FILES_TAG = "apex.bundle"
"""Tag of a model version: JSON of the bundle's file names and their sha256."""


MOST_METRICS = 1000
"""Metrics that MLflow takes in one request."""
MAX_KEY = 250
"""Characters of a key of MLflow."""


def metric_key(name: str) -> str:
    """Key of a metric in MLflow, which takes few characters: names of classes are part of it."""
    return encoded(name, MAX_KEY)


def gone_model(settings: Settings, known: str) -> str:
    """What to do when MLflow lost the registered model that the ledger knows."""
    return (
        f"MLflow at {settings.tracking_uri} has no registered model {settings.model_name}, although {known}: it was"
        " renamed or deleted; rename it back in MLflow, or begin anew under another name with APEX_MODEL_NAME"
    )


@dataclass(frozen=True)
class ModelVersion:
    """One registered version."""

    name: str
    version: int
    run_id: str
    model_id: str
    tags: dict[str, str]
    description: str = ""


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The certificates that the machine trusts: to read them takes longer than a request to MLflow."""
    return httpx.create_ssl_context()


LOST = ("Server disconnected", "peer closed connection")
"""How httpx begins the protocol error about a server that ended while it was asked."""


class Registry:
    """Reads and moves aliases, reads versions, fetches a version's files into a local cache.

    A server that does not answer or fails raises TransientError, a refusal ConfigError.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.tracking_uri.rstrip("/")
        self._is_own = urlsplit(self._url).hostname in own_hosts(settings)
        self._login = (
            (settings.mlflow_user, settings.mlflow_password.get_secret_value()) if settings.mlflow_user else None
        )

    def _call(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            response = httpx.request(
                method,
                f"{self._url}{path}",
                timeout=60,
                verify=self._verify(),
                auth=self._login,
                trust_env=not self._is_own,
                **kwargs,
            )
        except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
            if str(error).startswith(LOST):
                raise TransientError(
                    f"MLflow at {self._url} (APEX_MLFLOW_TRACKING_URI, APEX_MLFLOW_PORT) does not answer: {error};"
                    " start it with: make up"
                ) from error
            raise TransientError(
                f"MLflow at {self._url} (APEX_MLFLOW_TRACKING_URI, APEX_MLFLOW_PORT): what listens there answers"
                f" something else than HTTP: {error}; stop it or set another port, then: make up"
            ) from error
        except httpx.HTTPError as error:
            raise TransientError(
                f"MLflow at {self._url} (APEX_MLFLOW_TRACKING_URI, APEX_MLFLOW_PORT) does not answer:"
                f" {type(error).__name__}: {error}; start it with: make up"
            ) from error
        if response.status_code >= 500 or response.status_code in TRY_LATER:
            raise TransientError(
                f"MLflow at {self._url} failed on {path}: {response.status_code} {response.text[:200]}"
            )
        return response

    def _verify(self) -> ssl.SSLContext | bool:
        """The certificates, where there are any to look at: an unreadable SSL_CERT_FILE stops no plain HTTP."""
        return _trusted() if self._url.startswith("https:") else False

    def _json(self, method: str, path: str, **kwargs: Any) -> dict[str, Any] | None:
        """The answer, or None when MLflow says that the thing does not exist."""
        response = self._call(method, f"/api/2.0/mlflow/{path}", **kwargs)
        try:
            answer = response.json()
            if not isinstance(answer, dict):
                raise ValueError("no object")
        except ValueError as error:  # a proxy, or another server
            raise TransientError(
                f"MLflow at {self._url} (APEX_MLFLOW_TRACKING_URI, APEX_MLFLOW_PORT) answered {path} with no JSON"
                f" object: {response.status_code} {response.text[:200]}; is it MLflow that answers there? Stop what"
                " listens there or set another port, then: make up"
            ) from error
        if response.status_code in (400, 404):
            message, code = str(answer.get("message", "")), answer.get("error_code")
            if "not found" in message or code == "RESOURCE_DOES_NOT_EXIST":
                return None
        if response.status_code >= 400:
            raise ConfigError(f"MLflow at {self._url} refused {path}: {response.status_code} {response.text[:300]}")
        return answer

    def _there(self, method: str, path: str, what: str, **kwargs: Any) -> dict[str, Any]:
        """The answer about a thing that must exist; ConfigError naming it when somebody deleted it."""
        if (answer := self._json(method, path, **kwargs)) is None:
            raise ConfigError(f"MLflow at {self._url} no longer has {what}: it was deleted meanwhile; run again")
        return answer

    def _put(self, artifact_uri: str, name: str, content: bytes) -> None:
        """Store a file among the artifacts that MLflow serves at a URI."""
        path = f"/api/2.0/mlflow-artifacts/artifacts/{self._served(artifact_uri)}/{name}"
        if (response := self._call("PUT", path, content=content)).status_code != 200:
            raise ConfigError(f"MLflow at {self._url} refused {name}: {response.status_code} {response.text[:300]}")

    def _served(self, artifact_uri: str) -> str:
        """Path of an artifact location on the server."""
        if not artifact_uri.startswith("mlflow-artifacts:/"):
            raise ConfigError(f"MLflow does not serve its artifacts ({artifact_uri}); start it with --serve-artifacts")
        return artifact_uri.removeprefix("mlflow-artifacts:/").strip("/")

    def _version(self, answer: dict[str, Any] | None) -> ModelVersion | None:
        if answer is None:
            return None
        found = answer["model_version"]
        tags = {t["key"]: t["value"] for t in found.get("tags", [])}
        model_id = found.get("model_id") or found.get("source", "").removeprefix("models:/")
        return ModelVersion(
            found["name"], int(found["version"]), found.get("run_id", ""), model_id, tags, found.get("description", "")
        )

    def by_alias(self, alias: str) -> ModelVersion | None:
        """The version an alias stands on; None when the model or the alias does not exist."""
        name = self._settings.model_name
        return self._version(self._json("GET", "registered-models/alias", params={"name": name, "alias": alias}))

    def by_version(self, version: int) -> ModelVersion | None:
        """One version; None when it does not exist."""
        name = self._settings.model_name
        return self._version(self._json("GET", "model-versions/get", params={"name": name, "version": str(version)}))

    def has_model(self) -> bool:
        """Whether MLflow has the registered model."""
        name = {"name": self._settings.model_name}
        return self._json("GET", "registered-models/get", params=name) is not None

    def experiment(self, name: str) -> str | None:
        """Id of an experiment; None when it does not exist.

        Raises :class:`~apex_ml.errors.ConfigError` when it was deleted: MLflow then keeps its name and takes no run.
        """
        answer = self._json("GET", "experiments/get-by-name", params={"experiment_name": name})
        if answer is None:
            return None
        found = answer["experiment"]
        if found.get("lifecycle_stage") == "deleted":
            restore = f"mlflow experiments restore --experiment-id {found['experiment_id']}"
            raise ConfigError(
                f"MLflow at {self._url}: the experiment {name} was deleted, and takes no run; bring it back:"
                f" MLFLOW_TRACKING_URI={self._url} {restore}"
            )
        return str(found["experiment_id"])

    def set_alias(self, alias: str, version: int) -> None:
        """Put an alias on a version."""
        content = {"name": self._settings.model_name, "alias": alias, "version": str(version)}
        if self._json("POST", "registered-models/alias", json=content) is None:
            raise self._no_version(version)

    def _no_version(self, version: int) -> DataError:
        return DataError(
            f"{self._settings.model_name} has no version {version} in MLflow at {self._url}: it was deleted, or the"
            " model was renamed; rename it back, or train another: make train"
        )

    def drop_alias(self, alias: str) -> None:
        """Take an alias from whichever version has it; without one nothing happens."""
        name = self._settings.model_name
        self._json("DELETE", "registered-models/alias", json={"name": name, "alias": alias})

    def describe(self, version: int, description: str) -> None:
        """Set the description of a version."""
        content = {"name": self._settings.model_name, "version": str(version), "description": description}
        if self._json("PATCH", "model-versions/update", json=content) is None:
            raise self._no_version(version)

    def run_url(self, run_id: str, experiment_id: str) -> str:
        """Address of a run in the MLflow UI."""
        return f"{self._settings.mlflow_address}/#/experiments/{experiment_id}/runs/{run_id}"

    def upload(self, run_id: str, folder: Path, under: str) -> str:
        """Put the files of a folder among the artifacts of a run, over older ones; returns their address in the UI."""
        answer = self._json("GET", "runs/get", params={"run_id": run_id})
        if answer is None:
            raise DataError(f"MLflow at {self._url} has no run {run_id}")
        info: dict[str, str] = answer["run"]["info"]
        for path in sorted(p for p in folder.iterdir() if p.is_file()):
            self._put(info["artifact_uri"], f"{under}/{path.name}", path.read_bytes())
        return f"{self.run_url(run_id, info['experiment_id'])}/artifacts/{under}/report.html"

    def version_url(self, version: int) -> str:
        """Address of a version in the MLflow UI."""
        return f"{self._settings.mlflow_address}/#/models/{quote(self._settings.model_name)}/versions/{version}"

    def fetch(self, version: ModelVersion) -> Path:
        """Fetch the files of a version into the local cache, once, and check their sha256; returns their folder.

        Raises :class:`~apex_ml.errors.DataError` when the version was not registered by Apex or a file is not the one
        that was registered.
        """
        if FILES_TAG not in version.tags:
            raise DataError(
                f"{version.name} version {version.version} was not registered by Apex: it has no tag {FILES_TAG}"
            )
        wanted: dict[str, str] = json.loads(version.tags[FILES_TAG])
        folder = self._settings.state / "models" / version.name / f"{version.version}-{version.model_id}"
        if not folder.exists():
            answer = self._json("GET", f"logged-models/{version.model_id}")
            if answer is None:
                raise DataError(f"{version.name} version {version.version}: MLflow has no model {version.model_id}")
            base = self._served(answer["model"]["info"]["artifact_uri"])
            with new_folder(folder) as partial:
                for file in wanted:
                    path = f"/api/2.0/mlflow-artifacts/artifacts/{base}/artifacts/{BUNDLE}/{file}"
                    response = self._call("GET", path)
                    if response.status_code != 200:
                        raise DataError(f"{version.name} version {version.version}: MLflow lost {BUNDLE}/{file}")
                    (partial / file).write_bytes(response.content)
            logger.info("model_fetched name=%s version=%s", version.name, version.version)
        for file, sha256 in wanted.items():
            found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
            if found != sha256:
                raise DataError(
                    f"{version.name} version {version.version}: {folder / file} has sha256 {found[:12]}…,"
                    f" registered was {sha256[:12]}…; remove the folder to fetch it again"
                )
        return folder

    def files(self, version: ModelVersion) -> dict[str, bytes]:
        """The files of a version, by name."""
        folder = self.fetch(version)
        return {name: (folder / name).read_bytes() for name in json.loads(version.tags[FILES_TAG])}
