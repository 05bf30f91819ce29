"""A browser, and what a person does with it in Airflow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect, sync_playwright

from apex_ml.settings import CODE_ROOT

PICTURES = CODE_ROOT / "build" / "screenshots"
COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
expect.set_options(timeout=30_000)  # other tests are at work beside the browser


@contextmanager
def browsing() -> Iterator[Browser]:
    """The machine's own Chromium, without a window; the test is skipped where there is none."""
    command = next(filter(None, map(shutil.which, COMMANDS)), None)
    if command is None:
        pytest.skip(f"no browser: none of {', '.join(COMMANDS)} is on PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # root may not use the sandbox; what is looked at is our own page
        browser = playwright.chromium.launch(executable_path=command, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


def keep(page: Page, name: str, *, full: bool = True) -> None:
    """Store a picture of the page with the build."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=full)


def log_in(page: Page, airflow: str, user: str, password: str) -> None:
    """Fill in Airflow's own form and wait for its front page."""
    page.goto(airflow)
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", password)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Browse").wait_for()


def open_apex(page: Page) -> FrameLocator:
    """Go to the page of the pipeline orders by Airflow's menu and the overview of all pipelines."""
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Apex").click()
    frame = page.frame_locator("iframe")
    frame.get_by_role("link", name="orders", exact=True).click()
    frame.get_by_role("heading", name="orders", exact=True).wait_for()
    return frame
