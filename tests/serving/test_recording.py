"""A sample of the answers is recorded beside the requests, and monitored as drops are."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg2
import pytest
from starlette.testclient import TestClient

from apex_ml.contract.model import Contract
from apex_ml.services.drift_monitoring import CONFIDENCE, PREDICTION
from apex_ml.sql.tables import probability_columns
from apex_ml.steps.monitor import monitor
from apex_ml.steps.prune import find_prunable, prune
from apex_ml.steps.score import score
from tests.support.apex_home import Apex
from tests.support.home_with_champion import copy_champion_record
from tests.support.ledger import ROWS
from tests.support.online_service import served
from tests.support.throwaway_home import free_ports


@pytest.fixture
def watched(scoring: Apex, chain: Any) -> Apex:
    """A home whose database knows the champion."""
    copy_champion_record(scoring, chain)
    return scoring.but(drift_min_rows=100)


def ask(client: TestClient, orders: list[dict[str, Any]], **headers: str) -> dict[str, Any]:
    answer = client.post("/predict", json={"rows": orders}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def figure(client: TestClient, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(
        float(line.split()[1]) for line in lines if line.startswith(f'apex_serving_{name}{{pipeline="orders"}} ')
    )


def wait_recorded(client: TestClient, rows: int) -> None:
    deadline = time.monotonic() + 30
    while figure(client, "recorded_total") < rows:
        assert time.monotonic() < deadline, client.get("/ready").text
        time.sleep(0.1)


def test_nothing_is_recorded_by_default(scoring: Apex, drop_orders: list[dict[str, Any]]) -> None:
    with served(scoring) as client:
        ask(client, drop_orders[:5])
    assert scoring.sql("SELECT count(*) FROM orders.online_rows") == [(0,)]


def test_answers_are_recorded_unchanged_and_the_reader_sees_them(
    scoring: Apex, drop_orders: list[dict[str, Any]], contract: Contract
) -> None:
    sent = [dict(order) for order in drop_orders[:20]]
    name = contract.features.attributes[0]
    sent[3][name], sent[4][contract.entity] = "with\0nul", "c999999999"
    with served(scoring, serving_record_share=1) as client:
        first = ask(client, sent[:15], **{"X-Request-ID": "one"})
        second = ask(client, sent[15:], **{"X-Request-ID": "two"})
        wait_recorded(client, 20)
        assert figure(client, "record_queue") == 0
    p = ", ".join(probability_columns(contract.classes).values())
    columns = f"request_id, place, {contract.entity}, {name}, known_entity, predicted, confidence, model_version, {p}"
    with closing(psycopg2.connect(scoring.settings.reader_url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT source, {columns} FROM orders.online_answers ORDER BY answer_id")
        rows = cursor.fetchall()
        cursor.execute("SELECT answers FROM orders.online_days")
        assert cursor.fetchall() == [(20,)]
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("SELECT * FROM orders.online_rows")
    message = first["predictions"] + second["predictions"]
    assert [r[:3] for r in rows] == [("online", "one", n) for n in range(15)] + [("online", "two", n) for n in range(5)]
    for order, row, answer in zip(sent, rows, message, strict=True):
        assert row[3] == order[contract.entity].upper()
        assert (row[5], row[6]) == (answer["known_entity"], answer["predicted"])
        assert row[8] == first["model"]["version"]
        assert [np.float32(v) for v in row[9:]] == [np.float32(answer["probabilities"][c]) for c in contract.classes]
    assert rows[3][4] == "WITHNUL"
    comments = scoring.sql(
        "SELECT obj_description(c.oid) FROM pg_class AS c WHERE relname IN ('online_answers', 'online_days')"
    )
    assert len(comments) == 2 and all(text.startswith("One row for each ") for (text,) in comments)


def test_old_answers_are_pruned_and_their_counts_stay(scoring: Apex, drop_orders: list[dict[str, Any]]) -> None:
    with served(scoring, serving_record_share=1) as client:
        ask(client, drop_orders[:10])
    scoring.sql("UPDATE orders.online_rows SET answered_at = answered_at - interval '100 days' WHERE place < 4")
    match = find_prunable(scoring.context("prune"), timedelta(days=90))
    assert match.answers == 4
    prune(scoring.context("prune"), replace(match, runs=[], partitions=[]))
    assert scoring.sql("SELECT count(*) FROM orders.online_rows") == [(6,)]
    assert scoring.sql("SELECT answers FROM orders.online_days") == [(10,)]


def test_the_recorded_share_is_the_configured_one(scoring: Apex, drop_orders: list[dict[str, Any]]) -> None:
    with served(scoring, serving_record_share=0.3) as client:
        for _ in range(2):
            ask(client, drop_orders)
    ((rows,),) = scoring.sql("SELECT count(*) FROM orders.online_rows")
    assert 0.2 * 2 * ROWS < rows < 0.4 * 2 * ROWS


def test_a_full_queue_drops_and_counts_and_slows_no_request(scoring: Apex, drop_orders: list[dict[str, Any]]) -> None:
    (port,) = free_ports(1)
    away = f"postgresql://apex_writer:x@127.0.0.1:{port}/apex"
    with served(scoring, serving_record_share=1, serving_record_queue=150, database_url=away) as client:
        begun = time.monotonic()
        for _ in range(5):
            ask(client, drop_orders[:100])
        assert time.monotonic() - begun < 5
        assert figure(client, "dropped_total") == 400 and figure(client, "record_queue") == 100
        deadline = time.monotonic() + 20
        while "recording: Postgres does not take the answers" not in client.get("/ready").json()["problems"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert client.get("/ready").status_code == 200


def test_drift_of_a_day_of_answers_is_measured_as_for_drops(
    watched: Apex, drop_orders: list[dict[str, Any]], contract: Contract
) -> None:
    with served(watched, serving_record_share=1) as client:
        ask(client, drop_orders[:300])
        ask(client, drop_orders[300:])
        wait_recorded(client, ROWS)
    assert score(watched.context("s"), ["a.parquet"]).to_json()["scored"] == 1
    ((online,),) = watched.sql("SELECT profile FROM orders.online_profiles")
    ((batch,),) = watched.sql("SELECT profile FROM orders.scoring_runs")
    assert online == batch  # the same orders count the same, whichever way they came
    result = monitor(watched.context("look")).to_json()
    assert (result["online_days_tested"], result["days_tested"]) == (1, 1)
    verdicts = dict(watched.sql("SELECT feature, drifted FROM orders.drift WHERE scope = 'online'"))
    assert {PREDICTION, CONFIDENCE, *contract.features.attributes} <= set(verdicts) and not any(verdicts.values())
    assert monitor(watched.context("look")).to_json()["online_days_tested"] == 0
    subjects = watched.sql("SELECT DISTINCT subject FROM orders.drift_latest WHERE scope = 'online'")
    assert len(subjects) == 1


def test_a_drift_of_online_orders_raises_an_alert_with_its_source(
    watched: Apex, drop_orders: list[dict[str, Any]], contract: Contract
) -> None:
    name = contract.features.attributes[-1]
    with served(watched, serving_record_share=1) as client:
        ask(client, [order | {name: None} for order in drop_orders])
        wait_recorded(client, ROWS)
    assert name in monitor(watched.context("look")).to_json()["alerts_raised"]
    ((message,),) = watched.sql("SELECT message FROM orders.open_alerts WHERE subject = %s", (name,))
    assert message.startswith("online answers of ")
    # the next day is healthy
    watched.sql("UPDATE orders.online_profiles SET day = day - 1")
    watched.sql(
        "UPDATE orders.drift SET day = day - 1, subject = (day - 1) || ' v' || model_version WHERE scope = 'online'"
    )
    with served(watched, serving_record_share=1) as client:
        ask(client, drop_orders)
        wait_recorded(client, ROWS)
    assert name in monitor(watched.context("look")).to_json()["alerts_resolved"]
