"""The documentation site builds without a warning, shows every page, and loads nothing from another host."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from apex_ml.settings import CODE_ROOT
from tests.support.airflow_ui import browsing

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href"), ("object", "data")}
NOT_LOADED = {"canonical", "next", "prev", "alternate"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly from a copy of the documents."""
    project = tmp_path_factory.mktemp("site")
    shutil.copy(CODE_ROOT / "zensical.toml", project)
    shutil.copytree(CODE_ROOT / "docs", project / "docs")
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    build = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout + build.stderr
    return project / "build" / "docs-site"


class _Resources(HTMLParser):
    """Addresses that a browser loads for a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and (values.get("rel") or "") in NOT_LOADED:
            return
        self.addresses += [v for name, v in attrs if v and (tag, name) in LOADED]
        self.addresses += re.findall(r"url\(([^)]*)\)", values.get("style") or "")


def test_pages_load_nothing_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        resources = _Resources()
        resources.feed(page.read_text(encoding="utf-8"))
        assert resources.addresses, page
        assert [a for a in resources.addresses if re.match(r"(?:\w+:)?//", a)] == [], page


def test_styles_load_nothing_from_another_host(site: Path) -> None:
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text) == [], style


@pytest.mark.browser
def test_a_browser_requests_no_other_host(site: Path) -> None:
    handler = functools.partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browsing() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        requests: list[str] = []
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        for place in ("index.html", "architecture.html", "reference/settings.html", "how-to/query.html"):
            page.goto(address + place, wait_until="networkidle")
        server.shutdown()
    assert len(requests) > 8
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_drawings_load_nothing_from_another_host() -> None:
    """Attributes and styles can load; a text that is shown, such as an address in a terminal, cannot."""
    for drawing in (CODE_ROOT / "docs" / "assets").glob("*.svg"):
        for element in ElementTree.parse(drawing).iter():
            is_shown = element.tag.rpartition("}")[2] in ("text", "tspan", "title")
            loading = [*element.attrib.values(), "" if is_shown else element.text or ""]
            assert not [value for value in loading if "://" in value], (drawing, element.tag)


def test_every_page_is_in_the_navigation() -> None:
    nav = tomllib.loads((CODE_ROOT / "zensical.toml").read_text())["project"]["nav"]
    pages = {str(path.relative_to(CODE_ROOT / "docs")) for path in (CODE_ROOT / "docs").rglob("*.md")}
    assert set(_pages(nav)) == pages


def test_a_link_to_nothing_fails_the_build(tmp_path: Path) -> None:
    shutil.copy(CODE_ROOT / "zensical.toml", tmp_path)
    shutil.copytree(CODE_ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "glossary.md").open("a") as page:
        page.write("\n[lost](nowhere.md)\n")
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    build = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert build.returncode != 0
    assert "page does not exist" in build.stdout + build.stderr


def _pages(nav: Any) -> Iterator[str]:
    """Pages of a navigation, at every depth."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(entry)
