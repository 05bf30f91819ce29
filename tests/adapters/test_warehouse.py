"""The warehouse and the writing of scored orders tell a lost Postgres as one that may come back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.postgres import scores, warehouse
from apex_ml.adapters.postgres.errors import as_apex_error
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.settings import Settings
from tests.support.apex_home import Apex
from tests.support.throwaway_home import free_ports


@pytest.fixture
def apex(databases: Any, home: Any) -> Apex:
    return Apex(home(**databases.migrated()))


@pytest.fixture
def nowhere(home: Any) -> Settings:
    (port,) = free_ports(1)
    settings: Settings = home(database_url=f"postgresql://apex_writer:secret@127.0.0.1:{port}/apex")
    return settings


CALLS: dict[str, Callable[[Settings], Any]] = {
    "rows": lambda s: warehouse.rows(s, "SELECT 1"),
    "last_decision": lambda s: warehouse.last_decision(s, "a", "b"),
    "champion_lock": lambda s: warehouse.champion_lock(s).__enter__(),
    "connect": lambda s: warehouse.connect(s).__enter__(),
    "transaction": lambda s: scores.transaction(s).__enter__(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_postgres_that_is_not_there(nowhere: Settings, call: str) -> None:
    with pytest.raises(TransientError) as told:
        CALLS[call](nowhere)
    address = nowhere.database_url.rsplit("@", 1)[1]
    assert f"Postgres at {address}" in str(told.value) and "APEX_DATABASE_URL" in str(told.value)
    assert "secret" not in str(told.value)


def test_a_connection_that_is_lost_half_way(apex: Apex) -> None:
    with pytest.raises(TransientError, match="does not answer"):
        with warehouse.connect(apex.settings) as connection, connection.cursor() as cursor:
            apex.sql("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
            cursor.execute("SELECT 1")


def test_a_transaction_that_is_lost_half_way_leaves_nothing(apex: Apex) -> None:
    with pytest.raises(TransientError, match="nothing was written"), scores.transaction(apex.settings) as cursor:
        assert scores.claim_drop(cursor, "a" * 64, "a.parquet", 1, 1) is not None
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
        apex.sql("SELECT pg_terminate_backend(%s)", (pid,))
        scores.claim_drop(cursor, "b" * 64, "b.parquet", 1, 1)
    assert apex.sql("SELECT count(*) FROM apex.drops") == [(0,)]


def test_a_failure_of_the_caller_rolls_back(apex: Apex) -> None:
    with pytest.raises(RuntimeError, match="mine"), scores.transaction(apex.settings) as cursor:
        scores.claim_drop(cursor, "a" * 64, "a.parquet", 1, 1)
        raise RuntimeError("mine")
    assert apex.sql("SELECT count(*) FROM apex.drops") == [(0,)]


def test_a_batch_that_can_not_be_made_is_told_as_what_it_is(apex: Apex) -> None:
    schema = pa.schema([("run_id", pa.int64())])

    def broken() -> Any:
        raise DataError("a.parquet: cannot be read")
        yield

    with pytest.raises(DataError, match="^a.parquet: cannot be read$"), scores.transaction(apex.settings) as cursor:
        scores.claim_drop(cursor, "1" * 64, "a.parquet", 1, 1)
        scores.write_orders(cursor, schema, broken())
    assert apex.sql("SELECT count(*) FROM apex.drops") == [(0,)]


def claim(apex: Apex, sha256: str, name: str) -> int | None:
    with scores.transaction(apex.settings) as cursor:
        return scores.claim_drop(cursor, sha256, name, 1, 1)


def test_a_content_is_claimed_once_and_a_name_corrects_its_elder(apex: Apex) -> None:
    first = claim(apex, "1" * 64, "a.parquet")
    assert claim(apex, "1" * 64, "b.parquet") is None
    second = claim(apex, "2" * 64, "a.parquet")
    third = claim(apex, "3" * 64, "c.parquet")
    found = dict(apex.sql("SELECT drop_id, superseded_by FROM apex.drops"))
    assert found == {first: second, second: None, third: None}


def test_a_failed_content_may_be_claimed_later(apex: Apex) -> None:
    warehouse.fail_drop(apex.settings, "1" * 64, "a.parquet", 1, "no champion of its kind")
    warehouse.fail_drop(apex.settings, "1" * 64, "a.parquet", 1, "again")
    assert apex.sql("SELECT state, deliveries, reason FROM apex.drops") == [("failed", 2, "again")]
    assert claim(apex, "1" * 64, "a.parquet") is not None
    assert apex.sql("SELECT state, reason FROM apex.drops") == [("done", None)]
    warehouse.fail_drop(apex.settings, "1" * 64, "a.parquet", 1, "late")
    assert apex.sql("SELECT state, reason FROM apex.drops") == [("done", None)]


@pytest.mark.parametrize(
    ("sha256", "name"), [("1" * 64, "a.parquet"), ("1" * 64, "b.parquet"), ("2" * 64, "a.parquet")]
)
def test_a_second_claim_waits_for_the_first_and_finds_it_done(apex: Apex, sha256: str, name: str) -> None:
    found: list[int | None] = []
    with scores.transaction(apex.settings) as cursor:
        first = scores.claim_drop(cursor, "1" * 64, "a.parquet", 1, 1)
        other = threading.Thread(target=lambda: found.append(claim(apex, sha256, name)))
        other.start()
        deadline = time.monotonic() + 10
        while not apex.sql("SELECT 1 FROM pg_locks WHERE NOT granted"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert found == []
    other.join(10)
    if sha256 == "1" * 64:  # the same content, by whatever name
        assert found == [None]
    else:  # a correction: the later claim supersedes the earlier one
        assert found != [None]
        assert dict(apex.sql("SELECT drop_id, superseded_by FROM apex.drops")) == {first: found[0], found[0]: None}


@pytest.mark.parametrize(("shared", "waits"), [(True, False), (False, True)])
def test_who_only_reads_the_champion_shares_the_lock(apex: Apex, shared: bool, waits: bool) -> None:
    inside = threading.Event()

    def second() -> None:
        with warehouse.champion_lock(apex.settings, shared=shared):
            inside.set()

    with warehouse.champion_lock(apex.settings, shared=True):
        other = threading.Thread(target=second)
        other.start()
        assert inside.wait(0.5 if waits else 10) is not waits
    other.join(10)
    assert inside.is_set()


def test_a_lock_is_of_one_model(apex: Apex) -> None:
    other = apex.but(model_name="another")
    with warehouse.champion_lock(apex.settings), warehouse.champion_lock(other.settings):
        pass


def test_only_one_move_is_pending(apex: Apex) -> None:
    row = {"model_name": "m", "action": "promote", "to_version": 1, "state": "pending", "step_run": "r", "who": "w"}
    with warehouse.connect(apex.settings) as connection:
        with connection:
            number = warehouse.record_decision(connection, {**row, "reasons": ["better"]})
        with pytest.raises(warehouse.psycopg2.errors.UniqueViolation), connection:
            warehouse.record_decision(connection, {**row, "to_version": 2, "reasons": ["better"]})
        with connection:
            assert warehouse.pending_move(connection, "m") == (number, None, 1)
            assert warehouse.ledger_champion(connection, "m") is None
            warehouse.finish_move(connection, number)
            assert warehouse.pending_move(connection, "m") is None
            assert warehouse.ledger_champion(connection, "m") == 1


def quarantined_file(folder: Path, rows: int) -> pq.ParquetFile:
    path = folder / "q.parquet"
    # a NUL, which jsonb refuses, and the six characters that look like one
    reasons, row = r'[{"column": "c", "value": "v\u0000", "rule": "r"}]', r'{"c": "v\u0000\\u0000"}'
    pq.write_table(pa.table({"row_nr": range(rows), "reasons": [reasons] * rows, "row": [row] * rows}), path)
    return pq.ParquetFile(path)


@pytest.mark.parametrize(("rows", "most", "kept"), [(5, 10, 5), (12_000, 10_500, 10_500), (5, 0, 0)])
def test_quarantined_rows_are_kept_once_up_to_a_limit(
    apex: Apex, tmp_path: Path, rows: int, most: int, kept: int
) -> None:
    for _ in range(2):
        with quarantined_file(tmp_path, rows) as file:
            warehouse.keep_quarantined(apex.settings, "raw", "1" * 64, "a.parquet", file, most)
    assert apex.sql("SELECT count(*) FROM apex.quarantined_rows") == [(kept,)]
    assert apex.sql("SELECT DISTINCT value, row FROM apex.quarantine") == [("v", {"c": r"v\u0000"})][: min(kept, 1)]


def test_quarantined_rows_of_a_drop_hold_no_nul_either(apex: Apex, tmp_path: Path) -> None:
    with quarantined_file(tmp_path, 3) as file, scores.transaction(apex.settings) as cursor:
        scores.write_quarantined(cursor, "1" * 64, "a.parquet", file.read())
    assert apex.sql("SELECT source_kind, row_nr, value, row FROM apex.quarantine ORDER BY row_nr") == [
        ("drop", nr, "v", {"c": r"v\u0000"}) for nr in range(3)
    ]


VERSION = {
    "model_name": "m",
    "model_version": 1,
    "mlflow_run_id": "one",
    "data_sha256": "d",
    "contract_sha256": "c",
    "git_commit": None,
    "step_run": "r",
    "about": {"low": float("-inf")},
}


def test_a_version_is_never_taken_for_another_one_of_its_number(apex: Apex) -> None:
    warehouse.record_version(apex.settings, VERSION)
    warehouse.record_version(apex.settings, VERSION)
    with pytest.raises(ConfigError, match=r"version 1 of m was trained before, by MLflow's run one.*APEX_MODEL_NAME"):
        warehouse.record_version(apex.settings, VERSION | {"mlflow_run_id": "two"})
    assert apex.sql("SELECT mlflow_run_id, about FROM apex.model_versions") == [("one", {"low": None})]


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("SELECT '{\"a\": -Infinity}'::jsonb", DataError, "refuses a value"),
        ("SELECT 1/0", DataError, "refuses a value"),
        ("SELECT nothing FROM apex.drops", ConfigError, "refuses a statement"),
        ("SELEC 1", ConfigError, "refuses a statement"),
        (
            "INSERT INTO apex.drops (sha256, name, bytes, state) VALUES ('a', 'a', 1, 'other')",
            DataError,
            "refuses a value",
        ),
    ],
)
def test_what_postgres_refuses_is_not_tried_again(
    apex: Apex, statement: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        warehouse.rows(apex.settings, statement)
    with pytest.raises(kind, match=words), scores.transaction(apex.settings) as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize(("password", "words"), [("wrong", "password authentication failed.*apex up")])
def test_a_refused_login_is_not_tried_again(apex: Apex, password: str, words: str) -> None:
    url = re.sub(r":[^:@/]*@", f":{password}@", apex.settings.writer_url)
    settings = apex.settings.model_copy(update={"database_url": url})
    for call in CALLS.values():
        with pytest.raises(ConfigError, match=words):
            call(settings)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *(
            (code, TransientError)
            for code in (None, "08006", "25P03", "40P01", "53100", "53300", "55P03", "57014", "57P01")
        ),
        *((code, DataError) for code in ("22P02", "22003", "22021", "23502", "23514")),
        *((code, ConfigError) for code in ("42601", "42703", "42P01", "42501", "0A000", "3D000")),
    ],
)
def test_a_code_of_postgres_says_whether_to_try_again(code: str | None, kind: type[Exception]) -> None:
    assert type(as_apex_error("postgresql://u:secret@h/d", "ERROR:  x", code)) is kind
