"""A home of the first edition keeps its files when its folders move below their pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform import data_folders
from apex_ml.platform.data_folders import has_former_folders, make_data_folders, move_former_folders
from apex_ml.settings import Settings
from tests.support.pipeline_files import text_named

FILES = ("data/raw/a.parquet", "data/drops/inbox/b.parquet", "data/drops/done/c.parquet", "data/processed/r/m.json")
DOCS = (".apex/great_expectations/great_expectations.yml", ".apex/great_expectations/uncommitted/page.html")


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """A home of the first edition with files in every folder, and two pipelines."""
    for name in ("orders", "visits"):
        folder = tmp_path / "pipelines" / name
        folder.mkdir(parents=True)
        (folder / "pipeline.yaml").write_text(text_named(name))
    for name in (*FILES, *DOCS):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines")


def check_moved(settings: Settings, pipeline: str) -> None:
    for name in FILES:
        new = settings.home / "data" / pipeline / Path(name).relative_to("data")
        assert new.read_text() == name and not new.is_symlink()
        assert (settings.home / name).read_text() == name, "paths in manifests still lead to the file"
    for name in DOCS:
        path = Path(name)
        assert (settings.home / path.parts[0] / path.parts[1] / pipeline / Path(*path.parts[2:])).read_text() == name
    assert not has_former_folders(settings) and move_former_folders(settings) == []


def test_folders_move_to_the_pipeline_of_the_first_edition_and_old_paths_stay_valid(home: Settings) -> None:
    lines = move_former_folders(home)
    assert f"Moved {home.home}/data/raw to {home.home}/data/orders/raw" in lines and len(lines) == 4
    check_moved(home, "orders")
    make_data_folders(home, load_pipeline(home.model_copy(update={"pipeline": "visits"})))
    assert (home.home / "data" / "visits" / "drops" / "inbox").is_dir()


def test_the_recorded_pipeline_owns_the_folders(home: Settings) -> None:
    record = {"contract": str(home.pipelines / "visits" / "pipeline.yaml"), "columns": {}}
    (home.state / "home.json").write_text(json.dumps(record))
    move_former_folders(home)
    check_moved(home, "visits")


def test_folders_of_an_unknown_owner_stay_where_they_are(home: Settings) -> None:
    (home.pipelines / "shops").mkdir()
    (home.pipelines / "shops" / "pipeline.yaml").write_text(text_named("shops"))
    shutil.rmtree(home.pipelines / "orders")
    with pytest.raises(ConfigError, match=r"data/raw: is of the first edition, and there are several pipelines"):
        move_former_folders(home)
    assert all((home.home / name).is_file() and not (home.home / name).parent.is_symlink() for name in FILES)


def test_files_in_both_places_are_refused_before_any_change(home: Settings) -> None:
    other = home.home / "data" / "orders" / "processed" / "mine.json"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    with pytest.raises(ConfigError, match=r"data/processed: is of the first edition, and .* has files, too"):
        move_former_folders(home)
    assert all((home.home / name).is_file() for name in FILES) and not (home.home / "data" / "raw").is_symlink()


def test_empty_folders_are_removed_without_a_link(tmp_path: Path) -> None:
    for name in ("raw", "drops/inbox", "drops/done"):
        (tmp_path / "data" / name).mkdir(parents=True)
    assert move_former_folders(Settings.load(home=tmp_path)) == []
    assert list((tmp_path / "data").iterdir()) == []


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("operation", range(14))
def test_an_interrupted_move_goes_on_at_the_next_call(
    home: Settings, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    """The process ends before one of the operations that change names."""
    done = 0

    def counted(method: str) -> None:
        real = getattr(Path, method)

        def call(self: Path, *arguments: object, **named: object) -> object:
            nonlocal done
            if done == operation:
                raise Killed
            done += 1
            return real(self, *arguments, **named)

        monkeypatch.setattr(data_folders.Path, method, call)

    with monkeypatch.context() as patch:
        monkeypatch = patch
        for method in ("rename", "symlink_to", "rmdir"):
            counted(method)
        try:
            move_former_folders(home)
            assert operation >= done, "every operation was interrupted once"
        except Killed:
            pass
    move_former_folders(home)
    check_moved(home, "orders")
