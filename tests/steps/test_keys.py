"""A key: carried to the scored row, and what outcomes are matched by. Columns beside it, and those not mentioned."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from apex_ml.adapters.postgres.migrations import migrate_schema
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.errors import ConfigError, DataError
from apex_ml.pipelines import load_pipeline
from apex_ml.services.scoring_results import Coverage
from apex_ml.steps.outcomes import coverage_warning, outcomes
from apex_ml.steps.score import score
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex
from tests.support.loans import NAME, NEWEST, PIPELINE, Trained, changed, loans, train_loans
from tests.support.machines import write_pipeline
from tests.support.online_service import served
from tests.support.waiting import until

KEYED = changed(
    columns={
        "borrower": None,
        "day": None,
        "loan": {"description": "Number of the loan.", "type": "int64", "role": "key"},
        "branch": {"description": "Where it was signed.", "type": "string", "role": "passthrough", "nullable": True},
        "note": {"description": "What the clerk wrote.", "role": "ignore"},
    },
    features={"history": [], "calendar": []},
    extra="report",
    model={"name": "keyed_loans"},
)
DROP = 300


def keyed(table: pa.Table, first: int = 0) -> pa.Table:
    """The loans with numbers, branches and notes, without borrower and day."""
    n = table.num_rows
    table = table.drop_columns(["borrower", "day"]).append_column("loan", pa.array(range(first, first + n)))
    table = table.append_column("branch", pa.array(["North" if i % 3 else None for i in range(n)]))
    return table.append_column("note", pa.array([["a list"]] * n))


@pytest.fixture(scope="module")
def trained(lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_loans(tmp_path_factory.mktemp("keyed"), lasting_databases.migrated(), mlflow_server, KEYED, keyed)


def put(apex: Apex, name: str, table: pa.Table) -> None:
    pq.write_table(table, apex.inbox / name)
    assert score(apex.context("scoring"), [name]).to_json()["scored"] == 1


def test_the_key_stays_beside_the_score_and_its_outcome_is_that_of_all_its_scores(trained: Trained) -> None:
    apex = trained.apex
    drop = keyed(loans(DROP, seed=9, day=NEWEST), first=10_000)
    put(apex, "a.parquet", drop)
    put(apex, "b.parquet", drop.slice(0, 50))  # a second score of the same loans
    rows = apex.sql("SELECT loan, branch FROM loans.scored_current JOIN loans.lineage USING (run_id, row_nr, loan)")
    stays = list(zip(drop["loan"].to_pylist(), drop["branch"].to_pylist(), strict=True))
    assert sorted(rows, key=str) == sorted(stays + stays[:50], key=str)
    stored = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'scored'::regclass"
    assert ("note",) not in apex.sql(stored) and ("branch",) in apex.sql(stored)
    known = drop.append_column("repaid", pa.array([n % 2 == 0 for n in range(DROP)]))
    pq.write_table(known.slice(0, 200), apex.processed.parent / "raw" / "later.parquet")
    context = apex.context("later")
    validate(context, raw=None, as_of=None, force=False)
    counts = outcomes(context).to_json()
    assert (counts["matched"], counts["ambiguous"]) == (250, 0) and "warning" not in counts
    observed = "SELECT bool_and(observed = CASE WHEN mod(loan, 2) = 0 THEN 'true' ELSE 'false' END) FROM loans.outcomes"
    assert apex.sql(f"{observed} JOIN loans.scored USING (run_id, row_nr)") == [(True,)]


MOMENT = datetime(2024, 4, 30, 9, 30, 0, 7)
PASSED: dict[str, tuple[dict[str, Any], pa.DataType, Any]] = {
    # name, parts of the column, type in the drop, value in Postgres
    "text": ({"type": "string"}, pa.string(), "ñ 'x'"),
    "whole": ({"type": "int64"}, pa.int32(), 7),
    "real": ({"type": "double"}, pa.float32(), 0.5),
    "exact": ({"type": "decimal", "decimals": 3}, pa.decimal128(9, 2), Decimal("1234.500")),
    "truth": ({"type": "boolean"}, pa.bool_(), False),
    "day of": ({"type": "date"}, pa.date32(), date(2024, 4, 30)),
    "Clock": ({"type": "timestamp"}, pa.timestamp("us"), MOMENT),
    "select": ({"type": "timestamp", "timezone": "Asia/Tokyo"}, pa.timestamp("us", "UTC"), MOMENT.replace(tzinfo=UTC)),
}


def test_columns_of_every_type_are_carried_even_before_the_next_training(trained: Trained, tmp_path: Path) -> None:
    """The model's own contract does not have the new columns."""
    apex = trained.apex
    added = {
        n: {"description": n, "role": "passthrough", "nullable": True, **parts} for n, (parts, *_) in PASSED.items()
    }
    text = changed_of(KEYED, columns=added)
    pipeline = apex.pipeline
    write_pipeline(tmp_path / "pipelines", NAME, text, apex.processed, Path(pipeline.locations.raw))
    later = Apex(apex.settings.model_copy(update={"pipelines": tmp_path / "pipelines"}), NAME)
    migrate_schema(later.settings, load_pipeline(later.settings).contract, NAME)
    drop = keyed(loans(2, day=NEWEST), first=20_000)
    for name, (_, kind, value) in PASSED.items():
        drop = drop.append_column(name, pa.array([value, None], kind))
    put(later, "c.parquet", drop)
    names = ", ".join(f'"{name}"' for name in PASSED)
    first, second = later.sql(f"SELECT {names} FROM loans.scored_current WHERE loan >= 20000 ORDER BY loan")
    assert first == tuple(value for *_, value in PASSED.values()) and second == (None,) * len(PASSED)
    # what the online service records of a request
    row = {"member": True, "rate": 2.5, "asked_at": "2024-04-30T11:00:00Z", "rooms": 3, "loan": 30_000, "branch": "Süd"}
    sent = {name: value for name, (*_, value) in PASSED.items()}
    sent |= {"exact": "1234.5", "day of": "2024-04-30", "Clock": MOMENT.isoformat(), "select": f"{MOMENT.isoformat()}Z"}
    with served(later, serving_record_share=1) as client:
        answer = client.post(f"/{NAME}/predict", json={"rows": [row | sent]})
        assert answer.status_code == 200, answer.text
        until(lambda: later.sql("SELECT count(*) FROM loans.online_answers") == [(1,)], 20)
    (recorded,) = later.sql(f"SELECT {names} FROM loans.online_answers")
    assert recorded == first


def changed_of(text: str, **parts: Any) -> str:
    """A text of a pipeline with other parts."""
    content = yaml.safe_load(text)
    for key, value in parts.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    return yaml.safe_dump(content, sort_keys=False)


def test_a_request_may_hold_what_is_ignored_and_needs_the_key(trained: Trained) -> None:
    row = {"member": True, "rate": 2.5, "asked_at": "2024-04-30T11:00:00Z", "rooms": 3, "branch": None, "note": ["x"]}
    with served(trained.apex) as client:
        assert client.post(f"/{NAME}/predict", json={"rows": [row | {"loan": 7}]}).status_code == 200
        refused = client.post(f"/{NAME}/predict", json={"rows": [row]})
        assert [fault["path"] for fault in refused.json()["faults"]] == ["rows[0].loan"]


@pytest.fixture
def home(trained: Trained, databases: Any, tmp_path: Path) -> Any:
    """Validates raw tables by a text of the pipeline."""

    def run(text: str, *tables: pa.Table, without_newest_day: bool = False) -> dict[str, Any]:
        raw = tmp_path / "raw"
        raw.mkdir()
        for number, table in enumerate(tables):
            pq.write_table(table, raw / f"{number}.parquet")
        write_pipeline(tmp_path / "pipelines", NAME, text, tmp_path / "processed", raw)
        changes = {"home": tmp_path / "home", "pipelines": tmp_path / "pipelines"}
        settings = trained.apex.settings.model_copy(update=changes)
        context = Apex(settings, NAME).context("checked")
        held = {"without_newest_day": without_newest_day}
        result = validate(context, raw=None, as_of=None, force=True, **held).to_json()
        files = sorted((tmp_path / "processed" / "checked" / "validate" / "accepted").glob("*.parquet"))
        return result | {"rows_left": [row for file in files for row in pq.read_table(file).to_pylist()]}

    return run


def test_of_several_rows_of_a_key_the_latest_stays(home: Any) -> None:
    table = keyed(loans(20))
    again = keyed(loans(5, seed=4))
    result = home(changed_of(KEYED, repeated_keys="latest"), table, again)
    assert (result["accepted"], result["superseded"]) == (20, 5)
    by_key = {row["loan"]: row for row in result["rows_left"]}
    assert [by_key[n]["rate"] for n in range(5)] == again["rate"].to_pylist()
    assert [by_key[n]["rate"] for n in range(5, 20)] == table["rate"].to_pylist()[5:]


def test_of_several_rows_of_a_key_the_newest_stays_whatever_its_file(home: Any) -> None:
    text = changed(columns={"loan": {"description": "Number.", "type": "int64", "role": "key"}}, repeated_keys="latest")
    newer = loans(3, day=NEWEST).append_column("loan", pa.array([1, 2, 3]))
    newer = newer.append_column("repaid", pa.array([True] * 3))
    older = loans(10).append_column("loan", pa.array(range(10)))
    result = home(text, newer, older)
    days = {row["loan"]: row["day"] for row in result["rows_left"]}
    assert result["superseded"] == 3 and [key for key, day in days.items() if day == NEWEST] == [1, 2, 3]


def test_several_rows_of_a_key_are_refused_with_examples(home: Any) -> None:
    table = keyed(loans(20))
    with pytest.raises(DataError, match=r"5 keys of loan with several rows that differ, as '0' \(2 rows\), '1'"):
        home(KEYED, table, keyed(loans(5, seed=4)))


def test_a_row_that_is_delivered_twice_is_no_repeated_key(home: Any) -> None:
    table = keyed(loans(20))
    assert "superseded" not in home(KEYED, table, table.slice(3, 2))


def test_of_rows_without_dates_a_random_part_is_held_back_as_a_drop(home: Any, tmp_path: Path) -> None:
    table = keyed(loans(1000))
    result = home(KEYED, table, without_newest_day=True)
    held = result["held_back"]
    assert 25 <= held["rows"] <= 80 and "day" not in held and result["accepted"] == 1000 - held["rows"]
    drop = pq.read_table(tmp_path / "processed" / "checked" / "validate" / "held-back.parquet")
    assert drop.column_names == ["member", "rate", "asked_at", "rooms", "loan", "branch"]
    left = {row["loan"] for row in result["rows_left"]}
    assert left.isdisjoint(drop["loan"].to_pylist()) and len(left) + drop.num_rows == 1000


def test_columns_that_the_contract_does_not_mention_are_reported_or_refused(home: Any) -> None:
    table = keyed(loans(20)).append_column("colour", pa.array(["red"] * 20))
    result = home(KEYED, table)
    assert result["warnings"] == {"colour: extra: the contract does not mention this column": 20}


def test_a_file_with_such_a_column_is_refused(home: Any) -> None:
    table = keyed(loans(20)).append_column("colour", pa.array(["red"] * 20))
    with pytest.raises(DataError, match=r"columns that the contract does not mention: 'colour' \(extra: refuse\)"):
        home(changed_of(KEYED, extra="refuse"), table)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"role": "key", "type": "double"}, "a key needs type string or int64 or date or timestamp, not double"),
        ({"role": "key", "type": "string", "nullable": True}, "the key cannot be nullable"),
    ],
)
def test_a_key_is_always_there_and_comparable(tmp_path: Path, column: dict[str, Any], words: str) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(changed(columns={"loan": {"description": "Number.", **column}}))
    with pytest.raises(ConfigError, match=words):
        load_contract(path)


def test_an_ignored_column_is_no_feature(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(changed_of(KEYED, features={"grain": "every_row", "attributes": ["note"]}))
    with pytest.raises(ConfigError, match="note is not a column with the role attribute: its role is ignore"):
        load_contract(path)


def test_low_coverage_is_said_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(PIPELINE)
    plain = load_contract(path)
    counts = {"matched": 500, "already_known": 0, "ambiguous": 72_157, "contradicted": 0}
    warning = coverage_warning(plain, counts, {})
    assert warning is not None and warning.startswith(
        "72,157 of 72,657 scores cannot be matched, as several scores or raw"
    )
    assert warning.endswith("the same borrower and day: give the column that identifies a row the role key")
    counts |= {"ambiguous": 0}
    late = {
        "1-7": Coverage(scored=900, with_outcome=0, share=0.0),
        "31-90": Coverage(scored=100, with_outcome=9, share=0.09),
    }
    warning = coverage_warning(plain, counts, late)
    assert warning is not None and warning.startswith("only 9 of 100 scores of rows older than a week have an outcome")
    assert coverage_warning(plain, counts, {"8-14": Coverage(scored=100, with_outcome=60, share=0.6)}) is None
    path.write_text(changed(columns={"borrower": None}, features={"history": []}))
    warning = coverage_warning(load_contract(path), dict.fromkeys(counts, 0), {})
    assert warning is not None and "the contract has no key" in warning
