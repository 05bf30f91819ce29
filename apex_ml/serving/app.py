"""The online service as an ASGI application, behind the guard.

Each pipeline is an application of its own under its name, with its own OpenAPI document. The routes of the process are
beside them, and with one pipeline its routes are there too, without its name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Lifespan

from apex_ml import __version__
from apex_ml.contract.pipeline import Pipeline
from apex_ml.errors import ConfigError
from apex_ml.serving.addresses import Addresses
from apex_ml.serving.guard import REQUEST_STATE, Guard
from apex_ml.serving.openapi import describe
from apex_ml.serving.problems import INTERNAL, Problem, refused
from apex_ml.serving.process import OnlineService
from apex_ml.serving.routes import (
    add_documentation,
    add_fault,
    add_names_needed,
    add_pipeline,
    add_process,
    add_ready_of_all,
)
from apex_ml.serving.service import BrokenPipeline, PipelineService
from apex_ml.settings import Settings

PIPELINE = """\
The pipeline {name}: {description} The champion predicts {target} of one row, or of up to a thousand. It uses the same
contract, the same features and the same functions as for the rows of a drop.
"""
PROCESS = """\
The routes of the process. Each pipeline has routes of its own under its name, with its own page: `/<pipeline>/docs`.
"""


def create_app(settings: Settings, pipelines: Sequence[Pipeline], faults: Mapping[str, ConfigError]) -> Guard:
    """The application for these pipelines, and for the faults of those that cannot be read.

    It watches the champions from its start-up to its shutdown.
    Raises :class:`~apex_ml.errors.ConfigError` for settings that contradict each other.
    """
    service = OnlineService(settings, pipelines, faults)
    inner = {name: _pipeline_app(pipeline, service) for name, pipeline in service.pipelines.items()}
    app = _process_app(service)
    of_pipeline = frozenset(path for each in inner.values() for path in _paths(each))
    of_process = _paths(app) if service.only is None else _paths(app) - of_pipeline
    for name, each in inner.items():
        app.mount(f"/{name}", each)
    only = service.only.name if service.only else None
    return Guard(app, settings, service.keys, service.metrics, Addresses(inner, only, of_pipeline, of_process))


def _process_app(service: OnlineService) -> FastAPI:
    """The routes of the process; those of its only pipeline are among them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    only = service.only
    app = _fastapi(PROCESS if only is None else _text_of(only), lifespan)
    if only is None:
        add_ready_of_all(app, service)
        add_names_needed(app, service)
    else:
        add_pipeline(app, only)
    add_process(app, service.metrics)
    describe(app, service.keys, only)
    add_documentation(app)
    return app


def _pipeline_app(pipeline: PipelineService | BrokenPipeline, service: OnlineService) -> FastAPI:
    """The routes of one pipeline, to be put under its name."""
    if isinstance(pipeline, BrokenPipeline):
        app = _fastapi(pipeline.name)
        app.router.routes.clear()  # the document, too
        add_fault(app, pipeline)
        return app
    app = _fastapi(_text_of(pipeline))
    add_pipeline(app, pipeline)
    describe(app, service.keys, pipeline)
    add_documentation(app)
    return app


def _fastapi(description: str, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    app = FastAPI(
        title="Apex",
        version=__version__,
        description=description,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    _add_error_handlers(app)
    return app


def _text_of(pipeline: PipelineService) -> str:
    contract = pipeline.context.contract
    return PIPELINE.format(name=pipeline.name, target=contract.target, description=contract.description)


def _paths(app: FastAPI) -> frozenset[str]:
    return frozenset(getattr(route, "path", "") for route in app.routes)


def _add_error_handlers(app: FastAPI) -> None:
    """Give every error the same body, with the id of the request."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        headers, message = dict(error.headers or {}), str(error.detail)
        if error.status_code == 405 and (allowed := headers.get("allow") or headers.get("Allow")):
            message = f"{request.url.path} takes {allowed}, not {request.method}"
        return _refused(request, error.status_code, "http", message, headers)

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return _refused(request, error.status, error.error, error.message, headers)

    @app.exception_handler(ClientDisconnect)
    async def disconnect(request: Request, _: ClientDisconnect) -> Response:
        return _refused(request, 400, "gone", "the client went away", {})

    @app.exception_handler(Exception)
    async def unexpected_error(request: Request, _: Exception) -> Response:
        return _refused(request, 500, *INTERNAL, {})


def _refused(request: Request, status: int, error: str, message: str, headers: dict[str, str]) -> Response:
    body = refused(error, message, request.scope[REQUEST_STATE]["request_id"])
    return Response(body, status, headers, "application/json")
