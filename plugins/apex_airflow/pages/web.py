"""The routes that Apex adds to Airflow's web server, with Airflow's own login: its page, the Data Docs, the metrics."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlencode

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import GetUserDep, bearer_scheme, get_user, requires_access_view
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from fastapi.security import HTTPAuthorizationCredentials
from prometheus_client import CONTENT_TYPE_LATEST

from apex_airflow.pages import metrics, overview, page, permissions, pipelines
from apex_ml.adapters.postgres.views import DatabaseDownError
from apex_ml.pipeline_settings import former_pipeline
from apex_ml.settings import Settings

PREFIX = "/apex"
DOCS = "data-docs"
NO_DOCS = "There is no such page in the Data Docs; they are made by the first validation."
LOGIN = "/api/v2/auth/login"
"""Airflow's address of the login page of the configured auth manager, which then returns to ``next``."""
INVALID_TOKEN = "Invalid JWT token"
"""The detail with which Airflow refuses a token that it did not sign."""
# The Data Docs show values of the data. The sandbox gives them a separate origin, so that a script inside a value
# cannot act as the logged-in user.
DOCS_HEADERS = {"Content-Security-Policy": "sandbox allow-scripts allow-popups", "X-Content-Type-Options": "nosniff"}
# The page shows names and messages from outside. They are escaped. If one were not, its script would still not run.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " img-src 'self'; form-action 'self'; frame-ancestors 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATIC = {path.name: path for path in (Path(__file__).parent / "static").iterdir()}


def data_docs_folder(settings: Settings, pipeline: str) -> Path:
    """Folder of the Data Docs of a pipeline."""
    return settings.state / "great_expectations" / pipeline / "uncommitted" / "data_docs" / "local_site"


def create_app(settings: Settings) -> FastAPI:
    """Make the app that Airflow mounts under PREFIX. Every route requires a login."""
    app = FastAPI(title="Apex", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(_overview(settings))
    app.include_router(_data_docs(settings))
    app.include_router(_metrics(settings))
    app.include_router(_page(settings))  # the last one: every other path is the name of a pipeline

    @app.exception_handler(HTTPException)
    async def lead_to_login(request: Request, error: HTTPException) -> Response:
        """Send a browser without a valid login to Airflow's login page; everything else gets the error."""
        if not (_lacks_login(error) and _is_page_view(request)):
            return await http_exception_handler(request, error)
        root = str(request.scope.get("root_path", "")).removesuffix(PREFIX)
        page_url = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        # relative to the host in the browser, because the cookie of the login belongs to that host
        return RedirectResponse(f"{root}{LOGIN}?{urlencode({'next': page_url})}", status_code=302)

    return app


def _lacks_login(error: HTTPException) -> bool:
    """Whether the request has no valid login. A token signed with an older secret is no login."""
    return error.status_code == 401 or (error.status_code == 403 and error.detail == INVALID_TOKEN)


def _is_page_view(request: Request) -> bool:
    """Whether a browser opens a page, in a tab or a frame; scripts and programs keep the status code."""
    return (
        request.method in ("GET", "HEAD")
        and "authorization" not in request.headers
        and request.headers.get("sec-fetch-mode", "navigate") == "navigate"
        and "text/html" in request.headers.get("accept", "")
    )


def _for_users() -> APIRouter:
    """Routes for users with access to plugins. Without this check Airflow admits anonymous users."""
    return APIRouter(dependencies=[Depends(requires_access_view(AccessView.PLUGINS))])


def _visible(user: BaseUser, names: Iterable[str]) -> tuple[str, ...]:
    """The pipelines of these names that the user may see."""
    return permissions.visible(get_auth_manager(), user, names)


def _html(text: str, status: int = 200) -> Response:
    return HTMLResponse(text, status_code=status, headers=PAGE_HEADERS)


def _overview(settings: Settings) -> APIRouter:
    router = _for_users()

    @router.get("/")
    def apex_overview(user: GetUserDep, drift: page.Scope | None = None, all: bool = False) -> Response:
        """The overview. With a single pipeline its page, unless the user asks for all."""
        names = _visible(user, pipelines.names_of(settings))
        if len(names) == 1 and not all:
            query = f"?{urlencode({'drift': drift})}" if drift else ""
            # relative: behind a proxy Airflow can have another address
            return RedirectResponse(f"{quote(names[0], safe='')}{query}", status_code=302)
        try:
            return _html(overview.render(settings, partial(_visible, user)))
        except DatabaseDownError as down:
            return _html(page.render_down(str(down)), 503)

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        """One file of the page."""
        if name not in STATIC:
            raise HTTPException(404, "There is no such file.")
        return FileResponse(STATIC[name], headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"})

    return router


def _page(settings: Settings) -> APIRouter:
    router = _for_users()

    @router.get("/{name}")
    def pipeline_page(name: str, user: GetUserDep, drift: page.Scope | None = None) -> Response:
        """The page of a pipeline, or an error page: no such pipeline for this user, a broken file, no database."""
        names = _visible(user, pipelines.names_of(settings))
        if name not in names:
            return _html(page.render_unknown(name, names), 404)
        pipeline = pipelines.load(settings, name)
        if isinstance(pipeline, pipelines.BrokenPipeline):
            return _html(page.render_broken(pipeline), 503)
        # Airflow checks the permission again when the run is triggered; here it only decides whether to show the form
        may_act = permissions.may_roll_back(get_auth_manager(), user, name)
        try:
            return _html(page.render(settings, pipeline, may_act=may_act, scope=drift))
        except DatabaseDownError as down:
            return _html(page.render_down(str(down)), 503)

    return router


def _data_docs(settings: Settings) -> APIRouter:
    router = _for_users()

    @router.get(f"/{DOCS}")
    def sites(request: Request) -> Response:
        """Redirect to the front page, with a slash, so that relative links work."""
        return _to_docs(request, "index.html")

    @router.get(f"/{DOCS}/{{path:path}}")
    def file(request: Request, path: str, user: GetUserDep) -> Response:
        """One file of the site of a pipeline that the user may see; the front page leads to these sites."""
        names = _visible(user, pipelines.names_of(settings))
        name, _, inside = path.partition("/")
        if name in names:
            shown = _file_of_site(data_docs_folder(settings, name), inside)
            if shown is None:
                raise HTTPException(404, NO_DOCS)
            return FileResponse(shown, headers=DOCS_HEADERS)
        if path in ("", "index.html"):
            return _to_docs(request, f"{names[0]}/index.html") if len(names) == 1 else _html(page.render_docs(names))
        # the first edition had one site, so links of its time name no pipeline
        former = former_pipeline(settings)
        if former in names and _file_of_site(data_docs_folder(settings, former), path):
            return _to_docs(request, f"{former}/{path}")
        raise HTTPException(404, NO_DOCS)

    return router


def _to_docs(request: Request, path: str) -> Response:
    # without the host, because behind a proxy Airflow can have another one
    return RedirectResponse(f"{request.scope.get('root_path', '')}/{DOCS}/{quote(path)}", status_code=307)


def _file_of_site(site: Path, path: str) -> Path | None:
    """One file of a site; None for a missing file or a path outside the site."""
    result = (site / (path or "index.html")).resolve()
    return result if result.is_relative_to(site.resolve()) and result.is_file() else None


def _metrics(settings: Settings) -> APIRouter:
    token = settings.metrics_token.get_secret_value().encode()
    users_only = requires_access_view(AccessView.PLUGINS)

    async def may_scrape(
        request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_scheme)]
    ) -> None:
        """Admit a request with the token, if one is set, and users with access to plugins."""
        request.state.user = None
        if token and bearer and hmac.compare_digest(bearer.credentials.encode(), token):
            return
        request.state.user = await get_user(request, None, bearer)
        users_only(request, request.state.user)

    router = APIRouter(dependencies=[Depends(may_scrape)])

    @router.get("/metrics")
    def scrape(request: Request) -> Response:
        """The metrics, in Prometheus' text format: with the token of all pipelines, else of those the user may see."""
        names = pipelines.names_of(settings)
        user = request.state.user
        visible = names if user is None else _visible(user, names)
        return Response(metrics.exposition(settings, visible), media_type=CONTENT_TYPE_LATEST)

    return router
