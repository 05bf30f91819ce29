"""The generated parts of the reference pages are what the code gives. ``make reference`` writes them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from apex_airflow.pages.metrics import exposition
from apex_ml.contract.model import Contract
from apex_ml.contract.options import SECTIONS, PipelineOptions
from apex_ml.platform.reports.settings_table import markdown_table
from apex_ml.serving.metrics import ServingMetrics
from apex_ml.settings import Settings
from docs.scripts import reference
from tests.support.page_rows import fill


def _check(page: str, name: str, text: str) -> None:
    path = reference.REFERENCE / page
    if os.environ.get("APEX_TEST_WRITE_REFERENCE"):
        reference.write_part(path, name, text)
    assert reference.generated_part(path, name) == text, "run: make reference"


def test_settings() -> None:
    _check("settings.md", "settings", markdown_table())


def test_options_of_a_pipeline() -> None:
    _check("pipeline.md", "options", reference.options())


def test_former_variables() -> None:
    _check("pipeline.md", "former-variables", reference.former_variables())


@pytest.mark.parametrize("section", SECTIONS)
def test_every_option_is_described(section: str) -> None:
    part: Any = PipelineOptions.model_fields[section].annotation
    assert part.__doc__
    for key, field in part.model_fields.items():
        assert field.description, key
        assert f"| `{key}` |" in reference.options()


def test_commands() -> None:
    _check("cli.md", "commands", reference.commands())


def test_views(reader: Any) -> None:
    _check("sql.md", "views", reference.views(reader.read))


def test_every_view_says_what_a_row_is(reader: Any) -> None:
    assert [view for view, comment, *_ in reader.read(reference.VIEWS) if not comment] == []


def test_metrics_of_the_platform(lasting_databases: Any, contract: Contract, tmp_path: Any) -> None:
    settings = Settings.load(home=tmp_path, **lasting_databases.migrated())
    fill(settings, contract.classes, runs=10)
    (tmp_path / "data" / "orders" / "drops" / "inbox").mkdir(parents=True)
    _check("metrics.md", "platform-metrics", reference.metrics(exposition(settings, ["orders"])))


def test_metrics_of_the_online_service(contract: Contract) -> None:
    metrics = ServingMetrics()
    metrics.answered("orders", "/predict", 200, 0.001)
    metrics.of("orders", contract.classes).count_rows(np.array([0]), np.array([True]), 0)
    _check("metrics.md", "service-metrics", reference.metrics(metrics.text()))


def test_functions_of_expressions() -> None:
    _check("contract.md", "functions", reference.functions())


def test_exit_codes() -> None:
    _check("errors.md", "exit-codes", reference.exit_codes())


def test_a_stale_part_is_reported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "REFERENCE", tmp_path)
    monkeypatch.delenv("APEX_TEST_WRITE_REFERENCE", raising=False)
    (tmp_path / "errors.md").write_text("<!-- exit-codes:begin -->\nold\n<!-- exit-codes:end -->\n")
    with pytest.raises(AssertionError, match="make reference"):
        _check("errors.md", "exit-codes", reference.exit_codes())
