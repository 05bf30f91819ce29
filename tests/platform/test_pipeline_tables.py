"""Several pipelines on one platform: each has its schema, and commands about the platform speak of all of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from apex_ml.adapters.postgres.alerts import PostgresAlerts
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.cli.alerts import alerts
from apex_ml.cli.main import apex
from apex_ml.cli.tables import prune
from apex_ml.errors import ConfigError
from apex_ml.platform.embedded.psql import psql_call
from apex_ml.platform.pipeline_tables import migrate_pipelines
from apex_ml.platform.reports import status
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.apex_home import Apex
from tests.support.pipeline_files import text_named

ORDERS = (CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml").read_text(encoding="utf-8")


def write_pipelines(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "pipeline.yaml").write_text(text_named(name))
    return folder


@pytest.fixture
def two(databases: Any, home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A platform of two pipelines and one whose file is wrong, with empty tables; commands find it, too."""
    folder = write_pipelines(tmp_path / "pipelines", "orders", "visits", "wrong")
    (folder / "wrong" / "pipeline.yaml").write_text("name: wrong\n")
    settings: Settings = home(**databases.empty(), pipelines=folder, pipeline="")
    reports: list[str] = []
    migrate_pipelines(settings, reports.append)
    assert len(reports) == 1 and reports[0].startswith("pipeline wrong: its tables are not migrated")
    for name, value in Apex(settings).environment().items():
        if name.startswith("APEX_"):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("APEX_PIPELINE", raising=False)
    return settings


def test_every_readable_pipeline_has_its_schema(two: Settings) -> None:
    schemas = Apex(two).sql("SELECT schemaname::text FROM pg_tables WHERE tablename = 'drops' ORDER BY 1")
    assert schemas == [("orders",), ("visits",)]


def test_a_contract_that_the_tables_cannot_hold_stops_no_other_pipeline(two: Settings) -> None:
    file = two.pipelines / "visits" / "pipeline.yaml"
    file.write_text(file.read_text().replace("canal_pedido_cd", "another_target"))
    reports: list[str] = []
    migrate_pipelines(two, reports.append)
    assert len(reports) == 2 and reports[1].startswith("pipeline visits: its tables stay as they are: ")
    with pytest.raises(ConfigError, match="another_target"):
        migrate_pipelines(two.model_copy(update={"pipeline": "visits"}), reports.append)


def test_without_a_readable_pipeline_nothing_is_migrated(databases: Any, home: Any, tmp_path: Path) -> None:
    settings = home(**databases.empty(), pipelines=tmp_path / "pipelines", pipeline="")
    with pytest.raises(ConfigError, match="no pipeline in"):
        migrate_pipelines(settings, print)
    (tmp_path / "pipelines" / "wrong").mkdir(parents=True)
    (tmp_path / "pipelines" / "wrong" / "pipeline.yaml").write_text("name: wrong\n")
    with pytest.raises(ConfigError, match="wrong"):
        migrate_pipelines(settings, print)
    assert Apex(settings).sql("SELECT FROM pg_tables WHERE tablename = 'drops'") == []


def test_psql_opens_on_the_pipeline_or_on_what_is_about_all(two: Settings, home: Any, tmp_path: Path) -> None:
    def path(settings: Settings) -> str:
        return psql_call(settings)[1]["PGOPTIONS"]

    assert path(two) == '-c search_path="apex"'
    assert path(two.model_copy(update={"pipeline": "visits"})) == '-c search_path="visits"'
    with pytest.raises(ConfigError, match="did you mean visits"):
        path(two.model_copy(update={"pipeline": "visit"}))
    only = home(pipelines=write_pipelines(tmp_path / "one", "visits"), pg_reader_password="r")
    assert path(only) == '-c search_path="visits"'


def test_alerts_of_every_pipeline_are_listed_and_closed_in_theirs(two: Settings) -> None:
    for schema in ("orders", "visits"):
        with transaction(two, schema) as session:
            PostgresAlerts(session).raise_alert("bad_drop", f"{schema}.parquet", "unreadable")
    result = CliRunner().invoke(alerts)
    assert [line.split("  ")[:3] for line in result.output.splitlines()[::2]] == [
        ["orders", "1", "bad_drop"],
        ["visits", "1", "bad_drop"],
    ]
    assert isinstance(result.exception, ConfigError) and "wrong" in str(result.exception)
    only = CliRunner().invoke(apex, ["-p", "visits", "alerts"], env={"APEX_PIPELINE": None})
    assert [line.split("  ")[:2] for line in only.output.splitlines()[::2]] == [["1", "bad_drop"]], only.output
    assert only.exception is None
    unnamed = CliRunner().invoke(alerts, ["close", "1", "--reason", "x"])
    assert isinstance(unnamed.exception, ConfigError) and "several pipelines" in str(unnamed.exception)
    named = CliRunner().invoke(alerts, ["close", "1", "--reason", "x"], env={"APEX_PIPELINE": "visits"})
    assert named.output == "Closed alert 1: bad_drop, visits.parquet\n"
    is_open = "SELECT resolved_at IS NULL FROM {}.alerts"
    assert Apex(two).sql(is_open.format("orders")) == [(True,)]
    assert Apex(two).sql(is_open.format("visits")) == [(False,)]


def test_every_readable_pipeline_is_pruned(two: Settings) -> None:
    result = CliRunner().invoke(prune)
    assert result.output.count("Would remove 0 partitions") == 2
    assert [line for line in result.output.splitlines() if line.startswith("pipeline ")] == [
        "pipeline orders",
        "pipeline visits",
        "pipeline wrong",
    ]
    assert isinstance(result.exception, ConfigError) and "wrong" in str(result.exception)
    only = CliRunner().invoke(prune, env={"APEX_PIPELINE": "visits"})
    assert only.exit_code == 0 and "pipeline" not in only.output


def test_the_status_has_a_part_for_every_pipeline(two: Settings) -> None:
    console = Console(file=io.StringIO(), width=300, record=True)
    assert status._show_pipelines(two, console, None) is False
    lines = console.export_text().splitlines()
    places = [lines.index(f"pipeline {name}") for name in ("orders", "visits", "wrong")]
    assert places == sorted(places)
    for begin, end in zip(places, places[1:], strict=False):
        assert any(line.startswith("champion: none yet") for line in lines[begin:end])
    assert lines[places[-1] + 1].startswith("pipeline wrong: unknown, ")


def test_the_status_of_a_pipeline_without_tables_is_one_line(two: Settings) -> None:
    write_pipelines(two.pipelines, "later")
    console = Console(file=io.StringIO(), width=300, record=True)
    only = two.model_copy(update={"pipeline": "later"})
    assert status._show_pipelines(only, console, "later") is False
    assert console.export_text() == "later: not set up yet: `apex up` makes its tables\n"
    migrate_pipelines(two, lambda _: None)
    assert status._show_pipelines(only, console, "later") is False  # no Airflow
    assert "not set up" not in (text := console.export_text()) and "champion: none yet" in text
