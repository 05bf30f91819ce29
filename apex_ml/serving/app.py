"""The service: its routes, and the ASGI application that is behind the guard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from apex_ml import __version__
from apex_ml.contract.example import example_order
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.services.run_folder import StepContext
from apex_ml.serving import pages
from apex_ml.serving.answers import Lineage, Live, Ready, Refused, answer_bytes, answer_model, lineage_of
from apex_ml.serving.champion_watcher import ChampionWatcher
from apex_ml.serving.guard import INTERNAL, REQUEST_STATE, Guard, Problem, refused
from apex_ml.serving.keys import KeyFile
from apex_ml.serving.metrics import ServingMetrics
from apex_ml.serving.recorder import Recorder
from apex_ml.wording import counted

FEW_BYTES = 16_384
"""A larger body is worked on beside the event loop, so that single orders need not wait for it."""
DESCRIPTION = """\
By which channel will the client order? The champion judges one order, or up to a thousand, as it judges those of a
drop: the same contract, the same features, the same numbers.
"""


class Service:
    """What the routes share."""

    def __init__(self, context: StepContext) -> None:
        contract = context.contract
        self.context = context
        self.keys = KeyFile(context.settings)
        # one for the event loop and one for the thread beside it: what a reader remembers is not shared
        self.reader, self.reader_beside = RequestReader(contract), RequestReader(contract)
        self.figures = ServingMetrics(contract.classes)
        self.follower = ChampionWatcher(context, self.keys.look)
        self.recorder = Recorder(context, self.figures)
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="judge")
        self.figures.watch(
            lambda: self.follower.judge.version.version if self.follower.judge else 0,
            lambda: len(self.problems()),
            lambda: len(self.recorder),
        )

    def problems(self) -> list[str]:
        """What /ready tells."""
        return [*self.follower.problems(), *self.keys.problems(), *self.recorder.problems()]

    def predict(self, reader: RequestReader, body: bytes, notes: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of the answer to the body of a request."""
        begun = time.perf_counter()
        judge, request_id = self.follower.judge, notes["request_id"]
        if judge is None:
            return 503, refused("not_ready", self.follower.waiting, request_id)
        notes["version"] = judge.version.version
        try:
            orders = reader.read(body, judge.history.as_of)
            judged = judge.judge(orders)
        except RefusedError as error:
            self.figures.refused(error.total)
            faults = [fault._asdict() for fault in error.faults]
            message = f"the request has {counted(error.total, 'fault')}; none of its orders was scored"
            return 422, refused("refused", message, request_id, faults=faults, total=error.total)
        notes["orders"] = len(orders)
        answer = answer_bytes(judge, judged, request_id, begun)
        self.figures.judged(judged.said.predicted, judged.known, len(orders.warnings))
        self.recorder.offer(request_id, judge, judged)
        return 200, answer


def create_app(context: StepContext) -> Guard:
    """The application. Its champion is followed from its start-up to its shutdown.

    Raises :class:`~apex_ml.errors.ConfigError` for settings that contradict each other.
    """
    service = Service(context)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.follower.start()
        service.recorder.start()
        yield
        service.follower.stop()
        service.recorder.stop()
        service.worker.shutdown()

    app = FastAPI(
        title="Apex",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    _routes(app, service)
    _documents(app, service)
    routes = frozenset(getattr(route, "path", "") for route in app.routes)
    return Guard(app, context.settings, service.keys, service.figures, routes)


def _routes(app: FastAPI, service: Service) -> None:
    no: dict[str, Any] = {"model": Refused}
    common: dict[int | str, dict[str, Any]] = {
        status: {**no, "description": text}
        for status, text in {
            401: "An API key is needed, or the given one is not taken.",
            421: "The Host header names another machine.",
            429: "Too many requests a second; Retry-After tells when.",
        }.items()
    }
    large: dict[int | str, dict[str, Any]] = {
        413: {**no, "description": "The body is too large."},
        408: {**no, "description": "It took too long."},
    }

    @app.post(
        "/predict",
        response_model=answer_model(service.context.contract),
        summary="Judge orders",
        responses={
            **common,
            **large,
            400: {**no, "description": "Not HTTP as it should be."},
            415: {**no, "description": "The body is no JSON by its content type."},
            422: {**no, "description": "Values break the contract: all of them, with their paths."},
            503: {**no, "description": "There is no champion yet, or the answer took too long."},
        },
    )
    async def predict(request: Request) -> Response:
        """Judge up to a thousand orders by the champion. A request is judged as a whole, or refused as a whole."""
        notes: dict[str, Any] = request.scope[REQUEST_STATE]
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Problem(415, "not_json", "send the orders as JSON, with the content type application/json")
        body = await request.body()
        if len(body) <= FEW_BYTES:
            status, answer = service.predict(service.reader, body, notes)
        else:
            loop = asyncio.get_running_loop()
            status, answer = await loop.run_in_executor(
                service.worker, service.predict, service.reader_beside, body, notes
            )
        return Response(answer, status, media_type="application/json")

    @app.get("/health", response_model=Live, summary="Does the process live?", responses={421: common[421]})
    async def health() -> Response:
        """For whoever restarts what hangs. Needs no key and no champion."""
        return JSONResponse({"live": True})

    @app.get(
        "/ready",
        response_model=Ready,
        summary="Is a champion loaded?",
        responses={421: common[421], 503: {"model": Ready, "description": "No champion is loaded."}},
    )
    async def ready() -> Response:
        """For whoever sends requests here. With problems alone it stays ready: it goes on with the loaded champion."""
        judge = service.follower.judge
        version = judge.version.version if judge else None
        told = {"ready": judge is not None, "model_version": version, "problems": service.problems()}
        if judge is None and not told["problems"]:
            told["problems"] = [service.follower.waiting]
        return JSONResponse(told, 200 if judge else 503)

    @app.get(
        "/model",
        response_model=Lineage,
        summary="Which version answers, and where it came from",
        responses={**common, 503: {**no, "description": "There is no champion yet."}},
    )
    async def model(request: Request) -> Response:
        """The loaded champion with its lineage: MLflow run, training data, contract, commit, history snapshot."""
        judge = service.follower.judge
        if judge is None:
            return _refused(request, 503, "not_ready", service.follower.waiting, {})
        return JSONResponse(lineage_of(judge))

    @app.get("/metrics", summary="ServingMetrics for Prometheus", response_class=Response, responses={**common})
    async def metrics() -> Response:
        """Requests, times, orders, predictions, problems, in Prometheus' text format."""
        return Response(service.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _documents(app: FastAPI, service: Service) -> None:
    """OpenAPI with the request model of the contract, and a page that shows it, with its own scripts."""

    made_for: list[Any] = [None]

    def openapi() -> dict[str, Any]:
        # its example is taken by the model and the snapshot of now, and keys may have been set since
        judge, asks, today = service.follower.judge, bool(service.keys.keys), datetime.now(UTC).date()
        since = judge.history.as_of if judge else today
        if app.openapi_schema is None or made_for != [(since, asks, today)]:
            made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schema = service.reader.model.model_json_schema(ref_template="#/components/schemas/{model}")
            made["components"]["schemas"] |= schema.pop("$defs")
            made["components"]["schemas"]["PredictRequest"] = schema
            body: dict[str, Any] = {"application/json": {"schema": {"$ref": "#/components/schemas/PredictRequest"}}}
            if order := example_order(service.context.contract, RequestReader(service.context.contract), since, today):
                body["application/json"]["example"] = {"orders": [order]}
            made["paths"]["/predict"]["post"]["requestBody"] = {"required": True, "content": body}
            if asks:
                made["components"]["securitySchemes"] = {
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                    "bearer": {"type": "http", "scheme": "bearer"},
                }
                for path in ("/predict", "/model", "/metrics"):
                    for operation in made["paths"][path].values():
                        operation["security"] = [{"key": []}, {"bearer": []}]
            app.openapi_schema = made
            made_for[:] = [(since, asks, today)]
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    app.mount("/docs/assets", StaticFiles(directory=pages.ASSETS), name="assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(pages.DOCS, headers={"content-security-policy": pages.POLICY})

    @app.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(pages.START, media_type="text/javascript")

    @app.exception_handler(HTTPException)
    async def told(request: Request, error: HTTPException) -> Response:
        return _refused(request, error.status_code, "http", str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Problem)
    async def said_no(request: Request, error: Problem) -> Response:
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return _refused(request, error.status, error.error, error.message, headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> Response:
        return _refused(request, 400, "gone", "the client went away", {})

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        return _refused(request, 500, *INTERNAL, {})


def _refused(request: Request, status: int, error: str, message: str, headers: dict[str, str]) -> Response:
    body = refused(error, message, request.scope[REQUEST_STATE]["request_id"])
    return Response(body, status, headers, "application/json")
