"""The OpenAPI document of the service: the request model of the contract, and an example that is valid now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from apex_ml.contract.example import example_order
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.serving.service import Service

PROTECTED = ("/predict", "/model", "/metrics")
"""Paths that need a key when the service has any."""


def openapi_of(app: FastAPI, service: Service) -> Callable[[], dict[str, Any]]:
    """The function that FastAPI calls for the document; a document is kept while its inputs stay the same.

    The inputs are the day of the history snapshot, today, and whether there are keys.
    """
    made_for: tuple[date, bool, date] | None = None

    def openapi() -> dict[str, Any]:
        nonlocal made_for
        predictor, today = service.watcher.predictor, datetime.now(UTC).date()
        inputs = (predictor.history.as_of if predictor else today, bool(service.keys.keys), today)
        if app.openapi_schema is None or made_for != inputs:
            app.openapi_schema, made_for = _document(app, service, *inputs), inputs
        return app.openapi_schema

    return openapi


def _document(app: FastAPI, service: Service, since: date, has_keys: bool, today: date) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schema = service.reader.model.model_json_schema(ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= schema.pop("$defs")
    document["components"]["schemas"]["PredictRequest"] = schema
    body: dict[str, Any] = {"application/json": {"schema": {"$ref": "#/components/schemas/PredictRequest"}}}
    if order := example_order(service.context.contract, RequestReader(service.context.contract), since, today):
        body["application/json"]["example"] = {"orders": [order]}
    document["paths"]["/predict"]["post"]["requestBody"] = {"required": True, "content": body}
    if has_keys:
        _add_security(document)
    return document


def _add_security(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    for path in PROTECTED:
        for operation in document["paths"][path].values():
            operation["security"] = [{"key": []}, {"bearer": []}]
