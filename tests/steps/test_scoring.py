"""Every drop is scored exactly once, in all failures."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb import engine
from apex_ml.contract.model import Contract
from apex_ml.core.estimator import Encoder, Model
from apex_ml.core.features import feature_columns, finish
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.services.drop_features import features_query
from apex_ml.services.scorer import load_scorer
from apex_ml.settings import CODE_ROOT
from apex_ml.simulate.drop import make_drop
from apex_ml.sql.row_checks import ROW_NR
from apex_ml.steps.list_drops import list_drops
from apex_ml.steps.promote import promote
from apex_ml.steps.score import score
from tests.support.apex_home import COMMAND, Apex
from tests.support.ledger import ROWS, counts, places, run, scored_rows
from tests.support.throwaway_home import free_ports

Drop = Callable[..., Path]


def test_a_drop_is_scored_and_its_metrics_are_correct(scoring: Apex, put_drop: Drop, contract: Contract) -> None:
    table = pq.read_table(put_drop())
    result = run(scoring)
    assert (result["scored"], result["rows_scored"], result["failed"]) == (1, ROWS, 0)
    outcome = scored_rows(scoring)
    assert [r[1] for r in outcome] == list(range(ROWS))
    assert [r[2] for r in outcome] == table[contract.entity].to_pylist()
    p = np.array([r[5:8] for r in outcome])
    assert p.sum(axis=1) == pytest.approx(np.ones(ROWS), abs=1e-5)
    assert [r[4] for r in outcome] == [contract.classes[k] for k in p.argmax(axis=1)]
    assert [r[8] for r in outcome] == pytest.approx(p.max(axis=1))
    (summary,) = scoring.sql(
        "SELECT state, rows_in, rows_scored, rows_quarantined, success_rate, confidence_mean, confidence_median,"
        " model_version, row_us_mean > 0, row_us_p50 <= row_us_p95, row_us_p95 <= row_us_p99, ms_total >= ms_check"
        " FROM orders.drop_summary"
    )
    assert summary[:5] == ("done", ROWS, ROWS, 0, 1.0)
    assert summary[5:7] == pytest.approx((p.max(axis=1).mean(), np.median(p.max(axis=1))), abs=1e-6)
    assert summary[7:] == (result["model_version"], True, True, True, True)
    classes = scoring.sql("SELECT predicted, rows, share FROM orders.drop_classes ORDER BY predicted")
    assert {c: n for c, n, _ in classes} == {c: [r[4] for r in outcome].count(c) for c in contract.classes}
    assert sum(share for _, _, share in classes) == pytest.approx(1)
    assert places(scoring) == {"inbox": [], "done": ["a.parquet"], "quarantine": []}
    assert scoring.leftovers() == []


def test_a_champion_of_a_class_that_the_contract_lost_scores_nothing(scoring: Apex, put_drop: Drop) -> None:
    put_drop()
    text = Path(load_pipeline(scoring.settings).file).read_text()
    other = scoring.settings.home / "other.yaml"
    other.write_text(text.replace("[DIGITAL, TELEFONO, VENDEDOR]", "[DIGITAL, VENDEDOR, WEB]"))
    context = scoring.but(contract=other).context("other")
    with pytest.raises(ConfigError, match=r"version 1 cannot .* it predicts TELEFONO, .*: apex -p orders retrain"):
        score(context, ["a.parquet"])
    assert places(scoring) == {"inbox": ["a.parquet"], "done": [], "quarantine": []}


def test_the_lineage_of_a_row_shows_data_and_code(chain: Any, scoring: Apex, put_drop: Drop) -> None:
    put_drop()
    run(scoring)
    rows = scoring.sql("SELECT DISTINCT drop_name, model_version, mlflow_run_id, feature_snapshot FROM orders.lineage")
    trained = chain.results["train"]
    snapshot = chain.results["elt"]["snapshot_sha256"]
    assert rows == [("a.parquet", trained["model_version"], trained["mlflow_run_id"], snapshot)]


def test_the_same_content_is_scored_once_under_any_name(scoring: Apex, put_drop: Drop) -> None:
    put_drop()
    run(scoring)
    before = scored_rows(scoring)
    for name in ("a.parquet", "b.parquet"):
        put_drop(name)
        result = run(scoring, name)
        assert (result["scored"], result["already"]) == (0, 1)
        assert result["drops"][0]["scored_as"] == "a.parquet"
    assert scored_rows(scoring) == before and counts(scoring) == (1, 1, ROWS)
    assert scoring.sql("SELECT deliveries FROM orders.drops") == [(3,)]
    assert places(scoring)["inbox"] == []


def test_a_correction_by_the_same_name_supersedes(scoring: Apex, put_drop: Drop) -> None:
    put_drop(seed=1)
    run(scoring)
    put_drop(seed=2, rows=300)
    run(scoring)
    assert counts(scoring) == (2, 2, ROWS + 300)
    assert scoring.sql("SELECT count(*) FROM orders.scored_current") == [(300,)]
    assert scoring.sql("SELECT rows_scored, superseded_by IS NULL FROM orders.drop_summary ORDER BY drop_id") == [
        (ROWS, False),
        (300, True),
    ]
    assert len(places(scoring)["done"]) == 2


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


BAD = {
    "cut.parquet": (lambda p: cut(p), "cut.parquet: a truncated parquet file"),
    "text.parquet": (lambda p: p.write_text("a,b"), "text.parquet: not a parquet file (3 bytes); deliver it again"),
    "empty.parquet": (lambda p: p.write_bytes(b""), "empty.parquet: not a parquet file"),
    "column.parquet": (
        lambda p: pq.write_table(pq.read_table(p).drop_columns("cliente_id"), p),
        "column.parquet: required columns are missing",
    ),
    "half.parquet": (
        lambda p: pq.write_table(
            pq.read_table(p).set_column(0, "cliente_id", pa.array(["?"] * (ROWS - 9) + ["C000001"] * 9)), p
        ),
        f"half.parquet: {ROWS - 9} of {ROWS} rows break the contract, more than the limit of 50%",
    ),
}


def test_bad_drops_go_to_quarantine_with_their_reasons_and_the_others_are_scored(scoring: Apex, put_drop: Drop) -> None:
    for seed, (name, (spoil, _)) in enumerate(BAD.items(), 10):
        spoil(put_drop(name, seed=seed))
    put_drop("good.parquet")
    with pytest.raises(DataError, match=r"5 of 6 drops are bad and were moved to .*quarantine") as raised:
        run(scoring, *BAD, "good.parquet")
    for name, (_, words) in BAD.items():
        assert words in str(raised.value) and f"{name}: {name}" not in str(raised.value)
        reason = json.loads((scoring.inbox.parent / "quarantine" / f"{name}.reason.json").read_text())
        assert words in reason["reason"] and reason["drop"] == name
        if name == "half.parquet":
            query = reason["reason"].split('`apex sql -c "')[1].split('"`')[0]
            assert len(scoring.sql(query)) == ROWS - 9
    assert counts(scoring) == (6, 1, ROWS)
    assert scoring.sql("SELECT state, count(*)::int FROM orders.drops GROUP BY 1 ORDER BY 1") == [
        ("done", 1),
        ("failed", 5),
    ]
    assert places(scoring)["inbox"] == [] and places(scoring)["done"] == ["good.parquet"]
    assert scoring.leftovers() == []
    # a drop that was read and refused has counts; an unreadable one has none
    summary = "SELECT rows_in, rows_scored, rows_quarantined, success_rate FROM orders.drop_summary WHERE name = %s"
    assert scoring.sql(summary, ("half.parquet",)) == [(ROWS, 0, ROWS - 9, 0.0)]
    assert {scoring.sql(summary, (name,))[0] for name in BAD if name != "half.parquet"} == {(None,) * 4}


def test_the_bad_rows_of_a_refused_drop_are_shown_until_it_is_repaired(
    scoring: Apex, put_drop: Drop, contract: Contract
) -> None:
    path = put_drop("bad.parquet")
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "cliente_id", pa.array(["?"] * ROWS)), path)
    content = path.read_bytes()
    rows = "SELECT count(*), min(rule), min(value) FROM orders.quarantine WHERE source_name = 'bad.parquet'"
    for most, deliveries in ((10_000, 1), (7, 2)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{ROWS} of {ROWS} rows break the contract"):
            run(scoring.but(quarantine_rows_in_sql=most), "bad.parquet")
        ((result, rule, value),) = scoring.sql(rows)
        assert (result, value) == (min(most, ROWS), "?") and "pattern" in rule
        (summary,) = scoring.sql(
            "SELECT state, rows_in, rows_scored, rows_quarantined, deliveries FROM orders.drop_summary"
        )
        assert summary == ("failed", ROWS, 0, ROWS, deliveries)
    # the same content is scored once the contract takes it: nothing is left of the refusal
    path.write_bytes(content)
    column = contract.columns["cliente_id"].model_copy(update={"checks": ()})
    taken = contract.model_copy(update={"columns": contract.columns | {"cliente_id": column}})
    context = scoring.context("taken")
    context = replace(context, pipeline=replace(context.pipeline, contract=taken))
    assert score(context, ["bad.parquet"]).to_json()["scored"] == 1
    assert scoring.sql(rows) == [(0, None, None)]
    assert scoring.sql("SELECT state, rows_in, rows_scored, rows_quarantined FROM orders.drop_summary") == [
        ("done", ROWS, ROWS, 0)
    ]
    assert scoring.sql("SELECT rows_quarantined FROM orders.drops") == [(None,)]


def test_a_bad_drop_sets_the_exit_code(scoring: Apex, put_drop: Drop) -> None:
    cut(put_drop())
    done = scoring.call("score", "--drops", '["a.parquet"]')
    assert done.code == 10 and "DataError" in done.err and "a.parquet: a truncated parquet file" in done.err
    assert "Traceback" not in done.err


def test_quarantined_rows_of_a_drop_are_stored_with_their_positions(scoring: Apex, put_drop: Drop) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        clients = table["cliente_id"].to_pylist()
        clients[3] = clients[7] = "nobody"
        return table.set_column(0, "cliente_id", pa.array(clients))

    put_drop(changed=spoil)
    result = run(scoring)
    assert result["rows_scored"] == ROWS - 2
    assert scoring.sql("SELECT row_nr, column_name, value FROM orders.quarantine ORDER BY 1") == [
        (3, "cliente_id", "nobody"),
        (7, "cliente_id", "nobody"),
    ]
    assert {3, 7}.isdisjoint(r[1] for r in scored_rows(scoring))


def test_unknown_values_do_not_block_scoring(scoring: Apex, put_drop: Drop) -> None:
    def unknown(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index("pais_cd")
        table = table.set_column(place, "pais_cd", pa.array(["AR"] * 5 + table["pais_cd"].to_pylist()[5:]))
        clients = pa.array(["C999999"] * 2 + table["cliente_id"].to_pylist()[2:])
        table = table.set_column(0, "cliente_id", clients)
        return table.append_column(
            "canal_pedido_cd", pa.array(["WHATSAPP", "DIGITAL", None] + ["VENDEDOR"] * (ROWS - 3))
        )

    put_drop(changed=unknown)
    result = run(scoring)
    assert result["rows_scored"] == ROWS
    warnings = result["drops"][0]["warnings"]
    assert {k.split(":")[0]: n for k, n in warnings.items()} == {"pais_cd": 5, "canal_pedido_cd": 1}
    assert scoring.sql("SELECT observed, count(*)::int FROM orders.outcomes GROUP BY 1 ORDER BY 1") == [
        ("DIGITAL", 1),
        ("VENDEDOR", ROWS - 3),
    ]


def test_the_observed_channel_is_not_used_to_score(scoring: Apex, put_drop: Drop) -> None:
    put_drop("plain.parquet")
    put_drop("labelled.parquet", changed=lambda t: t.append_column("canal_pedido_cd", pa.array(["TELEFONO"] * ROWS)))
    run(scoring, "plain.parquet", "labelled.parquet")
    result = scored_rows(scoring)
    half = len(result) // 2
    assert [r[1:9] for r in result[:half]] == [r[1:9] for r in result[half:]]


def test_an_order_before_the_snapshot_uses_only_earlier_orders(
    chain: Any, scoring: Apex, put_drop: Drop, contract: Contract
) -> None:
    """The examples of the test part, delivered as a drop, get the probabilities that training's own features give."""
    folder = chain.apex.processed / "first"
    test = pq.read_table(folder / "split" / "test.parquet")
    names = contract.named("entity", "timestamp", "attribute")
    identifiers = [n for n in names if n not in test.column_names]
    drop = test.select([n for n in names if n in test.column_names])
    for name in identifiers:
        drop = drop.append_column(name, pa.nulls(drop.num_rows, pa.string()))
    pq.write_table(drop, scoring.inbox / "a.parquet")
    run(scoring)
    model = Model.from_files({p.name: p.read_bytes() for p in (folder / "train" / "bundle").iterdir()})
    result = scored_rows(scoring)
    stored = np.array([r[5:8] for r in result], np.float32)
    assert np.array_equal(stored, model.probabilities(test))
    assert [r[3] for r in result] == test[contract.timestamp].to_pylist()


@pytest.mark.parametrize("features", ["history_", "history_trend_", "tipo_cliente_cd", ""])
def test_scoring_gives_a_model_the_features_of_its_training(
    chain: Any, scoring: Apex, contract: Contract, tmp_path: Path, features: str
) -> None:
    """Half of the drop is dated before the snapshot; the snapshot's half is checked by the clients' next day."""
    columns = tuple(c for c in feature_columns(contract) if c.name.startswith(features))
    scorer = load_scorer(scoring.context("scoring"))
    scorer = replace(scorer, model=replace(scorer.model, encoder=Encoder(columns)))
    examples = pq.read_table(chain.apex.processed / "first" / "elt" / "examples.parquet").slice(0, 300)
    names = contract.named("entity", "timestamp", "attribute")
    early = examples.select([n for n in names if n in examples.column_names])
    for name in set(names) - set(early.column_names):
        early = early.append_column(name, pa.nulls(len(early), pa.string()))
    day = pa.array([scorer.as_of] * 100, early.schema.field(contract.timestamp).type)
    place = early.schema.get_field_index(contract.timestamp)
    late = early.slice(0, 100).set_column(place, contract.timestamp, day)
    drop = pa.concat_tables([early, late]).append_column(ROW_NR, pa.array(range(400)))
    pq.write_table(drop, tmp_path / "drop.parquet")
    with engine.connect(scoring.settings) as con:
        query = features_query(con, scorer, f"SELECT * FROM '{tmp_path}/drop.parquet'", "drop")
        requested = con.sql(f"SELECT * FROM ({query}) ORDER BY {ROW_NR}").to_arrow_table()
        snapshot = con.sql(f"SELECT * FROM '{scorer.snapshot}'").to_arrow_table()
    prediction = finish(contract, requested, scorer.model.encoder.names)
    assert prediction.column_names == [c.name for c in columns]
    for name in prediction.column_names:
        assert prediction[name].slice(0, 300).to_pylist() == examples[name].to_pylist(), name
    states = pa.table({contract.entity: late[contract.entity]}).append_column("nr", pa.array(range(100)))
    states = states.join(snapshot, contract.entity).sort_by("nr").drop_columns([contract.entity])
    joined = pa.table({n: late[n] for n in names} | {n: states[n] for n in states.column_names})
    assert prediction.slice(300).to_pylist() == finish(contract, joined, scorer.model.encoder.names).to_pylist()


def test_orders_of_one_drop_do_not_feed_each_other(scoring: Apex, put_drop: Drop) -> None:
    put_drop(rows=200)
    run(scoring)
    alone = {r[2]: r[4:9] for r in scored_rows(scoring)}

    def doubled(table: pa.Table) -> pa.Table:
        return pa.concat_tables([table, table.slice(0, 50).append_column("note", pa.array(["x"] * 50)).drop("note")])

    put_drop("b.parquet", rows=200, changed=doubled)
    run(scoring, "b.parquet")
    second = scoring.sql(
        "SELECT cliente_id, predicted, p_digital, p_telefono, p_vendedor, confidence FROM orders.scored"
        " JOIN orders.scoring_runs USING (run_id) JOIN orders.drops USING (drop_id) WHERE name = 'b.parquet'"
    )
    assert len(second) == 250 and all(tuple(r[1:]) == tuple(alone[r[0]]) for r in second)


def test_an_empty_drop_is_a_drop(scoring: Apex, put_drop: Drop) -> None:
    put_drop(changed=lambda t: t.slice(0, 0))
    result = run(scoring)
    assert (result["scored"], result["rows_scored"]) == (1, 0)
    assert scoring.sql("SELECT rows_in, success_rate, confidence_mean, row_us_p99 FROM orders.drop_summary") == [
        (0, 1.0, None, None)
    ]


def test_without_a_champion_a_drop_waits_and_is_scored_when_there_is_one(
    nights: Any, raw: Path, contract: Contract
) -> None:
    apex: Apex = nights.apex
    path = apex.inbox / "early.parquet"
    make_drop(str(raw), date(2024, 8, 24), 50, 1, path, contract)
    listed = list_drops(apex.context("scoring")).to_json()
    assert listed["chunks"] == [] and "no champion yet: 1 drop waits for one" in listed["skip"]
    with pytest.raises(TransientError, match="there is no champion yet"):
        run(apex, "early.parquet")
    assert path.exists() and counts(apex) == (0, 0, 0)
    promote(apex.context("one"), who="test")
    listed = list_drops(apex.context("scoring")).to_json()
    assert listed["chunks"] == [{"label": "early.parquet", "drops": ["early.parquet"]}]
    assert run(apex, "early.parquet")["rows_scored"] == 50


def test_a_missing_drop_is_no_error(scoring: Apex) -> None:
    assert run(scoring, "never.parquet")["drops"] == [{"drop": "never.parquet", "state": "gone"}]


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, list[tuple[Any, ...]]]:
    """The rows of an undisturbed run, made by the first test that needs them."""
    return {}


@pytest.mark.parametrize("point", ["score_claimed", "score_written", "score_committed"])
def test_a_killed_scoring_is_finished_by_the_next(
    scoring: Apex, databases: Any, put_drop: Drop, undisturbed: dict[str, list[tuple[Any, ...]]], point: str
) -> None:
    if not undisturbed:
        other = scoring.but(**databases.migrated())
        put_drop()
        run(other)
        undisturbed["rows"] = scored_rows(other)
    put_drop()
    killed = scoring.call("score", "--drops", '["a.parquet"]', APEX_FAULT=point)
    assert killed.code == -signal.SIGKILL
    committed = point == "score_committed"
    assert counts(scoring) == ((1, 1, ROWS) if committed else (0, 0, 0))
    assert "a.parquet" in places(scoring)["inbox"]
    second = run(scoring)
    assert (second["scored"], second["already"]) == ((0, 1) if committed else (1, 0))
    assert scored_rows(scoring) == undisturbed["rows"]
    assert counts(scoring) == (1, 1, ROWS)
    assert places(scoring)["inbox"] == []
    if not committed:  # the next working process removes the leftovers of the killed one
        assert scoring.leftovers() == []


def test_two_processes_with_the_same_drop_score_it_once(scoring: Apex, put_drop: Drop) -> None:
    put_drop()
    command = [*COMMAND, "score", "--drops", '["a.parquet"]']
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, env=scoring.environment(), cwd=CODE_ROOT, **pipes) for _ in range(2)]
    for worker in workers:
        _, err = worker.communicate(timeout=60)
        assert worker.returncode == 0, err
    assert counts(scoring) == (1, 1, ROWS)
    assert places(scoring) == {"inbox": [], "done": ["a.parquet"], "quarantine": []}


def test_stopped_services_are_reported_and_the_next_run_recovers(scoring: Apex, put_drop: Drop) -> None:
    put_drop()
    (port,) = free_ports(1)
    stopped = [
        (
            f"postgresql://apex_writer:x@127.0.0.1:{port}/apex",
            "APEX_DATABASE_URL",
            f"Postgres at 127.0.0.1:{port}/apex",
        ),
        (f"http://127.0.0.1:{port}", "APEX_MLFLOW_TRACKING_URI", f"MLflow at http://127.0.0.1:{port}"),
    ]
    for url, setting, message in stopped:
        done = scoring.call("score", **{setting: url})
        assert done.code == 20, done.err
        assert "TransientError" in done.err and message in done.err and setting in done.err
        assert "Traceback" not in done.err
        assert counts(scoring) == (0, 0, 0) and places(scoring)["inbox"] == ["a.parquet"]
    assert scoring.leftovers() == []
    assert run(scoring)["rows_scored"] == ROWS


def test_a_postgres_outage_leaves_nothing_and_the_next_run_recovers(scoring: Apex, put_drop: Drop) -> None:
    put_drop()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run(scoring)
        except BaseException as error:
            failures.append(error)

    with contextlib.closing(psycopg2.connect(scoring.settings.writer_url)) as blocker, blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE orders.scoring_runs IN SHARE MODE")
        worker = threading.Thread(target=work)
        worker.start()
        deadline = time.monotonic() + 30
        waiting: list[tuple[Any, ...]] = []
        while not waiting and time.monotonic() < deadline and worker.is_alive():
            time.sleep(0.05)
            waiting = scoring.sql(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        for (pid,) in waiting:
            scoring.sql("SELECT pg_terminate_backend(%s)", (pid,))
        worker.join(30)
    assert len(failures) == 1 and isinstance(failures[0], TransientError), failures
    assert "nothing was written" in str(failures[0])
    assert counts(scoring) == (0, 0, 0) and scoring.leftovers() == []
    assert run(scoring)["rows_scored"] == ROWS


def test_the_reader_sees_the_scored_orders_and_changes_none(scoring: Apex, put_drop: Drop) -> None:
    put_drop()
    run(scoring)
    with contextlib.closing(psycopg2.connect(scoring.settings.reader_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM orders.scored_current")
            assert cursor.fetchall() == [(ROWS,)]
            cursor.execute("SET default_transaction_read_only = off")
            for statement in ("DELETE FROM orders.scored", "UPDATE orders.drops SET name = 'x'"):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    cursor.execute(statement)


def test_a_drop_without_rows_or_with_dates_far_ahead_carries_a_warning(
    scoring: Apex, put_drop: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    put_drop("empty.parquet", changed=lambda table: table.slice(0, 0))
    put_drop("far.parquet", seed=2, day=date(2025, 6, 20))
    put_drop("near.parquet", seed=3)
    result = run(scoring, "empty.parquet", "far.parquet", "near.parquet")
    assert result["scored"] == 3
    rows = dict(scoring.sql("SELECT name, input_warning FROM orders.drop_summary"))  # type: ignore[arg-type]
    assert rows["near.parquet"] is None
    assert rows["empty.parquet"].startswith("the file has no rows: nothing was scored")
    assert rows["far.parquet"].startswith(
        f"{ROWS} of {ROWS} rows are dated more than 60 days after the history that they were scored with"
    )
    assert "(newest date: 2025-06-20)" in rows["far.parquet"] and "apex -p orders retrain" in rows["far.parquet"]
    assert {row["drop"]: row.get("warning") for row in result["drops"]} == rows
    assert all(f"drop_odd name={name}" in caplog.text for name in ("empty.parquet", "far.parquet"))
    assert scoring.sql("SELECT count(*) FROM orders.open_alerts") == [(0,)]
