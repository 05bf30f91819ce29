"""The table of scored orders and its views, as the contract gives them."""

from __future__ import annotations

from typing import Any

import pytest

from apex_ml.adapters.postgres.connection import connect
from apex_ml.adapters.postgres.migrations import apply
from apex_ml.contract.model import Contract
from apex_ml.settings import Settings
from apex_ml.sql.tables import pipeline_ddl, scored_columns
from tests.support.apex_home import Apex
from tests.support.schema import SCHEMA


@pytest.fixture
def apex(databases: Any, home: Any) -> Apex:
    return Apex(home(**databases.migrated()))


def columns(apex: Apex) -> list[tuple[Any, ...]]:
    return apex.sql(
        "SELECT table_name::text, ordinal_position::int, column_name::text, data_type::text"
        " FROM information_schema.columns WHERE table_schema = 'orders' ORDER BY 1, 2"
    )


def bring(settings: Settings, contract: Contract) -> None:
    with connect(settings, SCHEMA) as connection:
        apply(connection, SCHEMA, [], pipeline_ddl(contract, SCHEMA))


def with_class(contract: Contract, level: str) -> Contract:
    target = contract.columns[contract.target]
    assert target.domain is not None
    wider = target.domain.model_copy(update={"levels": (*target.domain.levels, level)})
    changed = {**contract.columns, target.name: target.model_copy(update={"domain": wider})}
    return contract.model_copy(update={"columns": changed})


def test_running_the_statements_again_changes_nothing(apex: Apex, contract: Contract) -> None:
    before = columns(apex)
    bring(apex.settings, contract)
    assert columns(apex) == before
    assert [n for t, _, n, _ in before if t == "scored"] == list(scored_columns(contract))


def test_a_new_class_adds_a_column_and_the_views_follow(apex: Apex, contract: Contract) -> None:
    before = columns(apex)
    wider = with_class(contract, "WHATSAPP")
    bring(apex.settings, wider)
    added = {(t, n) for t, _, n, _ in columns(apex)} - {(t, n) for t, _, n, _ in before}
    assert {n for _, n in added} == {"p_whatsapp"}
    assert {"scored", "scored_current"} <= {t for t, _ in added}
    bring(apex.settings, wider)
    bring(apex.settings, contract)  # a step back takes nothing away
    assert ("scored", "p_whatsapp") in {(t, n) for t, _, n, _ in columns(apex)}


def test_every_table_and_view_says_what_a_row_is(apex: Apex) -> None:
    silent = apex.sql(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'orders'::regnamespace AND relkind IN ('p', 'r', 'v')"
        " AND NOT relispartition AND relname <> 'migrations' AND obj_description(oid) IS NULL"
    )
    assert silent == []


def test_a_key_is_unique_over_all_partitions(apex: Apex) -> None:
    (key,) = apex.sql(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'orders.scored'::regclass"
        " AND contype = 'p'"
    )
    assert key == ("PRIMARY KEY (run_id, row_nr)",)
