"""The Apex page in a browser: on a desk and on a phone, light and dark, with strange data, and refused by Airflow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
import uvicorn
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect

from apex_airflow.pages.web import PREFIX, create_app
from apex_ml.contract.model import Contract
from apex_ml.settings import Settings
from tests.support.airflow_ui import browsing, keep
from tests.support.many_pipelines import create_tables, write
from tests.support.page_rows import fill
from tests.support.pipeline_files import write_pipelines
from tests.support.throwaway_home import free_ports

pytestmark = pytest.mark.browser
LONG_NAME = "a_name_with_as_many_letters_as_there_can"

# WCAG 2: the contrast of each text with what is behind it
FAINT = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const back = parse(getComputedStyle(at).backgroundColor);
      if (back.length < 4 || back[3] > 0) return back;
    }
  };
  const found = [];
  for (const node of document.querySelectorAll("body *:not(title):not(option)")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const front = parse(node.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(front), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(`${node.textContent.trim()}: ${front} on ${behind(node)}`);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as instance:
        yield instance


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Address of the page, for an admin."""
    app = create_app(settings)
    app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username="admin", role="ADMIN")
    root = FastAPI()
    root.mount(PREFIX, app)
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(root, host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    with pytest.MonkeyPatch.context() as patch:
        for place in ("airflow.api_fastapi.core_api.security", "apex_airflow.pages.web"):
            patch.setattr(f"{place}.get_auth_manager", SimpleAuthManager)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}{PREFIX}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url(lasting_databases: Any, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings.load(home=tmp_path_factory.mktemp("home"), **lasting_databases.migrated())
    fill(settings, contract.classes)
    with served(settings) as instance:
        yield instance


@pytest.fixture(scope="module")
def url_of_many(lasting_databases: Any, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Four pipelines: two with alerts, one that is well, one with a broken file."""
    home = tmp_path_factory.mktemp("home")
    names = ("orders", LONG_NAME, "well")
    write_pipelines(home / "pipelines", [*names, "broken"])
    broken = home / "pipelines" / "broken" / "pipeline.yaml"
    broken.write_text(broken.read_text().replace("trials: 0", "trials: -3"))
    settings = Settings.load(home=home, pipelines=home / "pipelines", **lasting_databases.migrated())
    create_tables(settings, contract, names[1:])
    for name in names:
        fill(settings, contract.classes, schema=name)
    write(settings, "UPDATE well.alerts SET resolved_at = now()")
    with served(settings) as instance:
        yield instance


@contextmanager
def opened(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page without errors in the console or in scripts."""
    with closing(browser.new_context(**options)) as context:
        page = context.new_page()
        expected: list[str] = []
        page.on("console", lambda message: expected.append(message.text))
        page.on("pageerror", lambda error: expected.append(str(error)))
        # which a browser asks for by itself, of Airflow
        page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        yield page
        assert expected == []


# beside its menu, Airflow leaves 322 of 390 pixels to the page
LOOKS = [("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 322, "light"), ("phone-dark", 390, "dark")]


@pytest.mark.parametrize(("name", "width", "scheme"), LOOKS)
def test_the_overview_can_be_read(browser: Browser, url_of_many: str, name: str, width: int, scheme: Any) -> None:
    with opened(browser, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        page.goto(url_of_many)
        keep(page, f"apex-overview-{name}")
        expect(page.get_by_text("3 of 4 need attention.")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(FAINT) == []
        assert page.locator(".wide").evaluate("e => e.scrollWidth - e.clientWidth") == 0  # no cell is cut
        expect(page.get_by_role("img", name="Log loss by week").first).to_be_visible()
        page.get_by_role("link", name=LONG_NAME).click()
        expect(page.get_by_role("heading", name=LONG_NAME)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    # its status is an error, which a browser writes to the console
    with closing(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)) as context:
        page = context.new_page()
        page.goto(f"{url_of_many}{LONG_NAME}")
        page.get_by_role("link", name="Apex", exact=True).click()
        page.get_by_role("link", name="broken", exact=True).click()
        expect(page.get_by_role("heading", name="broken cannot be shown")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(FAINT) == []


@pytest.mark.parametrize(("name", "width", "scheme"), LOOKS)
def test_the_page_can_be_read(browser: Browser, url: str, name: str, width: int, scheme: Any) -> None:
    with opened(browser, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        page.goto(f"{url}orders")
        expect(page.get_by_role("heading", name="Champion: version 3")).to_be_visible()
        keep(page, f"apex-page-{name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways
        page.get_by_text("Roll back …").click()
        assert page.evaluate(FAINT) == []
        # the newest column is the last
        left = "e => e.scrollWidth - e.clientWidth - e.scrollLeft"
        assert page.locator(".wide:has(.heat)").evaluate(left) <= 1


def test_the_theme_of_airflow_overrides_that_of_the_system(browser: Browser, url: str) -> None:
    def paper(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    with opened(browser, color_scheme="light") as page:
        page.goto(f"{url}orders")
        light = paper(page)
        page.evaluate("localStorage.setItem('theme', 'dark')")
        page.reload()
        assert paper(page) != light
        page.evaluate("localStorage.setItem('theme', 'system')")
        page.reload()
        assert paper(page) == light


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (403, '{"detail": "Forbidden"}', "You may look, but not roll back: Airflow refuses it (403)."),
        (401, "{}", "Your session is over: log in again (401)."),
        (400, '{"detail": "<b>no</b>"}', "Airflow refuses it (400): <b>no</b>"),
        (500, "oops", "Airflow refuses it (500): see its log"),
    ],
)
def test_a_refusal_is_shown(browser: Browser, url: str, status: int, body: str, message: str) -> None:
    with closing(browser.new_context()) as context:
        page = context.new_page()
        page.route("**/api/v2/**", lambda route: route.fulfill(status=status, body=body))
        page.goto(f"{url}orders")
        page.get_by_text("Roll back …").click()
        page.get_by_label("To").select_option("1")
        page.get_by_label("Why").fill("worse in the field")
        page.get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("status")).to_have_text(message)
        assert page.get_by_role("status").locator("b").count() == 0
        expect(page.get_by_role("button", name="Roll back")).to_be_enabled()


def test_the_request_to_airflow(browser: Browser, url: str) -> None:
    requests: list[Any] = []
    with closing(browser.new_context()) as context:
        page = context.new_page()

        def answer(route: Any) -> None:
            request = route.request
            requests.append((request.method, request.url.split("/", 3)[3], request.post_data_json))
            route.fulfill(json={"dag_run_id": "manual__a+b", "state": "failed"})

        page.route("**/api/v2/**", answer)
        page.goto(f"{url}orders")
        page.get_by_text("Roll back …").click()
        page.get_by_label("Why").fill("  ab ")
        page.get_by_role("button", name="Roll back").click()  # the browser asks for a version first
        assert page.get_by_label("To").evaluate("e => e.validity.valueMissing")
        page.get_by_label("To").select_option("1")
        page.get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("status")).to_have_text("Say why in three letters or more.")
        page.get_by_label("Why").fill(" worse in the field ")
        page.get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("status")).to_contain_text("orders_rollback failed; the champion is as before.")
        link = page.get_by_role("link", name="See the run").get_attribute("href")
    why = "worse in the field"
    body = {"logical_date": None, "conf": {"reason": why, "version": 1}, "note": why}
    runs = "api/v2/dags/orders_rollback/dagRuns"
    assert requests == [("POST", runs, body), ("GET", f"{runs}/manual__a%2Bb", None)]
    assert link == "../dags/orders_rollback/runs/manual__a%2Bb"


def test_external_texts_are_escaped(browser: Browser, databases: Any, home: Callable[..., Settings]) -> None:
    evil = "<img src=x onerror='window.evil = 1'><script>window.evil = 1</script>\"><svg onload=window.evil=1>"
    settings = home(**databases.migrated())
    with closing(psycopg2.connect(settings.writer_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO orders.drops (sha256, name, bytes, state, reason)"
            " VALUES (repeat('a', 64), %(evil)s, 1, 'failed', %(evil)s);"
            "INSERT INTO orders.alerts (kind, subject, message) VALUES (%(evil)s, %(evil)s, %(evil)s);"
            "INSERT INTO orders.drift (scope, subject, day, feature, kind, rows, psi, drifted, note)"
            " VALUES ('day', %(evil)s, current_date, %(evil)s, 'history', 1, 1, true, %(evil)s)",
            {"evil": evil},
        )
    with served(settings) as url, opened(browser) as page:
        page.goto(f"{url}orders")
        expect(page.get_by_text(evil).first).to_be_visible()
        assert page.evaluate("[window.evil, document.querySelectorAll('img').length]") == [None, 0]
