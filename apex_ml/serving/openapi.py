"""The OpenAPI documents of the service: the request model of the contract, and an example that is valid now."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from apex_ml.adapters.duckdb.derived_columns import request_reader
from apex_ml.contract.example import example_row
from apex_ml.serving.keys import KeyFile
from apex_ml.serving.service import PipelineService

PROTECTED = ("/predict", "/model", "/metrics")
"""Paths that need a key when the service has any."""


def describe(app: FastAPI, keys: KeyFile, pipeline: PipelineService | None) -> None:
    """Set the function that FastAPI calls for the document; a document is kept while its inputs stay the same.

    The inputs are the time of the pipeline's history snapshot, today, and whether there are keys. Without a pipeline
    the routes of the process are described alone.
    """
    made_for: tuple[date, bool, date] | None = None

    def openapi() -> dict[str, Any]:
        nonlocal made_for
        today = datetime.now(UTC).date()
        predictor = pipeline.watcher.predictor if pipeline else None
        inputs = (predictor.history.since if predictor else today, bool(keys.keys), today)
        if app.openapi_schema is None or made_for != inputs:
            app.openapi_schema, made_for = _document(app, pipeline, *inputs), inputs
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(
    app: FastAPI, pipeline: PipelineService | None, since: date, has_keys: bool, today: date
) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    if pipeline is not None:
        _add_request(document, pipeline, since, today)
    if has_keys:
        _add_security(document)
    return document


def _add_request(document: dict[str, Any], pipeline: PipelineService, since: date, today: date) -> None:
    contract = pipeline.context.contract
    schema = pipeline.reader.model.model_json_schema(ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= schema.pop("$defs")
    document["components"]["schemas"]["PredictRequest"] = schema
    body: dict[str, Any] = {"application/json": {"schema": {"$ref": "#/components/schemas/PredictRequest"}}}
    if row := example_row(contract, request_reader(contract), since, today):
        body["application/json"]["example"] = {"rows": [row]}
    document["paths"]["/predict"]["post"]["requestBody"] = {"required": True, "content": body}


def _add_security(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    for path in PROTECTED:
        for operation in document["paths"].get(path, {}).values():
            operation["security"] = [{"key": []}, {"bearer": []}]
