"""The Data Docs behind Airflow's login."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from jwt import InvalidTokenError

from apex_airflow.pages.web import create_app, data_docs_folder
from apex_ml.pipeline_settings import name_fault
from apex_ml.settings import Settings
from tests.support.pipeline_files import write_pipelines


class _Reader:
    """A logged-in user who may look at everything."""

    def get_name(self) -> str:
        return "reader"

    def get_role(self) -> str:
        return "ADMIN"


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    write_pipelines(tmp_path / "one", ["orders"])
    settings = Settings.load(home=tmp_path, pipelines=tmp_path / "one")
    site = data_docs_folder(settings, "orders")
    (site / "validations").mkdir(parents=True)
    (site / "index.html").write_text("front page")
    (site / "validations" / "one.html").write_text("one validation")
    (site.parent / "secret.txt").write_text("not for the net")
    (site / "link.html").symlink_to(site.parent / "secret.txt")
    return create_app(settings)


@pytest.mark.parametrize(
    "path", ["/data-docs", "/data-docs/index.html", "/data-docs/nothing.html", "/nowhere", "/no/where"]
)
def test_anonymous_is_refused_or_finds_nothing(app: FastAPI, path: str) -> None:
    assert TestClient(app, follow_redirects=False).get(path).status_code in ({404} if path == "/no/where" else {401})


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Sec-Fetch-Mode": "navigate"}
OLD_BROWSER = {"Accept": "text/html"}
SCRIPT = {"Accept": "*/*", "Sec-Fetch-Mode": "cors"}


@pytest.mark.parametrize(
    ("path", "headers", "next_page"),
    [
        ("/", BROWSER, "/apex/"),
        ("/", OLD_BROWSER, "/apex/"),
        ("/?drift=raw", BROWSER, "/apex/?drift=raw"),
        ("/orders?drift=raw", BROWSER, "/apex/orders?drift=raw"),
        ("/data-docs", BROWSER, "/apex/data-docs"),
        ("/data-docs/validations/one.html", BROWSER, "/apex/data-docs/validations/one.html"),
        ("/", {}, None),
        ("/", SCRIPT, None),
        ("/", BROWSER | {"Sec-Fetch-Mode": "cors"}, None),
        ("/static/page.css", {"Accept": "text/css,*/*;q=0.1", "Sec-Fetch-Mode": "no-cors"}, None),
        ("/metrics", {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1"}, None),
    ],
)
@pytest.mark.parametrize("root", ["", "/airflow"])
def test_a_browser_without_a_login_is_redirected_to_it_and_back(
    app: FastAPI, path: str, headers: dict[str, str], next_page: str | None, root: str
) -> None:
    airflow = FastAPI(root_path=root)
    airflow.mount("/apex", app)
    answer = TestClient(airflow, follow_redirects=False).get(f"{root}/apex{path}", headers=headers)
    if next_page is None:
        assert answer.status_code == 401
    else:
        assert answer.status_code == 302
        target = urlsplit(answer.headers["location"])
        assert (target.netloc, target.path) == ("", f"{root}/api/v2/auth/login")
        assert parse_qs(target.query) == {"next": [f"{root}{next_page}"]}


def test_a_browser_with_an_outdated_token_is_redirected_to_the_login(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strict:
        async def get_user_from_token(self, token: str) -> None:
            raise InvalidTokenError(token)

    monkeypatch.setattr("airflow.api_fastapi.core_api.security.get_auth_manager", Strict)
    client = TestClient(app, follow_redirects=False, cookies={"_token": "old"})
    assert client.get("/", headers=BROWSER).status_code == 302
    assert client.get("/", headers=SCRIPT).status_code == 403
    assert client.get("/", headers=BROWSER | {"Authorization": "Bearer old"}).status_code == 403


def test_a_user_without_permission_is_refused(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    client = _logged_in(app, monkeypatch, may_look=False)
    assert client.get("/", headers=BROWSER).status_code == 403


def test_pages_are_served_sandboxed(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    client = _logged_in(app, monkeypatch)
    for path, text in (("index.html", "front page"), ("", "front page"), ("validations/one.html", "one validation")):
        answer = client.get(f"/data-docs/orders/{path}")
        assert (answer.status_code, answer.text) == (200, text)
        assert answer.headers["content-security-policy"].startswith("sandbox")


def test_no_pipeline_can_have_the_name_of_another_page(app: FastAPI) -> None:
    firsts = {route.path.split("/")[1] for route in app.routes if isinstance(route, APIRoute)} - {"", "{name}"}
    assert firsts == {"static", "metrics", "data-docs"}
    assert [name for name in firsts if name_fault(name) is None] == []


def test_the_front_page_leads_to_the_sites(app: FastAPI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client = _logged_in(app, monkeypatch)
    airflow = FastAPI(root_path="/airflow")
    airflow.mount("/apex", app)
    proxied = TestClient(airflow, follow_redirects=False)
    assert client.get("/data-docs").headers["location"] == "/data-docs/index.html"
    for path in ("/data-docs/", "/data-docs/index.html"):
        assert client.get(path).headers["location"] == "/data-docs/orders/index.html"
        assert proxied.get(f"/airflow/apex{path}").headers["location"] == "/airflow/apex/data-docs/orders/index.html"
    # a link of the first edition, for example in MLflow
    assert client.get("/data-docs/validations/one.html").headers["location"] == "/data-docs/orders/validations/one.html"
    assert client.get("/data-docs/validations/two.html").status_code == 404
    assert client.get("/data-docs/../../secret.txt").status_code == 404
    assert client.get("/data-docs/%2e%2e/secret.txt").status_code == 404


def test_the_data_docs_of_a_pipeline_need_its_permission(
    tmp_path: Path, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pipelines(tmp_path / "pipelines", ["orders", "returns", "fraud"])
    several = create_app(Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines"))
    client = _logged_in(several, monkeypatch)
    front = client.get("/data-docs/index.html").text
    assert [f'<a href="{name}/index.html">' in front for name in ("orders", "returns", "fraud")] == [True] * 3
    assert '<link rel="stylesheet" href="../static/page.css">' in front
    assert client.get("/data-docs/orders/index.html").text == "front page"
    limited = _logged_in(several, monkeypatch, hidden="orders_score")
    assert "orders" not in limited.get("/data-docs/index.html").text
    for path in ("orders/index.html", "orders/validations/one.html", "validations/one.html"):
        assert limited.get(f"/data-docs/{path}").status_code == 404


@pytest.mark.parametrize(
    "path", ["../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "link.html", "/etc/passwd", "x"]
)
def test_nothing_outside_the_site_is_served(app: FastAPI, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    answer = _logged_in(app, monkeypatch).get(f"/data-docs/orders/{path}")
    assert answer.status_code == 404
    assert "not for the net" not in answer.text


def _logged_in(app: FastAPI, monkeypatch: pytest.MonkeyPatch, may_look: bool = True, hidden: str = "") -> TestClient:
    class Everyone:
        def is_authorized_view(self, **_: object) -> bool:
            return may_look

        def filter_authorized_dag_ids(self, *, dag_ids: set[str], **_: object) -> set[str]:
            return dag_ids - {hidden}

    for place in ("airflow.api_fastapi.core_api.security", "apex_airflow.pages.web"):
        monkeypatch.setattr(f"{place}.get_auth_manager", Everyone)
    app.dependency_overrides[get_user] = _Reader
    return TestClient(app, follow_redirects=False)
