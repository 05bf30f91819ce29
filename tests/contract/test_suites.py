"""The suites are made from the contract, and the committed project is what the contract gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from apex_ml.adapters.expectations.project import PROJECT, build_project
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import USES, Use
from apex_ml.contract.suites import Expectation, expectations
from apex_ml.pipelines import load_pipelines
from apex_ml.settings import CODE_ROOT, Settings


def of_kind(contract: Contract, use: Use, kind: str) -> list[Expectation]:
    return [e for e in expectations(contract, use) if e.type == kind]


@pytest.mark.parametrize("use", USES)
def test_every_column_that_must_not_be_null_is_expected_so(contract: Contract, use: Use) -> None:
    result = {e.kwargs["column"] for e in of_kind(contract, use, "expect_column_values_to_not_be_null")}
    assert result == {c.name for c in contract.columns.values() if not c.nullable.on(use)}
    assert (contract.target in result) == (use == "train")


@pytest.mark.parametrize(("use", "severity"), [("train", "error"), ("score", "warning")])
def test_an_unknown_level_is_critical_only_in_a_closed_domain(contract: Contract, use: Use, severity: str) -> None:
    result = [e for e in of_kind(contract, use, "expect_column_values_to_be_in_set") if "row_condition" not in e.kwargs]
    assert {e.kwargs["column"] for e in result} == {c.name for c in contract.columns.values() if c.domain}
    assert {e.severity for e in result} == {severity}


def test_pairs_become_one_conditional_set_per_value(contract: Contract) -> None:
    result = [e for e in of_kind(contract, "train", "expect_column_values_to_be_in_set") if "row_condition" in e.kwargs]
    rule = next(r for r in contract.rules if r.rule == "pairs")
    assert [tuple(e.kwargs["value_set"]) for e in result] == list(rule.allowed.values())


def test_bounds_of_severity_warning_stay_warnings(contract: Contract) -> None:
    result = of_kind(contract, "train", "expect_column_values_to_be_between")
    assert {e.severity for e in result if "max_value" in e.kwargs} == {"warning"}
    assert {e.severity for e in result if "min_value" in e.kwargs} == {"error"}


def texts(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "uncommitted" not in path.parts
    }


def test_the_committed_project_is_exactly_what_the_contracts_give(tmp_path: Path) -> None:
    stray = tmp_path / "expectations" / "stray.json"
    stray.parent.mkdir()
    stray.write_text("{}")
    pipelines = load_pipelines(Settings.load(home=tmp_path, pipelines=CODE_ROOT / "pipelines"))
    created = build_project([pipeline.contract for pipeline in pipelines], tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in created} == set(texts(tmp_path)) - {".gitignore"}
    assert texts(tmp_path) == texts(PROJECT)


def test_a_second_pipeline_changes_nothing_of_the_first(contract: Contract, tmp_path: Path) -> None:
    second = contract.model_copy(update={"name": "visits"})
    build_project([contract, second], tmp_path)
    together = texts(tmp_path)
    build_project([contract], tmp_path)
    alone = texts(tmp_path)
    assert {name: text for name, text in together.items() if "orders_" in name} == {
        name: text for name, text in alone.items() if "orders_" in name
    }
    assert {Path(name).name for name in together if "visits_" in name} == {"visits_score.json", "visits_train.json"}
