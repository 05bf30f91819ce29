"""`apex status` has the services once, then a section for each pipeline; a broken file is reported once, in its own."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from apex_ml.cli.main import apex
from apex_ml.errors import ConfigError
from apex_ml.platform.reports import status
from apex_ml.settings import Settings
from tests.support.apex_home import Apex
from tests.support.pipeline_files import break_pipeline, write_pipelines

NAMES = ("orders", "returns", "visits")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Three pipelines, of which one is broken, on a platform that is down."""
    write_pipelines(tmp_path / "pipelines", NAMES)
    break_pipeline(tmp_path / "pipelines", "returns")
    return Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines", airflow_port=1, pg_port=2)


def shown(settings: Settings, only: str | None = None) -> str:
    out = io.StringIO()
    assert not status.show(settings, Console(file=out, width=400), only)
    return out.getvalue()


def sections(text: str) -> dict[str, str]:
    _, *parts = re.split(r"^pipeline (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_a_section_for_each_pipeline(settings: Settings) -> None:
    text = shown(settings)
    parts = sections(text)
    assert list(parts) == list(NAMES)
    assert text.count("schedule.retrain: ") == 1 and "returns/pipeline.yaml" in parts["returns"]
    for name in ("orders", "visits"):
        for title in ("DAGs", "champion", "inbox is missing", "last retrain runs", "deadlines"):
            assert title in parts[name], title
        assert f"{settings.home}/data/{name}/drops/inbox" in parts[name]
    assert "champion" not in parts["returns"], "nothing else is known of it"


def test_a_named_pipeline_is_shown_alone(settings: Settings) -> None:
    own = settings.model_copy(update={"pipeline": "visits"})
    text = shown(own, only="visits")
    assert "data/visits/drops" in text and "data/orders/" not in text and "returns/pipeline.yaml" not in text
    # named for other commands, it hides no pipeline
    assert list(sections(shown(own))) == list(NAMES)
    with pytest.raises(ConfigError, match=r"no pipeline visit in .*did you mean visits\?"):
        shown(settings.model_copy(update={"pipeline": "visit"}), only="visit")


def test_an_unknown_pipeline_is_an_error_of_the_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in Apex(settings).environment().items():
        if name.startswith("APEX_"):
            monkeypatch.setenv(name, value)
    for arguments in (["-p", "nope", "status"], ["-p", "nope", "status", "--check"]):
        result = CliRunner().invoke(apex, arguments)
        assert isinstance(result.exception, ConfigError) and not result.output
        assert str(result.exception).startswith("no pipeline nope in ")
