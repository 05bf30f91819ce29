"""The model registry by MLflow's REST API. MLflow itself is not imported, as that alone takes seconds."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from apex_ml.adapters.mlflow.client import MlflowClient
from apex_ml.adapters.storage.atomic_writes import new_folder
from apex_ml.contract.encoded_names import encoded
from apex_ml.errors import DataError
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)
CHAMPION = "champion"
CHALLENGER = "challenger"
BUNDLE = "bundle"
"""Name of the folder with the model's own files among the artifacts of a logged model."""
FILES_TAG = "apex.bundle"
"""Tag of a model version: JSON of the bundle's file names and their sha256."""


MAX_METRICS = 1000
"""Metrics that MLflow takes in one request."""
MAX_KEY_LENGTH = 250
"""Characters of a key of MLflow."""


def metric_key(name: str) -> str:
    """Key of a metric in MLflow, which takes few characters: names of classes are part of it."""
    return encoded(name, MAX_KEY_LENGTH)


def gone_model(settings: Settings, model_name: str, known: str) -> str:
    """What to do when MLflow lost the registered model that the ledger knows."""
    return (
        f"MLflow at {settings.tracking_uri} has no registered model {model_name}, although {known}: it was"
        " renamed or deleted; rename it back in MLflow, or start again under another model.name in the pipeline's file"
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


def parse_version(answer: dict[str, Any] | None) -> ModelVersion | None:
    """A version from the answer of MLflow; None when it does not exist."""
    if answer is None:
        return None
    content = answer["model_version"]
    tags = {t["key"]: t["value"] for t in content.get("tags", [])}
    model_id = content.get("model_id") or content.get("source", "").removeprefix("models:/")
    return ModelVersion(
        content["name"],
        int(content["version"]),
        content.get("run_id", ""),
        model_id,
        tags,
        content.get("description", ""),
    )


class Registry(MlflowClient):
    """The registered model of one pipeline: moves aliases, reads versions, fetches their files into a local cache."""

    def __init__(self, settings: Settings, model_name: str) -> None:
        super().__init__(settings)
        self.model_name = model_name

    def by_alias(self, alias: str) -> ModelVersion | None:
        """The version of an alias; None when the model or the alias does not exist."""
        name = self.model_name
        return parse_version(self.get_json("GET", "registered-models/alias", params={"name": name, "alias": alias}))

    def by_version(self, version: int) -> ModelVersion | None:
        """One version; None when it does not exist."""
        name = self.model_name
        return parse_version(self.get_json("GET", "model-versions/get", params={"name": name, "version": str(version)}))

    def has_model(self) -> bool:
        """Whether MLflow has the registered model."""
        name = {"name": self.model_name}
        return self.get_json("GET", "registered-models/get", params=name) is not None

    def set_alias(self, alias: str, version: int) -> None:
        """Put an alias on a version."""
        content = {"name": self.model_name, "alias": alias, "version": str(version)}
        if self.get_json("POST", "registered-models/alias", json=content) is None:
            raise self._no_version(version)

    def _no_version(self, version: int) -> DataError:
        return DataError(
            f"{self.model_name} has no version {version} in MLflow at {self._url}: it was deleted, or the"
            " model was renamed; rename it back, or train another"
        )

    def drop_alias(self, alias: str) -> None:
        """Take an alias from whichever version has it; without one nothing happens."""
        name = self.model_name
        self.get_json("DELETE", "registered-models/alias", json={"name": name, "alias": alias})

    def describe(self, version: int, description: str) -> None:
        """Set the description of a version."""
        content = {"name": self.model_name, "version": str(version), "description": description}
        if self.get_json("PATCH", "model-versions/update", json=content) is None:
            raise self._no_version(version)

    def upload(self, run_id: str, folder: Path, under: str) -> str:
        """Put the files of a folder among the artifacts of a run, over older ones; returns their address in the UI."""
        answer = self.get_json("GET", "runs/get", params={"run_id": run_id})
        if answer is None:
            raise DataError(f"MLflow at {self._url} has no run {run_id}")
        info: dict[str, str] = answer["run"]["info"]
        for path in sorted(p for p in folder.iterdir() if p.is_file()):
            self._put(info["artifact_uri"], f"{under}/{path.name}", path.read_bytes())
        return f"{self.run_url(run_id, info['experiment_id'])}/artifacts/{under}/report.html"

    def version_url(self, version: int) -> str:
        """Address of a version in the MLflow UI."""
        return f"{self._settings.mlflow_address}/#/models/{quote(self.model_name)}/versions/{version}"

    def fetch(self, version: ModelVersion) -> Path:
        """Fetch the files of a version into the local cache, once, and check their sha256; returns their folder.

        Raises :class:`~apex_ml.errors.DataError` when the version was not registered by Apex or a file is not the one
        that was registered.
        """
        if FILES_TAG not in version.tags:
            raise DataError(
                f"{version.name} version {version.version} was not registered by Apex: it has no tag {FILES_TAG}"
            )
        shas: dict[str, str] = json.loads(version.tags[FILES_TAG])
        folder = self._settings.state / "models" / version.name / f"{version.version}-{version.model_id}"
        if not folder.exists():
            answer = self.get_json("GET", f"logged-models/{version.model_id}")
            if answer is None:
                raise DataError(f"{version.name} version {version.version}: MLflow has no model {version.model_id}")
            base = self._served(answer["model"]["info"]["artifact_uri"])
            with new_folder(folder) as partial:
                for file in shas:
                    path = f"/api/2.0/mlflow-artifacts/artifacts/{base}/artifacts/{BUNDLE}/{file}"
                    response = self._call("GET", path)
                    if response.status_code != 200:
                        raise DataError(f"{version.name} version {version.version}: MLflow lost {BUNDLE}/{file}")
                    (partial / file).write_bytes(response.content)
            logger.info("model_fetched name=%s version=%s", version.name, version.version)
        for file, sha256 in shas.items():
            actual = hashlib.sha256((folder / file).read_bytes()).hexdigest()
            if actual != sha256:
                raise DataError(
                    f"{version.name} version {version.version}: {folder / file} has sha256 {actual[:12]}…,"
                    f" registered was {sha256[:12]}…; remove the folder to fetch it again"
                )
        return folder

    def files(self, version: ModelVersion) -> dict[str, bytes]:
        """The files of a version, by name."""
        folder = self.fetch(version)
        return {name: (folder / name).read_bytes() for name in json.loads(version.tags[FILES_TAG])}
