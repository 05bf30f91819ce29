"""MLflow's REST API. MLflow itself is not imported, as that alone takes seconds."""

from __future__ import annotations

import functools
import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx

from apex_ml.errors import ConfigError, TransientError
from apex_ml.settings import Settings
from apex_ml.surroundings import own_hosts

RETRY_STATUS = (408, 425, 429)
"""HTTP answers that refuse nothing for good, although they begin with a 4."""


@functools.cache
def _trusted_certificates() -> ssl.SSLContext:
    """The certificates that the machine trusts: to read them takes longer than a request to MLflow."""
    return httpx.create_ssl_context()


LOST_CONNECTION = ("Server disconnected", "peer closed connection")
"""How httpx begins the protocol error about a server that ended while it was asked."""


class MlflowClient:
    """Calls of MLflow's REST API, with the login of the settings.

    A server that does not answer or fails raises :class:`~apex_ml.errors.TransientError`, a refusal
    :class:`~apex_ml.errors.ConfigError`.
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
            if str(error).startswith(LOST_CONNECTION):
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
        if response.status_code >= 500 or response.status_code in RETRY_STATUS:
            raise TransientError(
                f"MLflow at {self._url} failed on {path}: {response.status_code} {response.text[:200]}"
            )
        return response

    def _verify(self) -> ssl.SSLContext | bool:
        """The certificates, where there are any to look at: an unreadable SSL_CERT_FILE stops no plain HTTP."""
        return _trusted_certificates() if self._url.startswith("https:") else False

    def get_json(self, method: str, path: str, **kwargs: Any) -> dict[str, Any] | None:
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
        if (answer := self.get_json(method, path, **kwargs)) is None:
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

    def experiment(self, name: str) -> str | None:
        """Id of an experiment; None when it does not exist.

        Raises :class:`~apex_ml.errors.ConfigError` when it was deleted: MLflow then keeps its name and takes no run.
        """
        answer = self.get_json("GET", "experiments/get-by-name", params={"experiment_name": name})
        if answer is None:
            return None
        experiment = answer["experiment"]
        if experiment.get("lifecycle_stage") == "deleted":
            restore = f"mlflow experiments restore --experiment-id {experiment['experiment_id']}"
            raise ConfigError(
                f"MLflow at {self._url}: the experiment {name} was deleted, and takes no run; bring it back:"
                f" MLFLOW_TRACKING_URI={self._url} {restore}"
            )
        return str(experiment["experiment_id"])

    def rename_experiment(self, experiment_id: str, name: str) -> None:
        """Give an experiment another name, unless another one has it already."""
        change = {"experiment_id": experiment_id, "new_name": name}
        self._call("POST", "/api/2.0/mlflow/experiments/update", json=change)

    def run_url(self, run_id: str, experiment_id: str) -> str:
        """Address of a run in the MLflow UI."""
        return f"{self._settings.mlflow_address}/#/experiments/{experiment_id}/runs/{run_id}"
