"""Rows without entity, without date, or without both: trained, promoted, scored and served, with what it means said."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.shadow import shadow_outcomes
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.core.split import PARTS
from apex_ml.core.strategies import split_strategy
from apex_ml.core.training_keys import unpack_keys
from apex_ml.errors import ConfigError
from apex_ml.steps.elt import elt, make_plain_examples
from apex_ml.steps.monitor import monitor
from apex_ml.steps.promote import promote
from apex_ml.steps.score import score
from apex_ml.steps.split import possible_strategy, split
from apex_ml.steps.validate import validate
from tests.support.loans import NAME, Trained, changed, loans, train_loans
from tests.support.online_service import served

PLAIN = {"features": {"history": [], "calendar": []}}
NEITHER = changed(columns={"borrower": None, "day": None, "hour": None}, model={"name": "plain_loans"}, **PLAIN)
NO_ENTITY = changed(columns={"borrower": None, "hour": None}, features={"history": []})
NO_DATE = changed(columns={"day": None, "hour": None}, **PLAIN)
AS_OF = date(2024, 6, 1)


def without(*names: str) -> Any:
    return lambda table: table.drop_columns([name for name in names if name in table.column_names])


@pytest.fixture(scope="module")
def trained(lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("plain")
    return train_loans(folder, lasting_databases.migrated(), mlflow_server, NEITHER, without("borrower", "day"))


def contract_of(folder: Path, text: str) -> Contract:
    path = folder / "contract.yaml"
    path.write_text(text, encoding="utf-8")
    return load_contract(path)


def examples_of(contract: Contract, folder: Path, *parts: pa.Table) -> pa.Table:
    folder.mkdir(parents=True)
    for number, part in enumerate(parts):
        kinds = [contract.columns[name].arrow_type for name in part.column_names]
        pq.write_table(
            part.cast(pa.schema(list(zip(part.column_names, kinds, strict=True)))), folder / f"{number}.parquet"
        )
    with duckdb.connect() as con:
        files = sorted(folder.glob("*.parquet"))
        return pa.concat_tables(make_plain_examples(con, contract, files, AS_OF))


def test_a_random_split_is_promotable_and_the_gate_says_what_it_means(trained: Trained) -> None:
    assert trained.results["split"]["strategy"] == "random" and trained.results["split"]["promotable"]
    decision = trained.results["promote"]
    assert decision["promoted"], decision
    assert "no drift over time is tested" in decision["reasons"][-1]
    shares = {part: trained.results["split"]["parts"][part]["examples"] / 4000 for part in PARTS}
    assert shares == pytest.approx({"train": 0.6, "validation": 0.2, "test": 0.2}, abs=0.03)
    table = pq.read_table(trained.apex.processed / "first" / "elt" / "examples.parquet")
    assert len(set(table.column("row_identity").to_pylist())) == table.num_rows == 4000


def test_a_drop_is_scored_monitored_and_shown_by_the_day_of_its_scoring(trained: Trained) -> None:
    apex = trained.apex
    pq.write_table(without("borrower", "day")(loans(1500, seed=8)), apex.inbox / "a.parquet")
    assert score(apex.context("scoring"), ["a.parquet"]).to_json()["rows_scored"] == 1500
    columns = [
        name
        for (name,) in apex.sql(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = 'scored'::regclass AND attnum > 0 ORDER BY attnum"
        )
    ]
    assert columns[:3] == ["run_id", "row_nr", "predicted"]
    ((day, rows),) = apex.sql("SELECT day, sum(rows) FROM loans.class_mix_daily GROUP BY day")
    assert rows == 1500 and abs((date.today() - day).days) <= 1
    assert apex.sql("SELECT count(*) FROM loans.lineage WHERE training_run = 'first'") == [(1500,)]
    monitored = monitor(apex.context("monitoring")).to_json()
    tested = {name: monitored[name] for name in ("runs_tested", "weeks_evaluated", "raw_weeks_tested")}
    assert tested == {"runs_tested": 1, "weeks_evaluated": 1, "raw_weeks_tested": 0}


def test_the_api_needs_neither_entity_nor_date(trained: Trained) -> None:
    row = {"member": True, "rate": 2.5, "asked_at": "2024-04-30T11:00:00Z", "rooms": 3}
    with served(trained.apex) as client:
        answer = client.post(f"/{NAME}/predict", json={"rows": [row]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"][0]["known_entity"] is False
        assert '"borrower"' not in client.get("/openapi.json").text


def test_a_row_is_in_the_same_part_in_every_run_however_its_files_are_cut(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, NEITHER)
    table = without("borrower", "day")(loans(1000))
    table = pa.concat_tables([table, table.slice(0, 50)])  # rows of one file that are equal are rows of their own
    one = examples_of(contract, tmp_path / "one", table)
    more = without("borrower", "day")(loans(300, seed=77))
    two = examples_of(contract, tmp_path / "two", more, table)
    first, second = (set(t.column("row_identity").to_pylist()) for t in (one, two))
    assert len(first) == 1050 and len(second) == 1350 and first < second

    def parts(examples: pa.Table) -> dict[int, int]:
        ids = examples.column("row_identity").to_numpy()
        zeros = np.zeros(len(ids))
        assigned = split_strategy("random").assign_rows(zeros, zeros, ids, contract.split, 42)
        return dict(zip(ids.tolist(), assigned.tolist(), strict=True))

    before, after = parts(one), parts(two)
    assert all(after[row] == part for row, part in before.items())
    assert Counter(after.values()).keys() == {0, 1, 2}


def test_the_identity_of_a_row_does_not_depend_on_the_clock_of_the_machine(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, NEITHER)
    pq.write_table(without("borrower", "day")(loans(50)), tmp_path / "rows.parquet")
    ids = []
    for zone in ("UTC", "America/Lima"):
        with duckdb.connect() as con:
            con.execute(f"SET TimeZone = '{zone}'")
            (part,) = make_plain_examples(con, contract, [tmp_path / "rows.parquet"], AS_OF)
            ids.append(part.column("row_identity").to_pylist())
    assert ids[0] == ids[1]


def test_a_second_delivery_of_the_same_rows_is_left_out(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, NEITHER)
    table = without("borrower", "day")(loans(100))
    assert examples_of(contract, tmp_path / "rows", table, table).num_rows == 100


def test_rows_without_entity_are_split_by_their_date_and_every_row_is_a_cluster(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, NO_ENTITY)
    examples = examples_of(contract, tmp_path / "rows", without("borrower")(loans(500)))
    days = examples.column("day").to_pylist()
    assert days == sorted(days) and len(set(examples.column("row_identity").to_pylist())) == 500
    assert possible_strategy(contract, "temporal") == "temporal"
    assert not split_strategy("random").is_promotable(contract)


def test_rows_of_an_entity_without_date_are_in_one_part(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, NO_DATE)
    examples = examples_of(contract, tmp_path / "rows", without("day")(loans(500)))
    ids = examples.column("borrower").to_numpy()
    assigned = split_strategy("random").assign_rows(np.zeros(500), np.zeros(500), ids, contract.split, 1)
    of_entity: dict[int, set[int]] = {}
    for entity, part in zip(ids.tolist(), assigned.tolist(), strict=True):
        of_entity.setdefault(entity, set()).add(part)
    assert all(len(parts) == 1 for parts in of_entity.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (changed(columns={"borrower": None}), "a history needs a column with the role entity"),
        (
            changed(columns={"day": None}, features={"history": []}),
            "parts of the date need a column with the role",
        ),
        (
            changed(columns={"borrower": None}, features={"history": [], "grain": "last_row_per_entity"}),
            "the last row of an entity needs a column with the role entity: write grain: every_row",
        ),
        (
            changed(columns={"day": None}, batch={"rules": [{"rule": "freshness", "max_days": 2}]}, **PLAIN),
            "the rule freshness needs a column with the role timestamp",
        ),
        (
            changed(
                columns={"day": None, "row_day": {"description": "x", "type": "date", "role": "attribute"}}, **PLAIN
            ),
            "the column 'row_day' meets 'row_day', a column of the examples without timestamp",
        ),
    ],
)
def test_what_needs_an_absent_role_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        contract_of(tmp_path, text)
    assert words in str(raised.value)


def test_the_keys_of_the_training_rows_are_those_of_train_and_validation(trained: Trained) -> None:
    keys = unpack_keys((trained.apex.processed / "first" / "train" / "bundle" / "seen.u64").read_bytes())
    parts = trained.results["split"]["parts"]
    assert len(keys) == parts["train"]["examples"] + parts["validation"]["examples"]


def test_a_champion_with_other_features_is_compared_on_the_same_rows(trained: Trained) -> None:
    """Its attribute that the challenger lacks is taken from the accepted rows, by the identity of each row."""
    apex = trained.apex
    file = apex.pipeline.file
    before = file.read_text(encoding="utf-8")
    content = yaml.safe_load(before)
    content["features"]["attributes"] = ["member", "rate", "asked_at"]
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    try:
        context = apex.context("second")
        validate(context, raw=None, as_of=None, force=True)
        elt(context)
        split(context, strategy="temporal")
        done = apex.call("train", "--run", "second")
        assert done.code == 0, done.err
        decision = promote(context, who="test").to_json()
    finally:
        file.write_text(before, encoding="utf-8")
    test_rows = trained.results["split"]["parts"]["test"]["examples"]
    evidence = decision["evidence"]
    assert not decision["promoted"] and evidence["holdout_rows"] == test_rows, decision
    assert evidence["seen_rows_dropped"] == 0 and evidence["champion_log_loss"] < evidence["challenger_log_loss"]
    assert "no drift over time is tested" in decision["reasons"][-1]


def test_rows_that_a_challenger_scored_in_the_shadow_can_be_read(trained: Trained) -> None:
    apex = trained.apex
    with bulk_transaction(apex.settings, NAME) as session:
        session.execute(
            "INSERT INTO shadow_scores (run_id, model_version, row_nr, predicted, p_false, p_true)"
            " SELECT run_id, 99, row_nr, predicted, p_true, p_false FROM scored"
        )
        rows = shadow_outcomes(session, load_contract(apex.pipeline.file), 99, 1)
    assert rows.num_rows == len(set(rows.column("row_identity").to_pylist())) == 1500
    assert set(rows.column("row_day").to_pylist()) <= {date.today(), date.today() - timedelta(days=1)}
