"""The costs of wrong predictions in a pipeline's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from apex_ml.contract.costs import cost_matrix, positive_class
from apex_ml.contract.options import ModelOptions, PipelineOptions
from apex_ml.contract.options_file import options_of
from apex_ml.contract.pipeline_file import read_pipeline
from apex_ml.errors import ConfigError
from tests.support.loans import PIPELINE

CLASSES = {"boolean": "[false, true]", "int64": "[0, 1]", "string": "['no', 'yes']", "decimal": "[0.5, 1.5]"}


def written(folder: Path, model: str, kind: str = "boolean", levels: str = "") -> Path:
    """A pipeline's file whose target has the type and the levels."""
    text = PIPELINE.replace(
        "type: boolean\n    role: target", f"type: {kind}\n    role: target" + "\n    decimals: 1" * (kind == "decimal")
    )
    text = text.replace("levels: [false, true]", f"levels: {levels or CLASSES[kind]}")
    text = text[: text.index("model:\n")] + f"model:\n  name: loans_model\n{model}"
    path = folder / "pipeline.yaml"
    path.write_text(text)
    assert yaml.safe_load(text)["model"]["name"] == "loans_model"
    return path


def costs(actual: str, predicted: str, cost: str = "5") -> str:
    return f"  decision: cost\n  costs:\n    - {{actual: {actual}, predicted: {predicted}, cost: {cost}}}\n"


def test_a_class_with_a_name_is_called_by_it(tmp_path: Path) -> None:
    path = written(tmp_path, "  positive: 1\n", "int64", "{0: kept, 1: cancelled}")
    with pytest.raises(ConfigError, match="positive: 1 is the value of the class cancelled: write its name, cancelled"):
        read_pipeline(path)
    assert read_pipeline(written(tmp_path, "  positive: kept\n", "int64", "{0: kept, 1: cancelled}"))


@pytest.mark.parametrize(
    ("kind", "actual", "predicted"),
    [("boolean", "true", "false"), ("int64", "1", "0"), ("string", "'yes'", "'no'"), ("decimal", "1.5", "0.50")],
)
def test_classes_of_every_type_are_named_as_the_levels_are(
    tmp_path: Path, kind: str, actual: str, predicted: str
) -> None:
    path = written(tmp_path, costs(actual, predicted) + f"  positive: {predicted}\n", kind)
    contract, options = read_pipeline(path)
    assert cost_matrix(contract, options.model) == ((0.0, 1.0), (5.0, 0.0))
    assert positive_class(contract, options.model) == 0
    assert options_of(path).model == options.model


def test_an_error_that_is_not_listed_costs_one(tmp_path: Path) -> None:
    path = written(tmp_path, costs("2", "0", "0.25"), "int64", "[0, 1, 2]")
    contract, options = read_pipeline(path)
    assert cost_matrix(contract, options.model) == ((0, 1, 1), (1, 0, 1), (0.25, 1, 0))
    assert positive_class(contract, options.model) is None


def test_without_costs_there_is_no_matrix_and_the_last_class_is_positive(tmp_path: Path) -> None:
    contract, options = read_pipeline(written(tmp_path, "  selection: none\n"))
    assert cost_matrix(contract, options.model) == ()
    assert positive_class(contract, options.model) == 1
    assert "costs" not in options.model_dump_json() and "positive" not in options.model_dump_json()
    assert PipelineOptions().digest() == PipelineOptions(model=ModelOptions()).digest()


@pytest.mark.parametrize(
    ("model", "levels", "faults"),
    [
        (costs("maybe", "false"), "", ["model.costs.0.actual: maybe is no class of repaid; there are false, true"]),
        (costs("true", "true"), "", ["model.costs.0: true predicted as itself is no error and costs nothing"]),
        (
            costs("true", "false") + "    - {actual: true, predicted: false, cost: 2}\n",
            "",
            ["model.costs.1: the cost of true predicted as false is stated twice: remove one"],
        ),
        (costs("true", "false", "-1"), "", ["model.costs.0.cost: ", "greater than or equal to 0"]),
        (costs("true", "false", ".inf"), "", ["model.costs.0.cost: "]),
        ("  decision: cost\n", "", ["model.decision: cost needs the costs of the errors: add costs"]),
        (
            costs("true", "false").replace("decision: cost", "decision: macro_f1"),
            "",
            ["model.costs: with decision: macro_f1 no cost is used: write decision: cost"],
        ),
        ("  positive: perhaps\n", "", ["model.positive: perhaps is no class of repaid; there are false, true"]),
        ("  positive: 1\n", "[0, 1, 2]", ["model.positive: the target has 3 classes, not two: remove it"]),
        ("  positive: no\n", "['no', 'yes']", ["model.positive: YAML reads it as false, which is no text: quote it"]),
    ],
)
def test_faults_are_named_with_their_lines(tmp_path: Path, model: str, levels: str, faults: list[str]) -> None:
    kind = "string" if "no" in levels else "int64" if levels else "boolean"
    path = written(tmp_path, model, kind, levels)
    with pytest.raises(ConfigError) as error:
        read_pipeline(path)
    line = next(nr for nr, text in enumerate(path.read_text().splitlines(), 1) if text.startswith("model:"))
    assert f"{path}:" in str(error.value) and all(fault in str(error.value) for fault in faults), error.value
    assert line < int(str(error.value).split(f"{path}:")[1].split(":")[0])
