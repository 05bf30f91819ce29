"""A page that is one file: its parts, and how it looks on a phone."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest


class Page(HTMLParser):
    """Texts, tags and links of a page; tags must close in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src")]
        self.ids += [value or "" for name, value in attributes if name == "id"]
        if tag not in ("meta", "br", "img", "link"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def assert_fits_on_a_phone(page: Path) -> None:
    """The page is no wider than a phone, in the light and in the dark; skips without a browser."""
    from shutil import which

    browser = which("chromium") or which("chromium-browser") or which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]) as chromium:
            colors = set()
            for scheme in ("light", "dark"):
                opened = chromium.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)
                opened.goto(page.as_uri())
                assert opened.evaluate("document.documentElement.scrollWidth") <= 360
                colors.add(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert len(colors) == 2
