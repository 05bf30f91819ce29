"""`apex profile` in the terminal, and the page that it writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apex_ml.adapters.duckdb.table_profile import profile_table
from apex_ml.adapters.pages.profile_page import profile_page
from apex_ml.settings import Settings
from tests.support.command_line import called, enter_bare_folder
from tests.support.html_page import Page, assert_fits_on_a_phone
from tests.support.stranger_tables import awkward, visits, write_table


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a home, a platform or a pipeline."""
    return enter_bare_folder(tmp_path, monkeypatch)


def test_the_terminal_shows_the_table_and_a_page_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(here / "visits.parquet", visits())
    code, out, _ = called(capsys, "profile", "visits.parquet", "--target", "show")
    assert code == 0 and "visits.parquet: 3,000 rows, 8 columns in 1 file" in out
    assert re.search(r"age group +string +0 % +3 +", out) and "A row is identified by: visit" in out
    assert "it may be known only after show" in out and "Page with plots: visits-profile.html" in out
    page = Page((here / "visits-profile.html").read_text(encoding="utf-8"))
    assert {"visit", "patient", "age group", "minutes", "show"} <= {text.strip() for text in page.texts}
    assert sorted(path.name for path in here.iterdir()) == ["visits-profile.html", "visits.parquet"]


@pytest.mark.parametrize("width", [80, 200])
def test_every_column_is_one_line_of_the_terminal(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    write_table(here / "visits.parquet", visits(500))
    _, out, _ = called(capsys, "profile", "visits.parquet", "--target", "show")
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    for name in visits(10):
        (line,) = [line for line in lines if line.startswith(f" {name} ") and re.search(r" (0|\d+\.\d+) % ", line)]
        assert re.search(r"  \S.*$", line)


def test_a_fault_is_one_message_with_its_exit_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(capsys, "profile", "nosuch.parquet")
    assert code == 10 and out == "" and "there is no such file or folder" in err and "Traceback" not in err


def test_a_time_that_is_none_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(here / "visits.parquet", visits())
    code, _, err = called(capsys, "profile", "visits.parquet", "--timestamp", "distance")
    assert code == 10 and "distance cannot be the timestamp: it holds double and no dates; name a column of" in err


def test_the_page_loads_nothing_and_escapes_names_and_values(here: Path) -> None:
    path = write_table(here / "<i>.parquet", awkward())
    text = profile_page(profile_table(Settings.load(), path, "<script>alert(1)</script>"))
    page = Page(text)
    assert "script" not in page.tags and "b" in page.tags
    assert {"<script>alert(1)</script>", "<b>1</b>", "año's", "Select"} <= {t.strip() for t in page.texts}
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.search(r"url\(|@import|https?:", text)


def test_classes_are_drawn_as_long_as_there_are_colors(here: Path) -> None:
    for classes, is_drawn in ((8, True), (9, False)):
        table = visits(200) | {"show": [f"c{n % classes}" for n in range(200)]}
        text = profile_page(profile_table(Settings.load(), write_table(here / "v.parquet", table), "show"))
        assert ("the shares of the classes of show" in text) == is_drawn
        assert ('aria-label="Classes by distance"' in text) == is_drawn


@pytest.mark.parametrize("rows", [0, 1])
def test_a_page_of_hardly_any_rows(here: Path, rows: int) -> None:
    columns = {name: values[:rows] for name, values in visits(10).items()}
    assert Page(profile_page(profile_table(Settings.load(), write_table(here / "few.parquet", columns), "show")))


def test_the_page_fits_on_a_phone(here: Path) -> None:
    page = here / "page.html"
    table = visits() | {"a_very_long_name_" * 6: ["long value " * 20] * 3000}
    profile = profile_table(Settings.load(), write_table(here / "visits.parquet", table), "show")
    page.write_text(profile_page(profile), encoding="utf-8")
    assert_fits_on_a_phone(page)
