"""What is scored is watched: drift against its reference, quality against the promise, alerts once, a retraining."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import SecretStr

from apex_ml.adapters.postgres.alerts import PostgresAlerts, raise_alert
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.services.drift_monitoring import CONFIDENCE, PREDICTION, QUARANTINE
from apex_ml.steps.alerts import close_alert
from apex_ml.steps.monitor import monitor
from apex_ml.steps.score import rescore, score
from tests.support.apex_home import Apex
from tests.support.home_with_champion import copy_champion_record
from tests.support.mail_server import Mailbox, mail_server
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import free_ports

Put = Callable[..., Path]


@pytest.fixture
def watched(scoring: Apex, chain: Any) -> Apex:
    """A home whose database knows the champion."""
    copy_champion_record(scoring, chain)
    return scoring.but(drift_min_rows=100, quality_min_rows=100)


def look(apex: Apex) -> dict[str, Any]:
    return monitor(apex.context("look")).to_json()


def look_without_patience(apex: Apex) -> dict[str, Any]:
    """Look with a deadline of no minutes, which no file of a pipeline can ask for."""
    context = apex.context("look")
    options = context.pipeline.options
    scoring = options.scoring.model_copy(update={"deadline_minutes": 0})
    pipeline = replace(context.pipeline, options=options.model_copy(update={"scoring": scoring}))
    return monitor(replace(context, pipeline=pipeline)).to_json()


def scored(apex: Apex, *names: str) -> None:
    assert score(apex.context("s"), list(names)).to_json()["scored"] == len(names)


def drifted(apex: Apex) -> list[tuple[str, str]]:
    return apex.sql("SELECT DISTINCT scope, feature FROM orders.drift WHERE drifted ORDER BY 1, 2")


def open_alerts(apex: Apex) -> list[tuple[str, str]]:
    return apex.sql("SELECT kind, subject FROM orders.open_alerts ORDER BY alert_id")


def test_a_healthy_drop_raises_no_alert_and_is_checked_once(watched: Apex, put_drop: Put, contract: Contract) -> None:
    put_drop("a.parquet")
    scored(watched, "a.parquet")
    result = look(watched)
    assert (result["runs_tested"], result["days_tested"], result["raw_weeks_tested"]) == (1, 1, 1)
    assert drifted(watched) == [] and open_alerts(watched) == [] and result["retrain"] == []
    evaluated = dict(watched.sql("SELECT feature, reference FROM orders.drift WHERE scope = 'drop'"))
    for name in contract.features.attributes:
        assert evaluated[name] == "the champion's training examples"
    assert {PREDICTION, CONFIDENCE, QUARANTINE} <= set(evaluated)
    raw = {name for (name,) in watched.sql("SELECT feature FROM orders.drift WHERE scope = 'raw'")}
    assert raw == {contract.target, *contract.named("measure")}
    second = look(watched)
    assert (second["runs_tested"], second["days_tested"], second["raw_weeks_tested"]) == (0, 0, 0)


def test_an_attribute_of_nulls_is_the_strongest_drift_until_it_returns(
    watched: Apex, put_drop: Put, contract: Contract
) -> None:
    name = contract.features.attributes[0]

    def without(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.nulls(table.num_rows, table.schema.field(name).type))

    put_drop("bad.parquet", changed=without)
    scored(watched, "bad.parquet")
    assert look(watched)["alerts_raised"] == [name]
    strongest = watched.sql(
        "SELECT feature FROM orders.drift WHERE scope = 'drop' ORDER BY psi DESC NULLS LAST LIMIT 1"
    )
    assert strongest == [(name,)]
    others = {f for _, f in drifted(watched)} - {name, PREDICTION, CONFIDENCE}
    assert not others
    assert ("drift", name) in open_alerts(watched)
    assert look(watched)["alerts_raised"] == []  # reported once

    # the day is the sum of its drops: let the next one come on another
    watched.sql("UPDATE orders.scoring_runs SET finished_at = finished_at - interval '1 day'")
    put_drop("good.parquet", seed=2, rows=600)
    scored(watched, "good.parquet")
    assert name in look(watched)["alerts_resolved"]
    assert open_alerts(watched) == [("unknown_values", "bad.parquet")]  # until that drop is delivered or scored again


def test_a_larger_level_is_detected_and_reported_with_its_metrics(
    watched: Apex, put_drop: Put, contract: Contract
) -> None:
    name = contract.features.attributes[-1]

    def shifted(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        values[: len(values) // 3] = [values[0]] * (len(values) // 3)
        return table.set_column(table.schema.get_field_index(name), name, pa.array(values))

    put_drop("a.parquet", changed=shifted)
    scored(watched, "a.parquet")
    look(watched)
    assert {f for _, f in drifted(watched)} == {name}
    ((message,),) = watched.sql("SELECT message FROM orders.open_alerts")
    assert message.startswith("scoring of ") and f"drop a.parquet: {name} drifted: PSI 0." in message


def test_small_drops_are_evaluated_by_day(watched: Apex, put_drop: Put, contract: Contract) -> None:
    apex = watched.but(drift_min_rows=300)
    names = [f"{n}.parquet" for n in range(4)]
    for seed, name in enumerate(names):
        put_drop(name, seed=seed, rows=100)
    scored(apex, *names[:2])
    assert look(apex)["days_tested"] == 1
    assert set(apex.sql("SELECT note FROM orders.drift WHERE scope = 'day' AND kind = 'attribute'")) == {
        ("fewer than 300 rows to compare",)
    }
    scored(apex, *names[2:])
    assert (look(apex)["runs_tested"], look(apex)["days_tested"]) == (0, 0)
    evaluated = apex.sql(
        "SELECT rows, q_value IS NOT NULL FROM orders.drift WHERE scope = 'day' AND kind = 'attribute'"
    )
    assert set(evaluated) == {(400, True)}


def outcomes(apex: Apex, contract: Contract, *, right: bool) -> None:
    """Give every score an outcome: drawn by its probabilities, or the class that it holds for the least probable."""
    p = ", ".join(f"p_{level.lower()}" for level in contract.classes)
    rows = apex.sql(f"SELECT run_id, row_nr, {p} FROM orders.scored ORDER BY 1, 2")
    random = np.random.default_rng(5)
    chances = np.array([row[2:] for row in rows], dtype=float)
    chances /= chances.sum(axis=1, keepdims=True)
    drawn = (random.random((len(rows), 1)) > chances.cumsum(axis=1)[:, :-1]).sum(axis=1)
    came = drawn if right else chances.argmin(axis=1)
    apex.sql(
        "INSERT INTO orders.outcomes SELECT *, 'raw' FROM unnest(%s::bigint[], %s::bigint[], %s::text[])"
        " ON CONFLICT DO NOTHING",
        ([row[0] for row in rows], [row[1] for row in rows], [contract.classes[k] for k in came]),
    )


def test_scores_that_hold_are_no_degradation(watched: Apex, put_drop: Put, contract: Contract) -> None:
    put_drop("a.parquet")
    scored(watched, "a.parquet")
    outcomes(watched, contract, right=True)
    assert look(watched)["weeks_evaluated"] == 1
    ((orders, known, low, loss, high, expected, worse, classes),) = watched.sql(
        "SELECT scored, outcomes, log_loss_low, log_loss, log_loss_high, expected_log_loss, worse, classes"
        " FROM orders.model_quality_weekly"
    )
    assert (orders, known, worse) == (500, 500, False)
    assert low < loss < high and expected is not None
    assert sum(figures["rows"] for figures in classes.values()) == 500
    assert look(watched)["weeks_evaluated"] == 0  # nothing came since


def test_two_worse_weeks_of_three_trigger_one_retraining(watched: Apex, put_drop: Put, contract: Contract) -> None:
    for week, day in enumerate((date(2024, 8, 26), date(2024, 9, 2))):
        put_drop(f"{week}.parquet", seed=week, day=day)
        scored(watched, f"{week}.parquet")
        outcomes(watched, contract, right=False)
        result = look(watched)
        assert bool(result["retrain"]) == (week == 1), result
    ((alert_id, message),) = watched.sql("SELECT alert_id, message FROM orders.open_alerts WHERE kind = 'quality'")
    requested = {"trigger_run_id": f"degraded__alert_{alert_id}", "note": message}
    assert result["retrain"] == [requested] and "at promotion" in message and "class prior" in message
    assert look(watched)["retrain"] == [requested]  # the same name: it is triggered once


def test_many_slightly_worse_weeks_raise_an_alert_with_their_start(
    watched: Apex, put_drop: Put, contract: Contract
) -> None:
    put_drop("a.parquet", day=date(2024, 9, 2))
    scored(watched, "a.parquet")
    outcomes(watched, contract, right=True)
    assert look(watched)["retrain"] == []
    # twelve weeks before it, each a little worse than expected and none of them worse by the weekly rule
    watched.sql(
        "INSERT INTO orders.model_quality (model_name, model_version, week, scored, outcomes, log_loss, log_loss_error,"
        " expected_log_loss, worse, verdict) SELECT model_name, model_version, week - 7 * n, 500, 500,"
        " expected_log_loss + 0.2, 0.02, expected_log_loss, false, 'slightly worse'"
        " FROM orders.model_quality, generate_series(1, 12) AS n"
    )
    watched.sql(
        "UPDATE orders.model_quality SET outcomes = outcomes - 1 WHERE verdict <> 'slightly worse'"
    )  # more came
    result = look(watched)
    ((message,),) = watched.sql("SELECT message FROM orders.open_alerts WHERE kind = 'quality'")
    since = watched.sql("SELECT min(week)::text FROM orders.model_quality")[0][0]
    assert f"has been worse than at promotion for 13 weeks, since the week of {since}" in message
    assert result["retrain"][0]["note"] == message
    assert watched.sql("SELECT bool_or(worse), bool_or(sustained) FROM orders.model_quality_weekly") == [(False, True)]


def test_the_compared_intervals_are_stored_with_the_verdict(watched: Apex, put_drop: Put, contract: Contract) -> None:
    put_drop("a.parquet")
    scored(watched, "a.parquet")
    outcomes(watched, contract, right=False)
    look(watched)
    ((verdict, low, limit, band, expected, error),) = watched.sql(
        "SELECT verdict, compared_low, upper_limit, expected_high, expected_log_loss, expected_error"
        " FROM orders.model_quality_weekly"
    )
    assert verdict == "worse" and low > limit
    assert (
        limit == pytest.approx(band + load_pipeline(watched.settings).options.monitoring.quality_margin)
        and band > expected
        and error > 0
    )


def test_scores_of_another_version_are_no_drift_of_the_champion(
    watched: Apex, put_drop: Put, contract: Contract
) -> None:
    name = contract.features.attributes[0]
    put_drop(changed=lambda t: t.set_column(t.schema.get_field_index(name), name, pa.nulls(t.num_rows, pa.string())))
    scored(watched, "a.parquet")
    assert name in look(watched)["alerts_raised"]
    watched.sql("UPDATE orders.drift SET model_version = model_version + 1")  # as if the champion had been another
    assert name in look(watched)["alerts_resolved"]


def test_a_model_keeps_the_attributes_of_the_newest_orders(chain: Any, contract: Contract) -> None:
    ((profile,),) = chain.apex.sql("SELECT about->'profile' FROM orders.model_versions")
    assert set(profile["recent"]) == set(contract.features.attributes)
    validated = chain.results["validate"]
    (orders,) = {sum(counts) for counts in profile["recent"].values()}
    assert 0 < orders < validated["accepted"]
    for name, counts in profile["recent"].items():
        assert len(counts) == len(profile["features"][name])


@contextmanager
def receiver(answers: list[int]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook that answers with these codes in order; yields its URL and the received messages."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/secret", got
    finally:
        server.shutdown()
        server.server_close()


def test_an_alert_is_sent_until_it_is_accepted(watched: Apex, caplog: pytest.LogCaptureFixture) -> None:
    watched.sql("INSERT INTO orders.alerts (kind, subject, message) VALUES ('bad_drop', '<b>a</b>', 'why')")
    assert look(watched)["sent"] == []  # nowhere to send it
    with receiver([500, 200]) as (url, got):
        apex = watched.but(alert_webhook_url=SecretStr(url))
        assert look(apex)["sent"] == [] and "answers 500" in caplog.text and "secret" not in caplog.text
        assert look(apex)["sent"] == ["webhook"] and look(apex)["sent"] == []
    assert len(got) == 2 and got[0] == got[1]
    ((alert,),) = (got[0]["alerts"],)
    assert (alert["kind"], alert["subject"], alert["message"]) == ("bad_drop", "<b>a</b>", "why")
    assert got[0]["text"] == "orders · bad_drop · <b>a</b>: why" and alert["pipeline"] == "orders"


def test_a_pipeline_has_receivers_of_its_own(watched: Apex) -> None:
    watched.sql("INSERT INTO orders.alerts (kind, subject, message) VALUES ('bad_drop', 'a', 'why')")
    mailbox = Mailbox()
    with mail_server(mailbox) as server:
        mail = {"alert_mail_to": "all@example.org", "alert_smtp_url": SecretStr(f"smtp://127.0.0.1:{server.port}")}
        assert look(watched.but(**mail, alerts__mail_to="ann@example.org"))["sent"] == ["mail"]
    assert [envelope.rcpt_tos for envelope in mailbox.envelopes] == [["ann@example.org"]]


def test_each_channel_gets_an_alert_once_independent_of_the_other(
    watched: Apex, caplog: pytest.LogCaptureFixture
) -> None:
    """A mail server that fails is tried again alone: the webhook that accepted the alert is not called again."""
    watched.sql("INSERT INTO orders.alerts (kind, subject, message) VALUES ('bad_drop', 'a', 'why')")
    sent = "SELECT sent_at IS NOT NULL FROM orders.alerts ORDER BY alert_id"
    mailbox = Mailbox()
    (closed,) = free_ports(1)
    with receiver([200] * 9) as (url, got), mail_server(mailbox) as server:
        both = {"alert_webhook_url": SecretStr(url), "alert_mail_to": "ops@example.org"}
        no_mail = watched.but(**both, alert_smtp_url=SecretStr(f"smtp://127.0.0.1:{closed}"))
        assert look(no_mail)["sent"] == ["webhook"] and "alerts_not_sent channel=mail" in caplog.text
        assert look(no_mail)["sent"] == [] and len(got) == 1 and watched.sql(sent) == [(False,)]
        watched.sql("INSERT INTO orders.alerts (kind, subject, message) VALUES ('bad_drop', 'b', 'why')")
        wrong = watched.but(**both, alert_smtp_url=SecretStr("mail.example.org"))
        assert look(wrong)["sent"] == ["webhook"] and [len(g["alerts"]) for g in got] == [1, 1]
        mended = watched.but(**both, alert_smtp_url=SecretStr(f"smtp://127.0.0.1:{server.port}"))
        assert look(mended)["sent"] == ["mail"] and watched.sql(sent) == [(True,), (True,)]
        assert look(mended)["sent"] == [] and len(got) == 2
    (envelope,) = mailbox.envelopes
    assert b"bad_drop" in envelope.content


def test_a_refused_message_blocks_no_other(watched: Apex) -> None:
    watched.sql(
        "INSERT INTO orders.alerts (kind, subject, message) SELECT 'bad_drop', n::text, 'why'"
        " FROM generate_series(1, 50) AS n"
    )
    with receiver([413, 200, 200, 413, 200] + [503] * 9) as (url, got):
        apex = watched.but(alert_webhook_url=SecretStr(url))
        sizes = [(look(apex)["sent"], [len(g["alerts"]) for g in got]) for _ in range(3)]
        assert sizes == [
            (["webhook"], [20, 20, 10]),
            ([], [20, 20, 10, 20]),
            (["webhook"], [20, 20, 10, 20, 20]),
        ]
        watched.sql("DELETE FROM orders.alert_deliveries")
        assert look(apex)["sent"] == [] and len(got) == 7  # away: it is not asked for each message


def test_an_open_alert_has_the_latest_metrics_and_its_own_age(watched: Apex) -> None:
    def renewed() -> list[Any]:
        observed = "last_seen_at > now() - interval '1 minute'"
        return watched.sql(f"SELECT message, raised_at < now() - interval '1 hour', {observed} FROM orders.open_alerts")

    def say(kind: str, message: str) -> tuple[list[str], list[str]]:
        with transaction(watched.settings, SCHEMA) as session:
            return PostgresAlerts(session).set_open(kind, {"estrellas_txt": message})

    assert say("drift", "version 1: PSI 0.3") == (["estrellas_txt"], [])
    watched.sql(
        "UPDATE orders.alerts SET raised_at = now() - interval '2 days', last_seen_at = now() - interval '2 days'"
    )
    assert renewed() == [("version 1: PSI 0.3", True, False)]
    assert say("drift", "version 2: PSI 0.5") == ([], [])
    assert renewed() == [("version 2: PSI 0.5", True, True)]
    ((number,),) = watched.sql("SELECT alert_id FROM orders.open_alerts")
    with pytest.raises(ConfigError, match="measures its cause, and would raise it again"):
        close_alert(watched.settings, SCHEMA, number, who="ann", reason="enough")


def test_an_unreadable_profile_blocks_no_other_check(watched: Apex, put_drop: Put, tmp_path: Path) -> None:
    put_drop("a.parquet")
    scored(watched, "a.parquet")
    broken = tmp_path / "processed"
    shutil.copytree(watched.processed / "first" / "validate", broken / "first" / "validate")
    for file in (broken / "first" / "validate" / "accepted").rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:100])
    no_folder = tmp_path / "drops" / "inbox"
    no_folder.parent.mkdir()
    no_folder.symlink_to(no_folder)
    result = look(watched.but(processed_url=str(broken), drops_url=str(no_folder.parent)))
    assert (result["runs_tested"], result["days_tested"], result["raw_weeks_tested"]) == (1, 1, 0)
    assert result["alerts_raised"] == ["raw rows"] and open_alerts(watched) == [("unseen", "raw rows")]
    mended = look(watched)
    assert mended["alerts_resolved"] == ["raw rows"] and mended["raw_weeks_tested"] == 1


def test_late_alerts_are_resolved_when_the_drop_or_run_ends(watched: Apex, put_drop: Put) -> None:
    path = put_drop("slow.parquet")
    os.utime(path, (time.time() - 2 * 3600,) * 2)  # written long ago, and here for a moment
    assert look(watched)["alerts_raised"] == []
    raise_alert(watched.settings, SCHEMA, "score_late", "orders_score", "a run has not ended")
    raise_alert(watched.settings, SCHEMA, "score_late", "orders_score", "it still has not")
    assert look_without_patience(watched)["alerts_raised"] == ["slow.parquet"]
    assert open_alerts(watched) == [("score_late", "orders_score"), ("drop_late", "slow.parquet")]
    scored(watched, "slow.parquet")
    look_without_patience(watched)
    assert open_alerts(watched) == []


def test_the_drift_of_a_day_counts_each_delivered_row_once(watched: Apex, put_drop: Put, contract: Contract) -> None:
    name = contract.features.attributes[0]

    def without(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.nulls(table.num_rows, table.schema.field(name).type))

    def of_day() -> list[tuple[int, bool]]:
        return watched.sql(
            "SELECT rows, drifted FROM orders.drift_history WHERE scope = 'day' AND feature = %s ORDER BY day", (name,)
        )

    put_drop("a.parquet", changed=without, rows=500)
    scored(watched, "a.parquet")
    look(watched)
    assert of_day() == [(500, True)] and ("drift", name) in open_alerts(watched)
    # corrected by as many rows: the day holds these alone, and what drifted is over
    put_drop("a.parquet", seed=2, rows=500)
    scored(watched, "a.parquet")
    assert (look(watched)["days_tested"], of_day()) == (1, [(500, False)])
    assert not [kind for kind, _ in open_alerts(watched) if kind == "drift"]
    # scored again: the same rows, checked again and counted once
    rescore(watched.context("again"), "a.parquet")
    assert (look(watched)["days_tested"], of_day()) == (1, [(500, False)])
    assert look(watched)["days_tested"] == 0
    # corrected on another day: of the first day nothing is left
    watched.sql("UPDATE orders.scoring_runs SET finished_at = finished_at - interval '1 day'")
    watched.sql("UPDATE orders.drift SET day = day - 1, subject = replace(subject, day::text, (day - 1)::text)")
    put_drop("a.parquet", seed=3, rows=400)
    scored(watched, "a.parquet")
    look(watched)
    assert of_day() == [(400, False)]


def test_a_superseded_drop_is_no_current_drift(watched: Apex, put_drop: Put, contract: Contract) -> None:
    name = contract.features.attributes[0]

    def without(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.nulls(table.num_rows, table.schema.field(name).type))

    put_drop("a.parquet", changed=without, rows=500)
    scored(watched, "a.parquet")
    assert look(watched)["alerts_raised"] == [name]
    put_drop("a.parquet", seed=2, rows=20)  # too few to be looked at on their own
    scored(watched, "a.parquet")
    assert look(watched)["alerts_resolved"] == [name]
