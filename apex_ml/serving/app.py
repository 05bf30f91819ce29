"""The online service as an ASGI application, behind the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from apex_ml import __version__
from apex_ml.services.run_folder import StepContext
from apex_ml.serving.guard import REQUEST_STATE, Guard
from apex_ml.serving.openapi import openapi_of
from apex_ml.serving.problems import INTERNAL, Problem, refused
from apex_ml.serving.routes import add_documentation, add_predict, add_state
from apex_ml.serving.service import Service

DESCRIPTION = """\
By which channel will the client order? The champion predicts the channel of one order, or of up to a thousand. It uses
the same contract, the same features and the same functions as for the orders of a drop.
"""


def create_app(context: StepContext) -> Guard:
    """The application. It watches the champion from its start-up to its shutdown.

    Raises :class:`~apex_ml.errors.ConfigError` for settings that contradict each other.
    """
    service = Service(context)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(
        title="Apex",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    add_predict(app, service)
    add_state(app, service)
    app.openapi = openapi_of(app, service)  # type: ignore[method-assign]
    add_documentation(app)
    _add_error_handlers(app)
    routes = frozenset(getattr(route, "path", "") for route in app.routes)
    return Guard(app, context.settings, service.keys, service.metrics, routes)


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
