"""Names are encoded without two becoming one, and names that would meet are refused when the contract is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from apex_ml.adapters.mlflow.registry import metric_key
from apex_ml.contract.changes import compare_contracts
from apex_ml.contract.encoded_names import MAX_ENCODED, class_labels, encoded, probability_columns
from apex_ml.contract.history_state import state_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.names import online_names
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.core.features import feature_columns
from apex_ml.errors import ConfigError
from apex_ml.settings import CODE_ROOT
from apex_ml.sql.tables import online_columns, scored_columns

ORDERS_FILE = CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml"
ORDERS = ORDERS_FILE.read_text(encoding="utf-8")


def decoded(text: str) -> str:
    return re.sub(r"_[xX]([0-9a-fA-F]+)_", lambda match: chr(int(match[1], 16)), text)


@given(st.text(alphabet=st.one_of(st.sampled_from("_xX26fa&%é./ -"), st.characters())))
def test_an_encoded_name_can_be_read_back(name: str) -> None:
    written = encoded(name, limit=10**6)
    assert re.fullmatch(r"[A-Za-z0-9_.-]*", written)
    assert decoded(written) == name


@pytest.mark.parametrize("name", ["DIGITAL", "p_digital", "talla_xl", "a-b.c", "no_xbox", "_x", "_x_", "x26_"])
def test_a_plain_name_stays(name: str) -> None:
    assert encoded(name) == name


def test_shortened_names_stay_distinct() -> None:
    one, other = encoded("V" * 300), encoded("V" * 301)
    assert one != other and {len(one), len(other)} == {MAX_ENCODED}
    assert all(len(f"s_{name}") <= 63 for name in probability_columns(["V" * 300, "v" * 300]).values())
    assert len(metric_key("test_recall_" + "V" * 300)) == 250


def changed(tmp_path: Path, change: Any) -> Path:
    content = yaml.safe_load(ORDERS)
    change(content)
    path = tmp_path / "contract.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def rename(content: dict[str, Any], old: str, new: str) -> None:
    """Rename a column wherever the contract names it."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {(new if key == old else key): walk(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        return new if value == old else value

    renamed = walk(content)
    content.clear()
    content.update(renamed)


MEETING = [
    # (column of the orders, its new name, the other name in the message)
    ("cliente_id", "run_id", "run_id"),
    ("cliente_id", "Run_Id", "run_id"),
    ("cliente_id", "row_nr", "row_nr"),
    ("cliente_id", "predicted", "predicted"),
    ("cliente_id", "confidence", "confidence"),
    ("cliente_id", "model_version", "model_version"),
    ("cliente_id", "scored_at", "scored_at"),
    ("cliente_id", "drop_id", "drop_id"),
    ("cliente_id", "mlflow_run_id", "mlflow_run_id"),
    ("cliente_id", "observed", "observed"),
    ("cliente_id", "raw_rows", "raw_rows"),
    ("cliente_id", "p_digital", "p_digital"),
    ("cliente_id", "source", "source"),
    ("cliente_id", "place", "place"),
    ("cliente_id", "answered_at", "answered_at"),
    ("pais_cd", "history_orders", "history_orders"),
    ("pais_cd", "HISTORY_ORDERS", "history_orders"),
    ("pais_cd", "history_position", "history_position"),
    ("pais_cd", "history_count_DIGITAL", "history_count_DIGITAL"),
    ("pais_cd", "history_share_digital", "history_share_DIGITAL"),
    ("pais_cd", "history_last_canal_pedido_cd", "history_last_canal_pedido_cd"),
    ("pais_cd", "history_mean_cajas_fisicas", "history_mean_cajas_fisicas"),
    ("pais_cd", "fecha_pedido_dt_month", "fecha_pedido_dt_month"),
    ("cajas_fisicas", "history_days", "history_days"),
    ("cajas_fisicas", "raw 3", "raw <place>"),
    ("cajas_fisicas", "in doubt", "in doubt"),
    ("cajas_fisicas", "file_row_number", "file_row_number"),
    ("cajas_fisicas", "PAIS_CD", "pais_cd"),
    ("cliente_id", "x" * 64, "64 bytes"),
    ("pais_cd", "a\nb", "control character"),
]


@pytest.mark.parametrize(("old", "new", "other"), MEETING, ids=[f"{old}-{new[:20]!r}" for old, new, _ in MEETING])
def test_a_column_with_a_reserved_name_is_refused(tmp_path: Path, old: str, new: str, other: str) -> None:
    path = changed(tmp_path, lambda content: rename(content, old, new))
    with pytest.raises(ConfigError) as raised:
        load_contract(path)
    assert repr(new) in str(raised.value) and other in str(raised.value) and "rename" in str(raised.value)


@pytest.mark.parametrize(
    "name", ["reasons", "row", "c0", "nth", "day", "name", "plain", "staged", "filename", "schema"]
)
def test_a_name_similar_to_a_reserved_one_loads(tmp_path: Path, name: str) -> None:
    assert name in load_contract(changed(tmp_path, lambda content: rename(content, "pais_cd", name))).columns


@pytest.mark.parametrize("name", ["P_Digital", "predicted", "place", "source", "answered_at", "ñ" * 40])
def test_an_attribute_can_have_a_reserved_name_and_gets_another_column(tmp_path: Path, name: str) -> None:
    contract = load_contract(changed(tmp_path, lambda content: rename(content, "pais_cd", name)))
    own = online_names(contract)[name]
    columns = online_columns(contract)
    assert own != name and columns[own] == "text" and len(own.encode()) <= 63
    assert (
        len({column.lower() for column in columns}) == len(columns) == len(online_columns(load_contract(ORDERS_FILE)))
    )


@pytest.mark.parametrize("name", ["predicted", "confidence", "source", "place", "orders"])
def test_a_measure_can_have_a_name_reserved_for_keys_and_attributes(tmp_path: Path, name: str) -> None:
    assert name in load_contract(changed(tmp_path, lambda content: rename(content, "cajas_fisicas", name))).columns


def with_classes(folder: Path, *classes: str) -> Contract:
    def change(content: dict[str, Any]) -> None:
        content["columns"]["canal_pedido_cd"]["normalise"] = []
        content["columns"]["canal_pedido_cd"]["domain"]["levels"] = list(classes)

    return load_contract(changed(folder, change))


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("Ñ", "ñ"), ("K", "\u212a")])
def test_classes_that_differ_by_case_alone_have_columns_of_their_own(tmp_path: Path, one: str, other: str) -> None:
    contract = with_classes(tmp_path, one, "DIGITAL", other)
    first = f"p_{encoded(one.lower())}"
    assert probability_columns(contract.classes) == {
        one: first,
        "DIGITAL": "p_digital",
        other: f"p_{encoded(f'{other}_2'.lower())}",
    }
    for columns in (scored_columns(contract), online_columns(contract), [c.name for c in feature_columns(contract)]):
        assert len({name.lower() for name in columns}) == len(list(columns))
    state = [column.name.lower() for column in state_columns(contract)]
    assert len(set(state)) == len(state) and contract.classes == (one, "DIGITAL", other)


@given(st.lists(st.text(alphabet="aA_2ñÑ", min_size=1, max_size=4), unique=True, min_size=2, max_size=12))
def test_columns_of_classes_are_unique_and_do_not_depend_on_later_classes(classes: list[str]) -> None:
    columns = probability_columns(classes)
    assert len({name.lower() for name in columns.values()}) == len(classes)
    assert probability_columns(classes[:-1]).items() <= columns.items()
    for nr, level in enumerate(classes):  # as ever, where no other class is in the way
        if level.lower() not in {other.lower() for other in class_labels(classes[:nr]).values()}:
            assert columns[level] == f"p_{encoded(level.lower())}"


def test_an_order_of_classes_that_would_move_a_column_is_refused(tmp_path: Path) -> None:
    before = with_classes(tmp_path, "Yes", "DIGITAL", "yes").identity()
    assert compare_contracts(before, with_classes(tmp_path, "DIGITAL", "Yes", "yes", "YES")).kind == "additive"
    refused = compare_contracts(before, with_classes(tmp_path, "yes", "DIGITAL", "Yes")).refused
    assert refused[0] == (
        "the class Yes has the column p_yes, and the order of the levels makes it p_yes_2: keep the levels in their"
        " order, and write new ones at the end"
    )
