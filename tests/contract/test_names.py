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
from apex_ml.contract.names import MAX_ENCODED, encoded, online_names, probability_column
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.errors import ConfigError
from apex_ml.settings import CODE_ROOT
from apex_ml.sql.tables import online_columns

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
    assert len(f"s_{probability_column('V' * 300)}") <= 63
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


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("Ñ", "ñ"), ("K", "\u212a")])
def test_classes_that_share_a_column_are_refused(tmp_path: Path, one: str, other: str) -> None:
    def change(content: dict[str, Any]) -> None:
        content["columns"]["canal_pedido_cd"]["normalise"] = []
        content["columns"]["canal_pedido_cd"]["domain"]["levels"] = [one, "DIGITAL", other]

    with pytest.raises(ConfigError) as raised:
        load_contract(changed(tmp_path, change))
    for text in (repr(one), repr(other), probability_column(one), "normalise"):
        assert text in str(raised.value)
