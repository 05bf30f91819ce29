"""A lost Postgres is a transient error; claims, locks and quarantined rows across transactions."""

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

from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.champions import NewDecision, PendingMove, champion_lock, champions
from apex_ml.adapters.postgres.connection import connect, ping, transaction
from apex_ml.adapters.postgres.drops import FailedDrop, PostgresDrops
from apex_ml.adapters.postgres.errors import as_apex_error
from apex_ml.adapters.postgres.failed_drops import fail_drop
from apex_ml.adapters.postgres.quarantine import PostgresQuarantine
from apex_ml.adapters.postgres.scored_rows import write_scores
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.settings import Settings
from tests.support.apex_home import Apex
from tests.support.schema import SCHEMA
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
    "ping": ping,
    "champions": lambda s: champions(s, SCHEMA, "m").__enter__(),
    "champion_lock": lambda s: champion_lock(s, SCHEMA, "m").__enter__(),
    "connect": lambda s: connect(s, SCHEMA).__enter__(),
    "transaction": lambda s: bulk_transaction(s, SCHEMA).__enter__(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_postgres_is_a_transient_error(nowhere: Settings, call: str) -> None:
    with pytest.raises(TransientError) as raised:
        CALLS[call](nowhere)
    address = nowhere.database_url.rsplit("@", 1)[1]
    assert f"Postgres at {address}" in str(raised.value) and "APEX_DATABASE_URL" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_connection_that_is_lost_half_way(apex: Apex) -> None:
    with pytest.raises(TransientError, match="does not answer"):
        with connect(apex.settings, SCHEMA) as connection, connection.cursor() as cursor:
            apex.sql("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
            cursor.execute("SELECT 1")


def test_a_transaction_that_is_lost_half_way_leaves_nothing(apex: Apex) -> None:
    with pytest.raises(TransientError, match="nothing was written"), bulk_transaction(apex.settings, SCHEMA) as session:
        assert PostgresDrops(session).claim("a" * 64, "a.parquet", 1, 1) is not None
        ((pid,),) = session.fetch("SELECT pg_backend_pid()")
        apex.sql("SELECT pg_terminate_backend(%s)", (pid,))
        PostgresDrops(session).claim("b" * 64, "b.parquet", 1, 1)
    assert apex.sql("SELECT count(*) FROM orders.drops") == [(0,)]


def test_a_failure_of_the_caller_rolls_back(apex: Apex) -> None:
    with pytest.raises(RuntimeError, match="mine"), bulk_transaction(apex.settings, SCHEMA) as session:
        PostgresDrops(session).claim("a" * 64, "a.parquet", 1, 1)
        raise RuntimeError("mine")
    assert apex.sql("SELECT count(*) FROM orders.drops") == [(0,)]


def test_an_error_while_making_a_batch_keeps_its_type(apex: Apex) -> None:
    schema = pa.schema([("run_id", pa.int64())])

    def broken() -> Any:
        raise DataError("a.parquet: cannot be read")
        yield

    with (
        pytest.raises(DataError, match="^a.parquet: cannot be read$"),
        bulk_transaction(apex.settings, SCHEMA) as session,
    ):
        PostgresDrops(session).claim("1" * 64, "a.parquet", 1, 1)
        write_scores(session, schema, broken())
    assert apex.sql("SELECT count(*) FROM orders.drops") == [(0,)]


def claim(apex: Apex, sha256: str, name: str) -> int | None:
    with bulk_transaction(apex.settings, SCHEMA) as session:
        return PostgresDrops(session).claim(sha256, name, 1, 1)


def test_a_scored_content_does_not_fail_later_and_keeps_its_rows(apex: Apex, tmp_path: Path) -> None:
    drop = FailedDrop("1" * 64, "a.parquet", 1, "too many bad rows", 5, 3)
    with quarantined_file(tmp_path, 3) as file:
        for _ in range(2):
            fail_drop(apex.settings, SCHEMA, drop, "run", file.read())
    assert apex.sql("SELECT state, rows, rows_quarantined, deliveries FROM orders.drops") == [("failed", 5, 3, 2)]
    assert apex.sql("SELECT count(*) FROM orders.quarantined_rows") == [(3,)]
    assert claim(apex, "1" * 64, "a.parquet") is not None
    assert apex.sql("SELECT state, rows_quarantined FROM orders.drops") == [("done", None)]
    assert apex.sql("SELECT count(*) FROM orders.quarantined_rows") == [(0,)]
    with quarantined_file(tmp_path, 3) as file:
        fail_drop(apex.settings, SCHEMA, drop, "run", file.read())
    assert apex.sql("SELECT state, rows_quarantined FROM orders.drops") == [("done", None)]
    assert apex.sql("SELECT count(*) FROM orders.quarantined_rows") == [(0,)]


@pytest.mark.parametrize(
    ("sha256", "name"), [("1" * 64, "a.parquet"), ("1" * 64, "b.parquet"), ("2" * 64, "a.parquet")]
)
def test_a_second_claim_waits_for_the_first_and_finds_it_done(apex: Apex, sha256: str, name: str) -> None:
    results: list[int | None] = []
    with bulk_transaction(apex.settings, SCHEMA) as session:
        first = PostgresDrops(session).claim("1" * 64, "a.parquet", 1, 1)
        other = threading.Thread(target=lambda: results.append(claim(apex, sha256, name)))
        other.start()
        deadline = time.monotonic() + 10
        while not apex.sql("SELECT 1 FROM pg_locks WHERE NOT granted"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert results == []
    other.join(10)
    if sha256 == "1" * 64:  # the same content under any name
        assert results == [None]
    else:  # a correction: the later claim supersedes the earlier one
        assert results != [None]
        assert dict(apex.sql("SELECT drop_id, superseded_by FROM orders.drops")) == {
            first: results[0],
            results[0]: None,
        }


@pytest.mark.parametrize(("shared", "waits"), [(True, False), (False, True)])
def test_readers_of_the_champion_share_the_lock(apex: Apex, shared: bool, waits: bool) -> None:
    inside = threading.Event()

    def second() -> None:
        with champion_lock(apex.settings, SCHEMA, "m", shared=shared):
            inside.set()

    with champion_lock(apex.settings, SCHEMA, "m", shared=True):
        other = threading.Thread(target=second)
        other.start()
        assert inside.wait(0.5 if waits else 10) is not waits
    other.join(10)
    assert inside.is_set()


def test_a_lock_is_of_one_model(apex: Apex) -> None:
    with champion_lock(apex.settings, SCHEMA, "m"), champion_lock(apex.settings, SCHEMA, "another"):
        pass


def test_only_one_move_is_pending(apex: Apex) -> None:
    with champions(apex.settings, SCHEMA, "m") as ledger:
        number = ledger.record(NewDecision("promote", "pending", "r", "w", ("better",), to_version=1))
    with pytest.raises(DataError, match="promotions_one_pending"), champions(apex.settings, SCHEMA, "m") as ledger:
        ledger.record(NewDecision("promote", "pending", "r", "w", ("better",), to_version=2))
    with champions(apex.settings, SCHEMA, "m") as ledger:
        assert ledger.pending_move() == PendingMove(number, None, 1)


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
        with quarantined_file(tmp_path, rows) as file, bulk_transaction(apex.settings, SCHEMA) as session:
            PostgresQuarantine(session).keep("raw", "1" * 64, "a.parquet", file.iter_batches(10_000), most)
    assert apex.sql("SELECT count(*) FROM orders.quarantined_rows") == [(kept,)]
    assert apex.sql("SELECT DISTINCT value, row FROM orders.quarantine") == [("v", {"c": r"v\u0000"})][: min(kept, 1)]


def test_quarantined_rows_of_a_drop_hold_no_nul_either(apex: Apex, tmp_path: Path) -> None:
    with quarantined_file(tmp_path, 3) as file, bulk_transaction(apex.settings, SCHEMA) as session:
        PostgresQuarantine(session).keep("drop", "1" * 64, "a.parquet", file.iter_batches())
    assert apex.sql("SELECT source_kind, row_nr, value, row FROM orders.quarantine ORDER BY row_nr") == [
        ("drop", nr, "v", {"c": r"v\u0000"}) for nr in range(3)
    ]


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("SELECT '{\"a\": -Infinity}'::jsonb", DataError, "refuses a value"),
        ("SELECT 1/0", DataError, "refuses a value"),
        ("SELECT nothing FROM orders.drops", ConfigError, "refuses a statement"),
        ("SELEC 1", ConfigError, "refuses a statement"),
        (
            "INSERT INTO orders.drops (sha256, name, bytes, state) VALUES ('a', 'a', 1, 'other')",
            DataError,
            "refuses a value",
        ),
    ],
)
def test_a_statement_that_postgres_refuses_is_not_retried(
    apex: Apex, statement: str, kind: type[Exception], words: str
) -> None:
    for begin in (transaction, bulk_transaction):
        with pytest.raises(kind, match=words), begin(apex.settings, SCHEMA) as session:
            session.execute(statement)


@pytest.mark.parametrize(("password", "words"), [("wrong", "password authentication failed.*apex up")])
def test_a_refused_login_is_not_retried(apex: Apex, password: str, words: str) -> None:
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
def test_the_error_code_decides_about_a_retry(code: str | None, kind: type[Exception]) -> None:
    assert type(as_apex_error("postgresql://u:secret@h/d", "ERROR:  x", code)) is kind
