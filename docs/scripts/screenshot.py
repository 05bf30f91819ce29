"""Take the picture of a pipeline's page, ``docs/assets/apex-page.png``, from a running platform.

apex -p orders simulate year --fast --weeks 14 --drift-week 8 --start 23-WEEKS-AGO --home FOLDER
APEX_HOME=FOLDER apex up
APEX_HOME=FOLDER python docs/scripts/screenshot.py
"""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import Page, sync_playwright

from apex_ml.settings import CODE_ROOT, Settings

PICTURE = CODE_ROOT / "docs" / "assets" / "apex-page.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZE = {"width": 1440, "height": 1500}


def open_apex(page: Page, settings: Settings) -> None:
    """Log in to Airflow as the admin, and open the page of the pipeline orders from the menu and the overview."""
    password = settings.airflow_admin_password
    assert password is not None
    page.goto(settings.airflow)
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", password.get_secret_value())
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Apex").click()
    frame = page.frame_locator("iframe")
    frame.get_by_role("link", name="orders", exact=True).click()
    frame.get_by_role("heading", name="orders", exact=True).wait_for()


def main() -> int:
    """Take the picture with the browser of this machine."""
    settings = Settings.load()
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        print(f"no browser on PATH: none of {', '.join(BROWSERS)}", file=sys.stderr)
        return 30
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light", timezone_id="UTC")
        page.set_default_timeout(90_000)
        open_apex(page, settings)
        page.wait_for_timeout(1_000)
        page.screenshot(path=PICTURE)
        browser.close()
    print(PICTURE.relative_to(CODE_ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
