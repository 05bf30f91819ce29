"""A change of a contract: what it means for the tables and for the features of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from apex_ml.contract.changes import ChangeKind, compare_contracts, lost_features
from apex_ml.contract.identity import ContractIdentity
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.contract.recipes import HistoryRecipe
from apex_ml.settings import CODE_ROOT
from tests.support.reference_features import with_every_recipe

ORDERS = (CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml").read_text(encoding="utf-8")
Load = Callable[..., Contract]


@pytest.fixture
def edited(tmp_path: Path) -> Load:
    """The contract of the orders after replacements of its text."""

    def load(*replacements: tuple[str, str]) -> Contract:
        text = ORDERS
        for before, after in replacements:
            assert before in text
            text = text.replace(before, after)
        path = tmp_path / "pipeline.yaml"
        path.write_text(text, encoding="utf-8")
        return load_contract(path)

    return load


CLASSES = "[DIGITAL, TELEFONO, VENDEDOR]"
AGENCY = "    description: Agency that serves the client.\n    type: string\n    role: attribute\n"
NUMBERS = AGENCY.replace("string", "int64")
NORMAL = "    normalise: [trim, upper]\n"
CLIENT = f'    type: string\n    role: entity\n{NORMAL}    checks:\n      - {{rule: pattern, regex: "C[0-9]{{6,9}}"}}\n'
BOXES_TYPE = "    type: double\n    role: measure\n    unit: boxes\n    decimals: 2\n"
ZONE = (
    "  fecha_pedido_dt:\n",
    "  zona:\n    description: Zone.\n    type: string\n    role: attribute\n    required: false\n    nullable: true\n"
    "  fecha_pedido_dt:\n",
)
BOXES = ", cajas_fisicas]"

CHANGES: dict[str, tuple[list[tuple[str, str]], ChangeKind, str]] = {
    # name: replacements, kind, a difference or a refusal
    "a description": ([("Country of the client.", "The client's country.")], "same", ""),
    "a limit": ([("limit: {train: 0.01", "limit: {train: 0.02")], "same", ""),
    "the policy": ([("margin: 0.001", "margin: 0.002"), ("suspicious_gain: 0.5", "suspicious_gain: 0.4")], "same", ""),
    "a new column": ([ZONE], "additive", "the column zona is new (attribute, string)"),
    "a new feature": (
        [("    - frecuencia_visitas_cd\n", "    - frecuencia_visitas_cd\n    - agencia_id\n")],
        "additive",
        "the feature agencia_id is new",
    ),
    "no feature any more": (
        [("    - frecuencia_visitas_cd\n", "")],
        "additive",
        "the feature frecuencia_visitas_cd is gone",
    ),
    "a new level": ([("[BAJA, MEDIA, ALTA]", "[BAJA, MEDIA, ALTA, TOTAL]")], "additive", "new levels TOTAL"),
    "a level gone": ([("[BAJA, MEDIA, ALTA]", "[BAJA, MEDIA]")], "additive", "levels ALTA gone"),
    "another normal form": (
        [(f"{NORMAL}    domain: {{levels: [EC", "    normalise: [upper]\n    domain: {levels: [EC")],
        "additive",
        "the column pais_cd: normalise is another",
    ),
    "a new class": ([(CLASSES, "[DIGITAL, TELEFONO, VENDEDOR, WEB]")], "additive", "new classes WEB"),
    "a new class in the middle": ([(CLASSES, "[DIGITAL, OTRO, TELEFONO, VENDEDOR]")], "additive", "new classes OTRO"),
    "another order of the classes": ([(CLASSES, "[TELEFONO, DIGITAL, VENDEDOR]")], "additive", "in another order"),
    "a recipe gone": (
        [("    - {recipe: days_since_last}\n", "")],
        "additive",
        "the feature history_days_since_last is gone",
    ),
    "another parameter": (
        [("smoothing: 3", "smoothing: 30")],
        "additive",
        "the feature history_share_DIGITAL is computed in another way",
    ),
    "a measure that is no feature": ([(BOXES, "]")], "additive", "the feature history_mean_cajas_fisicas is gone"),
    "another grain": ([("grain: last_row_per_entity", "grain: every_row")], "additive", "features.grain is every"),
    "a lag": ([("history_lag_days: 0", "history_lag_days: 7")], "additive", "features.history_lag_days is 7 and was 0"),
    "a column gone": (
        [("  cajas_fisicas:\n", "  cajas:\n"), (BOXES, ", cajas]")],
        "retrain",
        "the column cajas_fisicas is gone (measure, double)",
    ),
    "another type of a measure": (
        [(BOXES_TYPE, "    type: int64\n    role: measure\n")],
        "retrain",
        "the column cajas_fisicas: type is int64 and was double",
    ),
    "another type of an attribute": (
        [(f"{AGENCY}    identifier: true\n    nullable: true\n{NORMAL}", f"{NUMBERS}    nullable: true\n")],
        "new_pipeline",
        "the attribute agencia_id is of type int64 and was string",
    ),
    "a class gone": (
        [(CLASSES, "[DIGITAL, VENDEDOR]")],
        "new_pipeline",
        "classes that no longer exist: TELEFONO",
    ),
    "a class renamed": (
        [(CLASSES, "[DIGITAL, PHONE, VENDEDOR]")],
        "new_pipeline",
        "classes that no longer exist: TELEFONO; instead there is PHONE",
    ),
    "another target": ([("canal_pedido_cd", "canal")], "new_pipeline", "the target is canal and was canal_pedido_cd"),
    "another entity": ([("cliente_id", "kunde_id")], "new_pipeline", "the entity is kunde_id and was cliente_id"),
    "another timestamp": (
        [("fecha_pedido_dt", "fecha")],
        "new_pipeline",
        "the timestamp is fecha and was fecha_pedido_dt",
    ),
    "another type of the entity": (
        [(CLIENT, "    type: int64\n    role: entity\n")],
        "new_pipeline",
        "the entity cliente_id is of type int64 and was string",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_the_meaning_of_a_change(contract: Contract, edited: Load, name: str) -> None:
    replacements, kind, text = CHANGES[name]
    change = compare_contracts(contract.identity(), edited(*replacements))
    assert change.kind == kind, change
    sentences = (*change.differences, *change.refused)
    assert any(text in one for one in sentences) if text else not sentences, sentences


def test_descriptions_limits_and_policies_are_not_part_of_the_identity(contract: Contract, edited: Load) -> None:
    other = edited(("Country of the client.", "x"), ("margin: 0.001", "margin: 0.1"), ("recent: 7", "recent: 8"))
    assert other.identity().digest() == contract.identity().digest() and other.digest() != contract.digest()


def test_the_order_of_columns_is_not_part_of_the_identity(contract: Contract) -> None:
    columns = dict(reversed(contract.identity().columns.items()))
    assert contract.identity().model_copy(update={"columns": columns}).digest() == contract.identity().digest()


def test_an_identity_is_read_back_from_json(contract: Contract) -> None:
    identity = contract.identity()
    again = ContractIdentity.from_dict(identity.as_dict())
    assert again is not None and again.digest() == identity.digest()
    assert ContractIdentity.from_dict(None) is None
    unknown = identity.as_dict()
    unknown["features"]["history"][0]["recipe"] = "a_recipe_of_next_year"
    assert ContractIdentity.from_dict(unknown) is None


def test_the_new_classes_are_named(contract: Contract, edited: Load) -> None:
    change = compare_contracts(contract.identity(), edited((CLASSES, "[WEB, DIGITAL, TELEFONO, VENDEDOR]")))
    assert change.new_classes == ("WEB",)


def test_features_are_lost_with_their_columns_alone(contract: Contract, edited: Load) -> None:
    other = edited(("  cajas_fisicas:\n", "  cajas:\n"), (BOXES, ", cajas]"), ("smoothing: 3", "smoothing: 9"))
    lost = lost_features(contract.identity(), other)
    assert [str(one) for one in lost] == [
        "the feature history_mean_cajas_fisicas (the contract has no column cajas_fisicas)"
    ]
    assert lost_features(contract.identity(), other, only=["pais_cd", "history_orders"]) == ()


def test_another_role_loses_a_feature(contract: Contract, edited: Load) -> None:
    other = edited(
        ("    description: Weekdays on which a seller visits.\n    type: string\n    role: attribute\n",
         "    description: Weekdays on which a seller visits.\n    type: string\n    role: measure\n"),
        ("    - frecuencia_visitas_cd\n", ""),
    )  # fmt: skip
    (lost,) = lost_features(contract.identity(), other)
    assert str(lost) == (
        "the feature frecuencia_visitas_cd (the column frecuencia_visitas_cd is measure and was attribute)"
    )


def test_a_former_contract_over_the_data_of_today(contract: Contract, edited: Load) -> None:
    today = edited((CLASSES, "[OTRO, DIGITAL, TELEFONO, VENDEDOR]"), ("smoothing: 3", "smoothing: 9"), ZONE)
    former = contract.identity().applied_to(today)
    assert former.classes == contract.classes and former.features == contract.features
    assert former.identity() == contract.identity() and former.features_digest() == contract.features_digest()
    assert today.identity().applied_to(today) is today
    assert former.rules == today.rules and former.promotion == today.promotion


def test_features_by_another_column_are_lost_with_it(contract: Contract, edited: Load) -> None:
    """With its key, with the attribute that is counted, and with the date of the row."""
    name = "frecuencia_visitas_cd"
    with_more = with_every_recipe(contract)
    history = TypeAdapter(tuple[HistoryRecipe, ...]).validate_python(
        ({"recipe": "count", "by": ("pais_cd", name)}, {"recipe": "count_distinct", "columns": (name,), "window": "9d"})
    )
    features = with_more.features.model_copy(update={"history": history})
    before = with_more.model_copy(update={"features": features}).identity()
    other = edited(("    - frecuencia_visitas_cd\n", ""), ("  frecuencia_visitas_cd:\n", "  frecuencia:\n"))
    reason = f"(the contract has no column {name})"
    assert [str(one) for one in lost_features(before, other)] == [
        f"the feature {name} {reason}",
        "the feature days_since_signup (the contract has no column signup)",
        f"the feature pais_cd_{name}_count {reason}",
        f"the feature history_distinct_{name}_9d {reason}",
    ]
