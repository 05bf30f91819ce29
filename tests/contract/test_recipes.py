"""A recipe of features is one class: a contract names it, and the state, features and checks follow from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pydantic import Field

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.features import Features
from apex_ml.contract.history_state import MeasureSum, StateColumn, state_columns
from apex_ml.contract.identity import ContractIdentity
from apex_ml.contract.model import Contract
from apex_ml.contract.names import POSITION
from apex_ml.contract.part import Place
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.contract.recipes import RECIPES, register
from apex_ml.contract.recipes.interface import HistoryFeature, Recipe, RowStates, numeric
from apex_ml.core.features import feature_columns, finish, state_needed
from apex_ml.core.history import Replay, settle_ties
from apex_ml.errors import ConfigError
from apex_ml.sql.features import select_state
from apex_ml.sql.history import select_compact, select_sorted
from tests.support.reference_features import FIRST, as_table, random_orders, with_every_recipe
from tests.support.snapshots import select_snapshot

if TYPE_CHECKING:
    from apex_ml.contract.contradictions import Parts


class TotalRecipe(Recipe):
    """Sum of a measure over earlier orders, times a factor."""

    recipe: Literal["total"]
    column: str
    factor: float = Field(1.0, gt=0)

    def features(self, contract: Contract) -> tuple[HistoryFeature, ...]:
        total = StateColumn(f"history_total_{self.column}", "integer", MeasureSum(self.column))
        scale = contract.columns[self.column].scale

        def values(orders: RowStates) -> pa.Array:
            return numeric(orders.integers(total) / scale * self.factor)

        return (HistoryFeature(FeatureColumn(f"history_sum_of_{self.column}", "numeric"), (total,), values),)

    def faults(self, parts: Parts) -> Iterator[tuple[Place, str]]:
        if fault := parts.role_fault(self.column, "measure"):
            yield ("column",), fault


@pytest.fixture
def total_recipe() -> Iterator[None]:
    """The recipe `total`, known while a test runs."""

    def rebuild() -> None:
        Features.model_rebuild(force=True)
        Contract.model_rebuild(force=True)

    register(TotalRecipe)
    rebuild()
    yield
    del RECIPES["total"]
    rebuild()


def contract_with(tmp_path: Path, recipe: str) -> Contract:
    text = Path("pipelines/orders/pipeline.yaml").read_text(encoding="utf-8")
    path = tmp_path / "contract.yaml"
    path.write_text(text.replace("    - {recipe: count}\n", f"    - {{recipe: count}}\n    - {recipe}\n"))
    return load_contract(path)


@pytest.mark.usefixtures("total_recipe")
def test_one_class_makes_a_recipe_of_contracts_states_and_features(tmp_path: Path) -> None:
    contract = contract_with(tmp_path, "{recipe: total, column: cajas_fisicas, factor: 2}")
    rows = random_orders(contract, 7, clients=6, orders=80, days=9)
    orders = as_table(contract, rows)
    with duckdb.connect() as con:
        con.register("orders", orders)
        requested = con.sql(select_state(contract, "orders", "orders")).to_arrow_table()
        con.execute(f"CREATE VIEW placed AS SELECT *, row_number() OVER () AS {POSITION} FROM orders")
        compact = con.sql(select_sorted(contract, f"({select_compact(contract, 'placed')})")).to_arrow_table()
        snapshot = con.sql(select_snapshot(contract, "orders", FIRST)).to_arrow_table()
    states = Replay(contract, settle_ties(contract, compact)[0]).every_row().drop_columns([POSITION])
    assert "history_total_cajas_fisicas" in [c.name for c in state_columns(contract)]
    assert "history_total_cajas_fisicas" in snapshot.column_names
    name = "history_sum_of_cajas_fisicas"
    assert name in [c.name for c in feature_columns(contract)]
    assert [column.name for column in state_needed(contract, [name])] == ["history_total_cajas_fisicas"]
    for table in (requested, states):
        result = finish(contract, table, [name]).column(name).to_pylist()
        keys = zip(table[contract.entity].to_pylist(), table[contract.timestamp].to_pylist(), strict=True)
        expected = [
            2 * sum(
                r["cajas_fisicas"] or 0
                for r in rows
                if r[contract.entity] == client and r[contract.timestamp] < day
            )
            for client, day in keys
        ]  # fmt: skip
        assert np.allclose(result, expected)


@pytest.mark.usefixtures("total_recipe")
def test_faults_of_a_recipe_name_the_line_and_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"features\.history\.1.*column: pais_cd is not a column with the role meas"):
        contract_with(tmp_path, "{recipe: total, column: pais_cd}")
    with pytest.raises(ConfigError, match=r"greater than 0"):
        contract_with(tmp_path, "{recipe: total, column: cajas_fisicas, factor: 0}")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("{recipe: days_since_last, window: 30d}", "window: not permitted: no such key here; the keys are by, recipe"),
        ("{recipe: last, columns: [cajas_fisicas], window: 30d}", "window: not permitted: no such key here"),
        ("{recipe: count, window: 30}", "30 is no window: write a number of days from 1d to 999d"),
        ("{recipe: count, window: 0d}", "0d is no window: write a number of days from 1d to 999d"),
        ("{recipe: count, window: 1000d}", "1000d is no window"),
        ("{recipe: count_distinct, columns: [cajas_fisicas]}", "cajas_fisicas is not a column with the role attribute"),
        ("{recipe: count_distinct, columns: [pais]}", "pais is not a column with the role attribute.*did you mean"),
        ("{recipe: min, columns: [pais_cd]}", "pais_cd is not a column with the role measure: its role is attribute"),
        ("{recipe: max, columns: [canal_pedido_cd]}", "canal_pedido_cd is not a column with the role measure"),
        ("{recipe: last, columns: []}", "at least 1 item"),
        ("{recipe: count, by: pais}", "by: pais is not a column with the role attribute: .* did you mean pais_cd"),
        ("{recipe: count, by: canal_pedido_cd}", "its role is target; a history is by what is known before the row"),
        ("{recipe: count, by: cajas_fisicas}", "its role is measure; a history is by what is known before the row"),
        ("{recipe: count, by: [pais_cd, pais_cd]}", "by: pais_cd is listed twice: remove one"),
        ("{recipe: count, by: cliente_id}", "by: cliente_id is the entity, whose history it is without by: remove by"),
        ("{recipe: count, by: []}", "at least 1 item"),
        (
            "{recipe: count, by: pais_cd}\n    - {recipe: count, by: [pais_cd]}",
            "two recipes make the feature count by pais_cd: remove one",
        ),
        (
            "{recipe: count, window: 5d}\n    - {recipe: count, window: 5d}",
            "two recipes make the feature count of the last 5 days: remove one",
        ),
        (
            "{recipe: count, window: 5d}\n    - {recipe: count, window: 5d, name: history_rows}",
            "two recipes make the feature count of the last 5 days",
        ),
    ],
)
def test_contradictions_of_recipes_name_the_line(tmp_path: Path, recipe: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"contract.yaml:\d+: features\.history\.[12].*{message}"):
        contract_with(tmp_path, recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        *(f"{{recipe: count, window: {window}}}" for window in ("30", "0d", "4w", "[5d]", "''")),
        "{recipe: count, by: 5}",
        "{recipe: count, by: []}",
        "{recipe: days_since_last, window: 30d}",
        "{recipe: count, window: 4w}\n    - {recipe: count, window: 0d}",
    ],
)
def test_a_recipe_that_cannot_be_read_is_no_repeat_of_another(tmp_path: Path, recipe: str) -> None:
    with pytest.raises(ConfigError, match=r"features\.history\.1\.\w+\.(window|by)") as error:
        contract_with(tmp_path, recipe)
    assert "two recipes make" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[pais_cd]", "days_since.0: pais_cd is neither a date nor a time: its type is string"),
        ("[cajas_fisicas]", "days_since.0: cajas_fisicas is not a column with the role attribute: its role is measure"),
        ("[signup, signup]", "days_since.1: signup is listed twice"),
        ("[signups]", "days_since.0: signups is not a column with the role attribute.*did you mean signup"),
        ("[day]", "days_since.0: the dates of day are levels"),
    ],
)
def test_days_since_what_is_no_date_of_the_row_are_refused(tmp_path: Path, names: str, message: str) -> None:
    text = Path("pipelines/orders/pipeline.yaml").read_text(encoding="utf-8")
    dates = "{description: d, type: date, role: attribute"
    levels = "domain: {levels: ['2024-01-01', '2024-01-02'], closed: false}"
    text = text.replace("\ncolumns:\n", f"\ncolumns:\n  signup: {dates}}}\n  day: {dates}, {levels}}}\n", 1)
    path = tmp_path / "contract.yaml"
    path.write_text(text.replace("  calendar: [", f"  days_since: {names}\n  calendar: [", 1))
    with pytest.raises(ConfigError, match=rf"contract.yaml:\d+: features.{message}"):
        load_contract(path)


def test_a_model_reads_every_recipe_from_the_record_of_its_contract() -> None:
    contract = with_every_recipe(load_contract(Path("pipelines/orders/pipeline.yaml")))
    record = json.loads(json.dumps(contract.identity().as_dict()))
    assert ContractIdentity.from_dict(record) == contract.identity()


def test_a_history_is_by_values_that_have_one_text(tmp_path: Path) -> None:
    text = Path("pipelines/orders/pipeline.yaml").read_text(encoding="utf-8")
    text = text.replace("\ncolumns:\n", "\ncolumns:\n  x: {description: d, type: double, role: attribute}\n", 1)
    path = tmp_path / "contract.yaml"
    path.write_text(text.replace("    - {recipe: count}\n", "    - {recipe: count, by: x}\n", 1))
    with pytest.raises(
        ConfigError, match=r"contract.yaml:\d+: features.history.0.by: x is of type double: a history is"
    ):
        load_contract(path)


def test_a_history_by_another_column_needs_entity_and_timestamp(tmp_path: Path) -> None:
    text = Path("pipelines/orders/pipeline.yaml").read_text(encoding="utf-8")
    path = tmp_path / "contract.yaml"
    path.write_text(
        text.replace("role: timestamp", "role: ignore").replace("{recipe: count}", "{recipe: count, by: pais_cd}")
    )
    with pytest.raises(ConfigError, match=r"features.history: a history needs a column with the role timestamp"):
        load_contract(path)


def test_features_of_two_recipes_with_one_name_are_refused(tmp_path: Path) -> None:
    text = Path("pipelines/orders/pipeline.yaml").read_text(encoding="utf-8")
    path = tmp_path / "contract.yaml"
    recipes = "    - {recipe: count}\n    - {recipe: target_share, smoothing: 3, window: 30d}\n"
    text = text.replace("    - {recipe: count}\n", recipes).replace("VENDEDOR", "DIGITAL_30D")
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"target_share.* and target_share.* both make a column .*30[dD]"):
        load_contract(path)


def test_an_unknown_recipe_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the known ones are count, count_distinct, .* mean, min, target_share"):
        contract_with(tmp_path, "{recipe: total, column: cajas_fisicas}")


@pytest.mark.parametrize(
    ("when", "features", "message"),
    [
        ("type: date", "calendar: [hour]", "calendar.0: day is of type date, which has no hour"),
        ("type: date", "history_lag_hours: 6", "history_lag_hours: day is a date, which has no hours: write history_l"),
        (
            "type: timestamp",
            "history_lag_days: 1, history_lag_hours: 6",
            "history_lag_hours: there is a lag in days too: remove history_lag_days or this one",
        ),
        (
            "type: timestamp",
            "history_lag_hours: 87601",
            "history_lag_hours: with a lag of 87,601 hours rows have no history: write at most 87,600",
        ),
        ("type: date", "history_lag_hours: 0", "history_lag_hours: must be greater than or equal to 1"),
        ("type: timestamp", "days_since: [at]", "days_since.0: at is an instant, and the time of a row is none"),
        ("type: string", "calendar: []", "the timestamp column needs type date or timestamp, not string"),
    ],
)
def test_features_of_a_time_of_day_that_rows_do_not_have(
    tmp_path: Path, when: str, features: str, message: str
) -> None:
    text = f"""
        name: machines
        version: 1
        description: Runs of machines.
        columns:
          machine: {{description: The machine., type: string, role: entity}}
          day: {{description: When., {when}, role: timestamp}}
          at: {{description: Since., type: timestamp, role: attribute, timezone: UTC, nullable: true}}
          kind: {{description: Kind., type: string, role: target, domain: {{levels: [a, b], closed: true}}}}
        quarantine: {{limit: 0.5}}
        batch: {{recent: 7}}
        features: {{grain: every_row, {features}}}
        split: {{fractions: {{train: 0.6, validation: 0.2, test: 0.2}}}}
        promotion: {{}}
    """
    path = tmp_path / "contract.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_contract(path)
