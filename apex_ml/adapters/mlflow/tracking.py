"""Log a training run to MLflow and register its model. The only module of a step that imports MLflow."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from apex_ml.adapters.mlflow.client import RETRY_STATUS
from apex_ml.adapters.mlflow.experiments import experiment_name, own_experiment
from apex_ml.adapters.mlflow.registry import (
    BUNDLE,
    FILES_TAG,
    MAX_METRICS,
    Registry,
    gone_model,
    metric_key,
)
from apex_ml.adapters.postgres.champions import champions
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.foreign_model import refuse_foreign_model
from apex_ml.adapters.postgres.versions import PostgresVersions
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.core.candidates import candidate, distribution
from apex_ml.core.estimator import Model
from apex_ml.core.model_card import with_links
from apex_ml.core.search import Trial
from apex_ml.errors import ConfigError, TransientError
from apex_ml.json_text import json_text
from apex_ml.settings import CODE_ROOT, Settings

OF_EVERY_MODEL = ("numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "scikit-learn")
"""Packages that every model needs to score."""


@dataclass(frozen=True)
class TrainingRecord:
    """What is logged about a training run."""

    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    curves: Mapping[str, list[float]]
    trials: Sequence[Trial]
    tags: Mapping[str, str]
    data_source: str
    data_sha256: str
    description: str
    sample: pd.DataFrame
    artifacts: Path
    pages: Mapping[str, str]
    """Pages among the artifacts, by the text of their links in the description."""


@dataclass(frozen=True)
class Registered:
    """Where a registered model is found."""

    version: int
    run_id: str
    experiment_id: str
    model_id: str


def _prepare(settings: Settings) -> None:
    """Set what MLflow reads at import: the login, if any; progress bars and telemetry have no place in a task's log."""
    if settings.mlflow_user:
        os.environ["MLFLOW_TRACKING_USERNAME"] = settings.mlflow_user
        os.environ["MLFLOW_TRACKING_PASSWORD"] = settings.mlflow_password.get_secret_value()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # the signature is given, and the dataset's source is a folder whichever of the two resolvers takes it
    warnings.filterwarnings("ignore", message=".*An input example was not provided.*")
    warnings.filterwarnings("ignore", message=".*can be interpreted in multiple ways.*")


def refuse_deleted(settings: Settings, pipeline: str, model_name: str) -> None:
    """Check before the training that a model can be logged and registered after it.

    Raises :class:`~apex_ml.errors.ConfigError` when the experiment was deleted in MLflow, or the registered model was
    renamed or deleted: versions would start at 1 again, and be confused with those in the ledger. So it does when the
    registered model is that of another pipeline.
    """
    with champions(settings, pipeline, model_name) as ledger:
        refuse_foreign_model(ledger, pipeline, model_name)
    registry = Registry(settings, model_name)
    own_experiment(settings, registry, pipeline, "retrain")
    if registry.has_model():
        return
    with transaction(settings, pipeline) as session:
        known = PostgresVersions(session, model_name).newest()
    if known:
        raise ConfigError(gone_model(settings, model_name, f"version {known} was trained"))


def log_and_register(
    settings: Settings, pipeline: str, model_name: str, model: Model, record: TrainingRecord
) -> Registered:
    """Log run, dataset and model, and register the model as a new version with tags.

    Raises :class:`~apex_ml.errors.TransientError` when MLflow does not answer, and
    :class:`~apex_ml.errors.ConfigError` for what it refuses.
    """
    _prepare(settings)
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.utils.mlflow_tags import MLFLOW_USER

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # after the import, which sets its own
    mlflow.set_tracking_uri(settings.tracking_uri)
    files = model.to_files()
    shas = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    # without this MLflow names the OS user, who for a run of Airflow is nobody that asked for it
    user = {MLFLOW_USER: "Airflow"} if settings.origin else None
    try:
        experiment = mlflow.set_experiment(experiment_name(pipeline, "retrain"))
        with (
            mlflow.start_run(run_name=record.name, tags=user) as run,
            tempfile.TemporaryDirectory(
                prefix=".model-",
                dir=record.artifacts.parent,  # swept with the step's folder when the process is killed
            ) as folder,
        ):
            record = _with_pages(
                record, Registry(settings, model_name).run_url(run.info.run_id, experiment.experiment_id)
            )
            _log_run(mlflow, run, record, user)
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts={BUNDLE: str(_written_bundle(Path(folder), files))},
                signature=_signature(model),
                pip_requirements=pins(model.candidate),
                code_paths=[str(CODE_ROOT / "apex_ml")],
            )
            version = mlflow.register_model(
                logged.model_uri, model_name, tags={**record.tags, FILES_TAG: json_text(shas)}
            )
            mlflow.MlflowClient().update_model_version(model_name, version.version, record.description)
            return Registered(int(version.version), run.info.run_id, experiment.experiment_id, logged.model_id)
    except MlflowException as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        status = error.get_http_status_code()
        if 400 <= status < 500 and status not in RETRY_STATUS:
            raise ConfigError(f"MLflow at {settings.tracking_uri} refuses what is logged: {first}") from error
        raise TransientError(
            f"MLflow at {settings.tracking_uri} (APEX_MLFLOW_TRACKING_URI, APEX_MLFLOW_PORT): {first}; see whether it"
            " runs and who has its port: make status"
        ) from error


def _written_bundle(folder: Path, files: Mapping[str, bytes]) -> Path:
    bundle = folder / BUNDLE
    bundle.mkdir()
    for name, content in files.items():
        (bundle / name).write_bytes(content)
    return bundle


def _with_pages(record: TrainingRecord, address: str) -> TrainingRecord:
    """The record with links to its pages in the description; `address` is that of the run."""
    pages = {text: f"{address}/artifacts/{name}" for text, name in record.pages.items()}
    return replace(record, description=with_links(record.description, pages))


def _log_run(mlflow: Any, run: Any, record: TrainingRecord, user: dict[str, str] | None) -> None:
    """Log description, parameters, dataset, metrics, curves, trials and report of a training run."""
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

    mlflow.set_tags({**record.tags, MLFLOW_RUN_NOTE: record.description})
    mlflow.log_params(dict(record.params))
    dataset = mlflow.data.from_pandas(
        record.sample, source=record.data_source, name="examples", digest=record.data_sha256[:32]
    )
    mlflow.log_input(dataset, context="training", tags={"data_sha256": record.data_sha256})
    metrics = [(metric_key(k), v) for k, v in record.metrics.items() if math.isfinite(v)]
    for start in range(0, len(metrics), MAX_METRICS):
        mlflow.log_metrics(dict(metrics[start : start + MAX_METRICS]))
    for part, values in record.curves.items():
        client = mlflow.MlflowClient()
        stamp = int(run.info.start_time)
        points = [mlflow.entities.Metric(f"log_loss_{part}", v, stamp, i) for i, v in enumerate(values)]
        for start in range(0, len(points), MAX_METRICS):
            client.log_batch(run.info.run_id, metrics=points[start : start + MAX_METRICS])
    for trial in record.trials:
        with mlflow.start_run(run_name=f"trial {trial.number + 1}", nested=True, tags=user):
            mlflow.log_params(dict(trial.params))
            if trial.value is None:
                mlflow.set_tag("apex.pruned", "true")
            else:
                mlflow.log_metrics({"validation_log_loss": trial.value, "seconds": trial.seconds})
    mlflow.log_artifacts(str(record.artifacts))


def _signature(model: Model) -> Any:
    """Names and types of a model's features and outputs: string and double, as MLflow enforces no other well."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = Schema(
        [
            ColSpec("string" if c.kind == "categorical" else "double", c.name, required=False)
            for c in model.encoder.columns
        ]
    )
    outputs = Schema(
        [
            *(ColSpec("double", name) for name in probability_columns(model.classes).values()),
            ColSpec("string", "predicted"),
        ]
    )
    return ModelSignature(inputs=inputs, outputs=outputs)


def pins(name: str) -> list[str]:
    """The libraries that a model of a candidate needs to score, at the versions it was made with."""
    from importlib.metadata import version

    packages = sorted({*OF_EVERY_MODEL, *map(distribution, candidate(name).requirements)})
    return [f"{package}=={version(package)}" for package in packages]
