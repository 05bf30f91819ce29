"""The Data Docs behind Airflow's login."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI
from fastapi.testclient import TestClient

from apex_airflow.web import create_app, data_docs_folder
from apex_ml.settings import Settings


class _Reader:
    """A logged-in user who may look at everything."""

    def get_name(self) -> str:
        return "reader"

    def get_role(self) -> str:
        return "ADMIN"


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    settings = Settings.load(home=tmp_path)
    site = data_docs_folder(settings)
    (site / "validations").mkdir(parents=True)
    (site / "index.html").write_text("front page")
    (site / "validations" / "one.html").write_text("one validation")
    (site.parent / "secret.txt").write_text("not for the net")
    (site / "link.html").symlink_to(site.parent / "secret.txt")
    return create_app(settings)


@pytest.mark.parametrize("path", ["/data-docs", "/data-docs/index.html", "/data-docs/nothing.html", "/nowhere"])
def test_anonymous_is_refused_or_finds_nothing(app: FastAPI, path: str) -> None:
    assert TestClient(app, follow_redirects=False).get(path).status_code in ({404} if path == "/nowhere" else {401})


def test_pages_are_served_sandboxed(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    client = _logged_in(app, monkeypatch)
    for path, text in (("index.html", "front page"), ("", "front page"), ("validations/one.html", "one validation")):
        answer = client.get(f"/data-docs/{path}")
        assert (answer.status_code, answer.text) == (200, text)
        assert answer.headers["content-security-policy"].startswith("sandbox")


@pytest.mark.parametrize(
    "path", ["../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "link.html", "/etc/passwd", "x"]
)
def test_nothing_outside_the_site_is_served(app: FastAPI, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    answer = _logged_in(app, monkeypatch).get(f"/data-docs/{path}")
    assert answer.status_code == 404
    assert "not for the net" not in answer.text


def _logged_in(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    class Everyone:
        def is_authorized_view(self, **_: object) -> bool:
            return True

    monkeypatch.setattr("airflow.api_fastapi.core_api.security.get_auth_manager", Everyone)
    app.dependency_overrides[get_user] = _Reader
    return TestClient(app, follow_redirects=False)
