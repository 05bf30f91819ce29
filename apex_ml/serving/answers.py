"""Answers of the service: their models for OpenAPI, and their bytes."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic_core import to_json

from apex_ml.contract.model import Contract
from apex_ml.pipeline_settings import FORMER_PIPELINE
from apex_ml.serving.predictor import Predicted, Predictor


class FaultAnswer(BaseModel):
    """A value that violates the contract."""

    path: str = Field(description="Its place in the body, as rows[3].name.")
    rule: str = Field(description="The violated rule.")
    value: str = Field(description="The value, shortened when it is long, with invisible characters escaped.")
    remedy: str = Field("", description="A valid value to send instead.")


class Refused(BaseModel):
    """An error answer."""

    error: str = Field(description="A short name of the error.")
    message: str = Field(description="The error message.")
    request_id: str = Field(description="The service's log has the same id.")
    faults: list[FaultAnswer] | None = Field(None, description="Values that violate the contract; the first thousand.")
    total: int | None = Field(None, description="Number of values that violate the contract.")


class ModelAnswer(BaseModel):
    """A model version."""

    model_config = ConfigDict(protected_namespaces=())

    name: str = Field(description="Registered name in MLflow.")
    version: int = Field(description="Version in MLflow.")


class Lineage(ModelAnswer):
    """The loaded champion and its lineage."""

    mlflow_run_id: str = Field(description="MLflow run that trained it.")
    features: list[str] = Field(description="The features that it uses.")
    classes: list[str] = Field(description="The classes of the model, in the order of its contract.")
    data_sha256: str | None = Field(description="Sha256 of its training data.")
    contract_sha256: str | None = Field(description="Sha256 of the contract it was trained under.")
    git_commit: str | None = Field(description="Commit of the code that trained it.")
    snapshot_sha256: str = Field(description="Sha256 of the history snapshot.")
    snapshot_as_of: str = Field(description="Day of the history snapshot: it holds the rows before it.")
    entities: int = Field(description="Entities with a history.")
    clients: int | None = Field(
        None,
        description="The former name of entities, of the pipeline of the first edition; left out in the next version.",
        deprecated=True,
    )
    description: str = Field(description="The version's description in MLflow.")


class Ready(BaseModel):
    """Whether a pipeline answers, and its problems."""

    model_config = ConfigDict(protected_namespaces=())

    ready: bool
    model_version: int | None = Field(description="The loaded version.")
    problems: list[str] = Field(description="Problems; the service goes on with the loaded champion.")


class ReadyAll(BaseModel):
    """Whether every pipeline of the process answers."""

    ready: bool = Field(description="Whether all of them are ready; with an API key, all that the key may use.")
    pipelines: dict[str, Ready] = Field(description="The pipelines that the sender may use.")
    problems: list[str] = Field(description="The pipelines that are not ready, or their number.")


class Live(BaseModel):
    """The process is live."""

    live: Literal[True] = True


def answer_model(contract: Contract) -> type[BaseModel]:
    """The model of a successful answer, made from the contract."""
    shares: dict[str, Any] = {
        f"p{place}": (float | None, Field(ge=0, le=1, alias=level)) for place, level in enumerate(contract.classes)
    }
    probabilities = create_model(
        "Probabilities",
        __doc__="Calibrated probability of each class; float32, written exactly. Null: the model does not know it.",
        **shares,
    )
    fields: dict[str, Any] = {
        "predicted": (Literal[contract.classes], Field(description="The predicted class.")),
        "probabilities": (probabilities, ...),
        "confidence": (float, Field(ge=0, le=1, description="Probability of the predicted class.")),
        "known_entity": (bool, Field(description="Whether the entity has a history.")),
        "warnings": (list[str], Field(description="Warnings of the contract, such as unknown levels.")),
    }
    if contract.name == FORMER_PIPELINE:
        former = "The former name of known_entity; it is left out in the next version."
        fields["known_client"] = (bool, Field(description=former, deprecated=True))
    prediction: Any = create_model(
        "Prediction", __doc__="The prediction for one row; predictions have the order of the rows.", **fields
    )
    return create_model(
        "PredictAnswer",
        __doc__="Predictions by one model version.",
        predictions=(list[prediction], ...),
        model=(ModelAnswer, ...),
        request_id=(str, Field(description="X-Request-ID of the request, or a new id.")),
        ms=(float, Field(description="Time of the service, in milliseconds.")),
    )


def answer_bytes(predictor: Predictor, predicted: Predicted, request_id: str, begun: float) -> bytes:
    """A successful answer; `begun` is by time.perf_counter."""
    classes, warnings = predictor.scorer.model.classes, predicted.rows.warnings
    # of a class that came into the contract after the training the model says nothing
    unknown = {level: None for level in predictor.contract.classes if level not in classes}
    has_former_key = predictor.contract.name == FORMER_PIPELINE
    # a double holds a float32 exactly, so that a reader gets the same bits
    rows = predicted.prediction.probabilities.astype(np.float64).tolist()
    sure = predicted.prediction.confidence.astype(np.float64).tolist()
    predictions = [
        {
            "predicted": classes[index],
            "probabilities": dict(zip(classes, row, strict=True)) | unknown,
            "confidence": confidence,
            "known_entity": known,
            **({"known_client": known} if has_former_key else {}),
            "warnings": warnings.get(place, ()),
        }
        for place, (index, row, confidence, known) in enumerate(
            zip(predicted.prediction.predicted.tolist(), rows, sure, predicted.known.tolist(), strict=True)
        )
    ]
    version = predictor.version
    return to_json(
        {
            "predictions": predictions,
            "model": {"name": version.name, "version": version.version},
            "request_id": request_id,
            "ms": round((time.perf_counter() - begun) * 1e3, 3),
        },
        inf_nan_mode="null",
    )


def lineage_of(predictor: Predictor) -> dict[str, Any]:
    """The values of :class:`Lineage`."""
    version, info = predictor.version, predictor.scorer.model.info
    return {
        "name": version.name,
        "version": version.version,
        "mlflow_run_id": version.run_id,
        "features": list(predictor.scorer.model.encoder.names),
        "classes": list(predictor.scorer.model.classes),
        "data_sha256": info.data_sha256,
        "contract_sha256": info.contract_sha256,
        "git_commit": info.git_commit,
        "snapshot_sha256": predictor.history.sha256,
        "snapshot_as_of": predictor.history.as_of.isoformat(),
        "entities": len(predictor.history),
        **({"clients": len(predictor.history)} if predictor.contract.name == FORMER_PIPELINE else {}),
        "description": version.description,
    }
