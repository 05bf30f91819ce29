"""The routes of the service."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from apex_ml.serving import pages
from apex_ml.serving.answers import Lineage, Live, Ready, Refused, answer_model, lineage_of
from apex_ml.serving.guard import REQUEST_STATE
from apex_ml.serving.problems import Problem
from apex_ml.serving.service import Service

SMALL_BYTES = 16_384
"""A larger body is worked on beside the event loop, so that single orders need not wait for it."""


def _refusals(**texts: str) -> dict[int | str, dict[str, Any]]:
    return {int(name.removeprefix("_")): {"model": Refused, "description": text} for name, text in texts.items()}


COMMON = _refusals(
    _401="The API key is missing or wrong.",
    _421="The Host header names another machine.",
    _429="Too many requests a second; Retry-After gives the seconds to wait.",
)
OF_PREDICT = _refusals(
    _413="The body is too large.",
    _408="The request took too long.",
    _400="The request is not valid HTTP.",
    _415="The content type is not JSON, or the body is compressed.",
    _422="Values break the contract: all of them, with their paths.",
    _503="There is no champion yet, or the answer took too long.",
)
NO_CHAMPION = _refusals(_503="There is no champion yet.")


def add_predict(app: FastAPI, service: Service) -> None:
    """Add the route that predicts."""

    @app.post(
        "/predict",
        response_model=answer_model(service.context.contract),
        summary="Predict the channel of orders",
        responses={**COMMON, **OF_PREDICT},
    )
    async def predict(request: Request) -> Response:
        """Predict the channel of up to a thousand orders. One bad order refuses the whole request."""
        state: dict[str, Any] = request.scope[REQUEST_STATE]
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Problem(415, "not_json", "send the orders as JSON, with the content type application/json")
        if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise Problem(
                415, "compressed", "compressed bodies are not accepted; send plain JSON, without Content-Encoding"
            )
        body = await request.body()
        if len(body) <= SMALL_BYTES:
            status, answer = service.predict(service.reader, body, state)
        else:
            loop = asyncio.get_running_loop()
            status, answer = await loop.run_in_executor(
                service.worker, service.predict, service.reader_beside, body, state
            )
        return Response(answer, status, media_type="application/json")


def add_state(app: FastAPI, service: Service) -> None:
    """Add the routes that report the state of the service."""

    @app.get("/health", response_model=Live, summary="Is the process alive?", responses={421: COMMON[421]})
    async def health() -> Response:
        """Liveness, for the program that restarts a hanging service. Needs no key and no champion."""
        return JSONResponse({"live": True})

    @app.get(
        "/ready",
        response_model=Ready,
        summary="Is a champion loaded?",
        responses={421: COMMON[421], 503: {"model": Ready, "description": "No champion is loaded."}},
    )
    async def ready() -> Response:
        """Readiness, for a load balancer. A service with problems stays ready while a champion is loaded."""
        predictor = service.watcher.predictor
        problems = service.problems()
        if predictor is None and not problems:
            problems = [service.watcher.waiting]
        version = predictor.version.version if predictor else None
        content = {"ready": predictor is not None, "model_version": version, "problems": problems}
        return JSONResponse(content, 200 if predictor else 503)

    @app.get(
        "/model",
        response_model=Lineage,
        summary="Which model version answers, and its lineage",
        responses={**COMMON, **NO_CHAMPION},
    )
    async def model() -> Response:
        """The loaded champion with its lineage: MLflow run, training data, contract, commit, history snapshot."""
        predictor = service.watcher.predictor
        if predictor is None:
            raise Problem(503, "not_ready", service.watcher.waiting)
        return JSONResponse(lineage_of(predictor))

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response, responses={**COMMON})
    async def metrics() -> Response:
        """Requests, times, orders, predictions and problems, in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def add_documentation(app: FastAPI) -> None:
    """Add the page that shows the OpenAPI document, with its own scripts."""
    app.mount("/docs/assets", StaticFiles(directory=pages.ASSETS), name="assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(pages.DOCS, headers={"content-security-policy": pages.POLICY})

    @app.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(pages.START, media_type="text/javascript")
