"""The description of a model version: required content, and content that must stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apex_ml.core.model_card import Provenance, model_card, with_decision
from tests.support.model_infos import INFO

SOURCE = Provenance(
    run="night-1",
    data_url="/raw",
    data_sha256="d" * 64,
    files=8,
    rows=1_250_000,
    accepted=1_246_000,
    quarantined=1_000,
    airflow_url="http://airflow/dags/orders_retrain/runs/1",
    data_docs_url="http://airflow/apex/data-docs/1.html",
)
PARTS = {
    name: {"first": f"2024-0{n}-01", "last": f"2024-0{n}-28", "examples": 1000 * n}
    for n, name in enumerate(("train", "validation", "test"), 1)
}
METRICS = {
    "validation_log_loss": 0.99,
    "validation_prior_log_loss": 1.0,
    "test_log_loss": 1.02,
    "test_prior_log_loss": 1.0,
    "test_ece": 0.004,
    "test_accuracy": 0.5,
}


def card(source: Provenance = SOURCE, **about: Any) -> str:
    return model_card(source, replace(INFO, **about), PARTS, METRICS, {"candidate": "xgboost"})


@pytest.mark.parametrize(
    "text",
    [
        "| Raw data | `/raw`, 8 files, sha256 `" + "d" * 64 + "` |",
        "| Rows | 1,250,000 read, 1,246,000 accepted, 1,000 quarantined, 3,000 of the newest day held back |",
        "| Part validation | 2024-02-01 – 2024-02-28, 2,000 rows |",
        "| Contract | sha256 `" + "c" * 64,
        "git `abc123`, seed 42",
        "| validation | 0.99000 | 1.00000 | -1.00% |",
        "| test | 1.02000 | 1.00000 | +2.00% |",
        "[Airflow run](http://airflow/dags/orders_retrain/runs/1)",
        "[Great Expectations: this validation](http://airflow/apex/data-docs/1.html)",
    ],
)
def test_the_card_shows(text: str) -> None:
    assert text in card()


def test_missing_values_are_shown() -> None:
    text = card(replace(SOURCE, airflow_url="", files=1), git_commit=None, promotable=False)
    assert "no Airflow run" in text and "[Airflow run]" not in text
    assert "1 file," in text and "git unknown" in text and "not promotable" in text
    assert "not committed" in card(dirty=True)
    assert "apex.airflow_run_url" not in replace(SOURCE, airflow_url="").tags()


def test_the_card_of_rows_without_dates_shows_no_dates() -> None:
    text = card(replace(SOURCE, has_dates=False, superseded=1_000))
    assert "1,000 quarantined, 1,000 superseded by a later row of their key, 2,000 held back |" in text
    assert "| Part validation | 2,000 rows |" in text and "2024-02" not in text


def test_the_card_has_only_the_last_decision() -> None:
    first = with_decision(card(), False, "airflow", ["no better"])
    second = with_decision(first, True, "a person", ["better", "not worse for any class"], "http://m/report.html")
    assert second.startswith(card()) and second.count("### Decision") == 1
    assert second.endswith("[Report](http://m/report.html)\n") and "Report" not in first
    assert "Promoted by a person:\n\n- better\n- not worse" in second and "no better" not in second
