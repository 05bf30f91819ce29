"""The routes of the service."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from apex_ml.serving import pages
from apex_ml.serving.answers import Lineage, Live, Ready, ReadyAll, Refused, answer_model, lineage_of
from apex_ml.serving.guard import ACCESS, REQUEST_STATE
from apex_ml.serving.keys import NOTHING, Access
from apex_ml.serving.metrics import ServingMetrics
from apex_ml.serving.problems import Problem
from apex_ml.serving.process import OnlineService
from apex_ml.serving.service import BrokenPipeline, PipelineService, PipelineState
from apex_ml.wording import counted

SMALL_BYTES = 16_384
"""A larger body is worked on beside the event loop, so that single rows need not wait for it."""


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def _refusals(**texts: str) -> dict[int | str, dict[str, Any]]:
    return {int(name.removeprefix("_")): {"model": Refused, "description": text} for name, text in texts.items()}


COMMON = _refusals(
    _401="The API key is missing or wrong.",
    _403="The API key is limited to other pipelines.",
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


def add_pipeline(app: FastAPI, service: PipelineService) -> None:
    """Add the routes of a pipeline."""
    _add_predict(app, service)
    _add_state(app, service)


def _add_predict(app: FastAPI, service: PipelineService) -> None:

    @app.post(
        "/predict",
        response_model=answer_model(service.context.contract),
        summary=f"Predict {service.context.contract.target} of rows",
        responses={**COMMON, **OF_PREDICT},
    )
    async def predict(request: Request) -> Response:
        """Predict up to a thousand rows. One bad row refuses the whole request."""
        state: dict[str, Any] = request.scope[REQUEST_STATE]
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Problem(415, "not_json", "send the rows as JSON, with the content type application/json")
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


def _add_state(app: FastAPI, service: PipelineService) -> None:
    @app.get(
        "/ready",
        response_model=Ready,
        summary="Is a champion loaded?",
        responses={421: COMMON[421], 503: {"model": Ready, "description": "No champion is loaded."}},
    )
    async def ready() -> Response:
        """Readiness, for a load balancer. A pipeline with problems stays ready while a champion is loaded."""
        return _ready_answer(service.state())

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


def _ready_answer(state: PipelineState) -> JSONResponse:
    return JSONResponse(asdict(state), 200 if state.ready else 503)


def add_fault(app: FastAPI, pipeline: BrokenPipeline) -> None:
    """Add the routes of a pipeline whose file cannot be used: every one of them answers 503 with the fault."""

    @app.get("/ready")
    async def ready() -> Response:
        return _ready_answer(pipeline.state())

    @app.api_route("/{path:path}", methods=METHODS)
    async def any_route(path: str) -> Response:
        raise Problem(503, "broken", pipeline.problem)


def add_process(app: FastAPI, metrics: ServingMetrics) -> None:
    """Add the routes of the process that do not depend on the number of pipelines."""

    @app.get("/health", response_model=Live, summary="Is the process alive?", responses={421: COMMON[421]})
    async def health() -> Response:
        """Liveness, for the program that restarts a hanging service. Needs no key and no champion."""
        return JSONResponse({"live": True})

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response, responses={**COMMON})
    async def answer_metrics(request: Request) -> Response:
        """Requests, times, rows, predictions and problems, in Prometheus' text format.

        An API key that is limited to pipelines gets the metrics of these and of the process.
        """
        access: Access = request.scope[ACCESS]
        return Response(metrics.text(access.includes), media_type="text/plain; version=0.0.4; charset=utf-8")


def add_ready_of_all(app: FastAPI, service: OnlineService) -> None:
    """Add the readiness of a process with several pipelines."""

    @app.get(
        "/ready",
        response_model=ReadyAll,
        summary="Is the champion of every pipeline loaded?",
        responses={421: COMMON[421], 503: {"model": ReadyAll, "description": "A pipeline has no champion loaded."}},
    )
    async def ready(request: Request) -> Response:
        """Readiness of all pipelines. Names only what the sender may use: without a key, nothing if there are keys."""
        access: Access = request.scope[ACCESS]
        states = {name: pipeline.state() for name, pipeline in service.pipelines.items()}
        visible = {name: state for name, state in states.items() if access.includes(name)}
        if access == NOTHING:
            waiting = sum(not state.ready for state in states.values())
            problems = [f"{waiting} of {counted(len(states), 'pipeline')} not ready; send an API key to see which"]
            is_ready = not waiting
        else:
            waiting_names = [name for name, state in visible.items() if not state.ready]
            problems = [f"{name} is not ready; see /{name}/ready" for name in waiting_names]
            is_ready = not waiting_names
        content = {
            "ready": is_ready,
            "pipelines": {name: asdict(state) for name, state in visible.items()},
            "problems": [] if is_ready else problems,
        }
        return JSONResponse(content, 200 if is_ready else 503)


def add_names_needed(app: FastAPI, service: OnlineService) -> None:
    """Add what answers, where there are several pipelines, the routes that need no name where there is one."""

    async def answer(request: Request) -> Response:
        access: Access = request.scope[ACCESS]
        path = request.url.path
        routes = [f"/{name}{path}" for name in service.pipelines if access.includes(name)]
        names = " or ".join(routes) or f"/<pipeline>{path}"
        raise Problem(404, "several", f"there are several pipelines; use {names} instead of {path}")

    for path in ("/predict", "/model"):
        app.add_route(path, answer, methods=METHODS, include_in_schema=False)


def add_documentation(app: FastAPI) -> None:
    """Add the page that shows the OpenAPI document, with its own scripts."""
    app.mount("/docs/assets", StaticFiles(directory=pages.ASSETS), name="assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(pages.DOCS, headers={"content-security-policy": pages.POLICY})

    @app.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(pages.START, media_type="text/javascript")
