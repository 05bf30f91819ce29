"""Columns of every type, as features and as target, from the raw file to the scored row and the answer of the API."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.contract.error_cost import ErrorCost
from apex_ml.platform.reports.contract_plan import plan_text
from apex_ml.services.contract_plan import plan_contract
from apex_ml.steps.outcomes import outcomes
from apex_ml.steps.score import score
from apex_ml.steps.validate import validate
from tests.support.loans import NAME, NEWEST, Trained, changed, loans, train_loans
from tests.support.online_service import served

TARIFF = {
    "description": "The tariff of the rate, one of many.",
    "type": "string",
    "role": "attribute",
    "derive": "concat('T', floor(rate * 40)::integer)",
    "encoding": "frequency",
    "min_level_rows": 2,
}
TEXT = changed(columns={"tariff": TARIFF}, features={"attributes": ["member", "rate", "asked_at", "rooms", "tariff"]})


@pytest.fixture(scope="module")
def trained(lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_loans(tmp_path_factory.mktemp(NAME), lasting_databases.migrated(), mlflow_server, TEXT)


def test_a_boolean_target_and_features_of_every_type_are_trained_and_promoted(trained: Trained) -> None:
    examples = pq.read_table(trained.apex.processed / "first" / "elt" / "examples.parquet")
    kinds = {name: str(examples.schema.field(name).type) for name in ("repaid", "member", "rate", "asked_at", "rooms")}
    assert kinds == {"repaid": "string", "member": "string", "rate": "double", "asked_at": "double", "rooms": "string"}
    assert set(examples.column("repaid").to_pylist()) == {"false", "true"}
    assert set(trained.results["split"]["parts"]["train"]["classes"]) == {"false", "true"}
    assert trained.results["promote"]["promoted"], trained.results["promote"]


def test_texts_are_encoded_by_their_frequency_in_training(trained: Trained) -> None:
    folder = trained.apex.processed / "first"
    model = json.loads(next((folder / "train" / "bundle").rglob("model.json")).read_text())
    (tariff,) = [feature for feature in model["features"] if feature["name"] == "tariff"]
    examples = pq.read_table(folder / "split" / "train.parquet")
    counts = {v["values"]: v["counts"] for v in examples.column("tariff").value_counts().to_pylist()}
    expected = {level: rows / examples.num_rows for level, rows in counts.items() if rows >= 2}
    assert len(expected) > 200 and dict(zip(tariff["levels"], tariff["shares"], strict=True)) == expected
    assert tariff["encoding"] == "frequency" and tariff["min_rows"] == 2


def test_a_plan_names_the_options_that_the_champion_does_not_have(trained: Trained) -> None:
    pipeline = trained.apex.pipeline

    def lines(**model: Any) -> list[str]:
        options = pipeline.options.model_copy(update={"model": pipeline.options.model.model_copy(update=model)})
        plan = plan_contract(trained.apex.settings, replace(pipeline, options=options), None)
        assert plan.champion is not None and plan.champion.usable, plan
        return [line.strip() for line in plan_text(plan).splitlines() if "champion: version" not in line][1:]

    assert lines() == []
    costs = (ErrorCost(actual=False, predicted=True, cost=2.5), ErrorCost(actual=True, predicted=False, cost=1))
    first, after = lines(costs=costs)
    assert first == "champion: model.costs: false predicted as true costs 2.5, and 4 in its training"
    assert re.match(
        "→ Drops are scored by version [0-9]+ as it was trained, until a challenger with the options", after
    )
    assert lines(decision="most_probable", costs=())[0] == (
        "champion: it chooses the class with the lowest expected cost, and model.decision is most_probable"
    )
    attribute = pipeline.contract.columns["tariff"].model_copy(update={"encoding": "levels", "min_level_rows": None})
    columns = {**pipeline.contract.columns, "tariff": attribute}
    pipeline = replace(pipeline, contract=pipeline.contract.model_copy(update={"columns": columns}))
    assert lines()[:2] == [
        "champion: tariff: encoding is levels, and frequency in its training",
        "champion: tariff: min_level_rows is none, and 2 in its training",
    ]


def test_the_costs_are_reported(trained: Trained) -> None:
    folder = trained.apex.processed / "first" / "train" / "report"
    metrics = json.loads((folder / "evaluation.json").read_text())["metrics"]
    assert metrics["test_mean_cost"] < metrics["test_mean_cost_most_probable"]
    assert trained.results["train"]["test_mean_cost"] == metrics["test_mean_cost"]
    assert trained.results["train"]["test_auc"] == metrics["test_auc"] > 0.6
    report = (folder / "report.html").read_text()
    assert "true against false" in report and "Mean cost of a row" in report and (folder / "thresholds.png").exists()


def test_the_accepted_rows_are_described_and_the_page_is_found(trained: Trained, mlflow_server: str) -> None:
    apex, result = trained.apex, trained.results["train"]
    page = (apex.processed / "first" / "train" / "report" / "profile.html").read_text()
    assert "loans: accepted rows of first" in page and "Target: repaid" in page and "4,000 rows" in page
    ((run_id, experiment, pages),) = apex.sql(
        "SELECT mlflow_run_id, mlflow_experiment_id, pages FROM loans.trained_versions"
        f" WHERE model_version = {result['model_version']}"
    )
    assert pages == {"Training report": "report.html", "Data profile": "profile.html"}
    assert result["mlflow_run_url"].endswith(f"/#/experiments/{experiment}/runs/{run_id}")
    listed = httpx.get(f"{mlflow_server}/api/2.0/mlflow/artifacts/list", params={"run_id": run_id}).json()["files"]
    assert {"report.html", "profile.html"} <= {file["path"] for file in listed}


def test_a_drop_is_scored_and_its_outcomes_are_found(trained: Trained) -> None:
    apex = trained.apex
    drop = loans(200, seed=9, day=NEWEST).set_column(0, "borrower", pa.array(range(200)))
    pq.write_table(drop, apex.inbox / "a.parquet")
    result = score(apex.context("scoring"), ["a.parquet"]).to_json()
    assert result["scored"] == 1 and result["rows_scored"] == 200, result
    rows = apex.sql("SELECT borrower, predicted, p_false, p_true FROM loans.scored_current ORDER BY row_nr")
    assert [row[0] for row in rows] == drop.column("borrower").to_pylist()
    assert {row[1] for row in rows} == {"false", "true"}
    assert all(abs(row[2] + row[3] - 1) < 1e-5 for row in rows)
    # a loan that is not repaid costs four times as much as a good one that is refused
    assert [row[1] for row in rows] == ["true" if row[3] > 4 * row[2] else "false" for row in rows]
    assert any(row[1] == "false" and row[3] > row[2] for row in rows)
    # later the same loans come as raw rows with their outcomes
    known = drop.append_column("repaid", pa.array([n % 2 == 0 for n in range(200)]))
    pq.write_table(known, apex.processed.parent / "raw" / "later.parquet")
    context = apex.context("later")
    validate(context, raw=None, as_of=None, force=False)
    counts = outcomes(context).to_json()
    assert counts["matched"] == 200, counts
    assert {value for (value,) in apex.sql("SELECT DISTINCT observed FROM loans.outcomes")} == {"false", "true"}


def test_the_api_answers_what_a_drop_is_scored(trained: Trained) -> None:
    row = {
        "borrower": 10**9,
        "day": NEWEST.isoformat(),
        "member": True,
        "rate": "2.500",
        "asked_at": f"{NEWEST}T11:00:00+02:00",
        "rooms": 3,
    }
    same = row | {"rate": 2.5, "asked_at": f"{NEWEST}T11:00:00"}
    unknown = row | {"member": None, "rooms": 7}
    with served(trained.apex) as client:
        answer = client.post(f"/{NAME}/predict", json={"rows": [row, same, unknown]})
        assert answer.status_code == 200, answer.text
        one, other, odd = answer.json()["predictions"]
        assert one == other and set(one["probabilities"]) == {"false", "true"}
        p = one["probabilities"]
        assert one["predicted"] == ("true" if p["true"] > 4 * p["false"] else "false")
        assert odd["probabilities"] != one["probabilities"] and "domain: one of 1, 2, 3" in str(odd)
        refused = client.post(f"/{NAME}/predict", json={"rows": [row | {"member": "yes", "rate": "2.5001"}]})
        assert refused.status_code == 422
        faults = {fault["path"]: fault["rule"] for fault in refused.json()["faults"]}
        assert faults == {"rows[0].member": "type: not boolean", "rows[0].rate": "type: not decimal"}
    apex = trained.apex
    drop = loans(1, day=NEWEST)
    cells = row | {"day": NEWEST, "rate": Decimal("2.5"), "asked_at": datetime(2024, 4, 30, 9, tzinfo=UTC)}
    table = pa.table({name: pa.array([cells[name]], drop.schema.field(name).type) for name in drop.column_names})
    pq.write_table(table, apex.inbox / "same.parquet")
    score(apex.context("scoring"), ["same.parquet"])
    ((stored,),) = apex.sql("SELECT p_true FROM loans.scored WHERE borrower = 1000000000")
    assert one["probabilities"]["true"] == pytest.approx(stored, abs=1e-7)
