"""What Apex adds to Airflow's web server, behind Airflow's own login: the Data Docs of Great Expectations."""

from __future__ import annotations

from pathlib import Path

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, RedirectResponse, Response

from apex_ml.settings import Settings

PREFIX = "/apex"
DOCS = "data-docs"
# The pages show values of the data. Sandboxed they have an origin of their own: a script that came in with a value
# could not act as the person who looks at it.
HEADERS = {"Content-Security-Policy": "sandbox allow-scripts allow-popups", "X-Content-Type-Options": "nosniff"}


def data_docs_folder(settings: Settings) -> Path:
    """Folder of the Data Docs site."""
    return settings.state / "great_expectations" / "uncommitted" / "data_docs" / "local_site"


def create_app(settings: Settings) -> FastAPI:
    """Make the app that Airflow mounts under PREFIX; every route asks for a logged-in user."""
    app = FastAPI(
        title="Apex",
        dependencies=[Depends(requires_access_view(AccessView.PLUGINS))],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    site = data_docs_folder(settings)

    @app.get(f"/{DOCS}")
    def docs() -> Response:
        """Lead to the front page; with a slash at its end, so that relative links work."""
        return RedirectResponse(f"{PREFIX}/{DOCS}/index.html")

    @app.get(f"/{DOCS}/{{path:path}}")
    def page(path: str) -> Response:
        """One file of the site; anything outside it, or not there, is not found."""
        file = (site / (path or "index.html")).resolve()
        if not file.is_relative_to(site.resolve()) or not file.is_file():
            raise HTTPException(404, "There is no such page in the Data Docs; they are made by the first validation.")
        return FileResponse(file, headers=HEADERS)

    return app
