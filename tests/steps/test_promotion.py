"""Alias and ledger agree: ties are rejected, killed moves are finished, manual moves are adopted."""

from __future__ import annotations

import json
import signal
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.mlflow.registry import CHALLENGER, CHAMPION, Registry
from apex_ml.adapters.postgres.champions import NewDecision, champions
from apex_ml.contract.model import Contract
from apex_ml.core.recorded_evidence import RecordedEvidence
from apex_ml.errors import TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.services import champion_ledger
from apex_ml.steps.promote import promote
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import free_ports


def decide(nights: Any, run: str) -> dict[str, Any]:
    return promote(nights.apex.context(run), who="test").to_json()


def test_an_identical_second_model_is_rejected(nights: Any) -> None:
    first = decide(nights, "one")
    assert first["promoted"] and nights.champion() == nights.versions["one"]
    second = decide(nights, "two")
    assert not second["promoted"] and second["champion_version"] == nights.versions["one"]
    assert "+0.00000 nats" in second["reasons"][0] and "not above the margin" in second["reasons"][0]
    assert second["evidence"]["gain"] == 0
    assert nights.champion() == nights.versions["one"]
    assert nights.ledger() == [("promote", None, 1, "done"), ("reject", 1, 2, "done")]
    challenger = Registry(nights.apex.settings, load_pipeline(nights.apex.settings).model_name).by_alias(CHALLENGER)
    assert challenger is not None and challenger.version == nights.versions["two"]


def test_orders_of_a_single_client_are_a_rejection_in_the_ledger(nights: Any, contract: Contract) -> None:
    path = nights.apex.processed / "one" / "split" / "test.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(contract.entity)
    alone = pa.array(["C000001"] * table.num_rows)
    pq.write_table(table.set_column(place, contract.entity, alone), path)
    decision = decide(nights, "one")
    assert (
        not decision["promoted"]
        and "all of one entity, so that significance cannot be tested" in decision["reasons"][0]
    )
    assert nights.ledger() == [("reject", None, 1, "done")]


def test_a_number_that_is_not_finite_never_stops_the_ledger(nights: Any) -> None:
    evidence = RecordedEvidence({"low": float("-inf"), "n": 1})
    decision = NewDecision("reject", "done", "r", "w", ("x",), to_version=1, evidence=evidence)
    with champions(nights.apex.settings, SCHEMA, "m") as ledger:
        ledger.record(decision)
    assert nights.apex.sql("SELECT evidence FROM orders.promotions") == [({"low": None, "n": 1},)]


def test_the_report_of_a_decision_is_in_the_mlflow_run(nights: Any) -> None:
    decide(nights, "one")
    second = decide(nights, "two")
    registry = Registry(nights.apex.settings, load_pipeline(nights.apex.settings).model_name)
    version = registry.by_version(nights.versions["two"])
    assert version is not None
    base = f"{nights.apex.settings.tracking_uri}/get-artifact"
    result = {
        name: httpx.get(base, params={"run_id": version.run_id, "path": f"decision/{name}"})
        for name in ("report.html", "decision.json", "1_gains.png", "4_reliability.png")
    }
    assert {answer.status_code for answer in result.values()} == {200}
    page = result["report.html"].text
    assert f"Version {version.version} does not become champion" in page and "not above the margin" in page
    assert page.count("data:image/png;base64,") == 4 and "http" not in page.split("<h1>")[1].split("<figure>")[0]
    message = json.loads(result["decision.json"].text)
    assert message["evidence"]["gain"] == 0 and set(message["reliability"]) == {"challenger", "champion"}
    assert second["decision_report_url"].endswith(f"/runs/{version.run_id}/artifacts/decision/report.html")
    assert decide(nights, "two")["decision_report_url"] == second["decision_report_url"]


def test_a_decision_is_made_once(nights: Any) -> None:
    results = [(decide(nights, "one"), decide(nights, "two")) for _ in range(2)]
    assert results[0] == results[1] or [{k: v for k, v in r.items() if k != "evidence"} for r in results[0]] == [
        {k: v for k, v in r.items() if k != "evidence"} for r in results[1]
    ]
    assert len(nights.ledger()) == 2


@pytest.mark.parametrize(("point", "alias_after"), [("promotion_pending", None), ("promotion_alias_moved", 1)])
@pytest.mark.parametrize("healer", ["promote again", "another step"])
def test_a_killed_promotion_is_finished_by_the_next_process(
    nights: Any, point: str, alias_after: int | None, healer: str
) -> None:
    killed = nights.apex.call("promote", "--run", "one", APEX_FAULT=point)
    assert killed.code == -signal.SIGKILL and killed.result is None
    assert nights.champion() == alias_after
    assert nights.ledger() == [("promote", None, 1, "pending")]
    if healer == "another step":
        outcome = champion_ledger.resolve(
            nights.apex.settings, SCHEMA, Registry(nights.apex.settings, load_pipeline(nights.apex.settings).model_name)
        )
        assert outcome is not None and outcome.version == 1
    result = decide(nights, "one")
    assert result["promoted"] and result["champion_version"] == 1
    assert nights.champion() == 1
    assert nights.ledger() == [("promote", None, 1, "done")]


def test_a_manually_moved_alias_is_adopted_and_recorded(nights: Any) -> None:
    decide(nights, "one")
    registry = Registry(nights.apex.settings, load_pipeline(nights.apex.settings).model_name)
    registry.set_alias(CHAMPION, 2)
    for _ in range(2):
        result = champion_ledger.resolve(nights.apex.settings, SCHEMA, registry)
        assert result is not None and result.version == 2
    assert nights.ledger() == [("promote", None, 1, "done"), ("manual", 1, 2, "done")]


def move(expected: int | None, to: int) -> NewDecision:
    return NewDecision("promote", "pending", "by-test", "test", ("a reason",), from_version=expected, to_version=to)


def test_a_move_from_a_former_champion_is_refused(nights: Any) -> None:
    decide(nights, "one")
    settings, registry = (
        nights.apex.settings,
        Registry(nights.apex.settings, load_pipeline(nights.apex.settings).model_name),
    )
    applied, message = champion_ledger.apply(settings, SCHEMA, registry, move(None, 2))
    assert not applied
    assert "expected champion none, found version 1: promote by test (run one)" in message
    assert nights.champion() == 1 and len(nights.ledger()) == 1


def test_a_move_to_the_champion_changes_nothing(nights: Any) -> None:
    decide(nights, "one")
    assert champion_ledger.apply(
        nights.apex.settings,
        SCHEMA,
        Registry(nights.apex.settings, load_pipeline(nights.apex.settings).model_name),
        move(None, 1),
    )[0]
    assert len(nights.ledger()) == 1


def test_without_any_version_there_is_no_champion(nights: Any) -> None:
    assert (
        champion_ledger.resolve(
            nights.apex.settings, SCHEMA, Registry(nights.apex.settings, load_pipeline(nights.apex.settings).model_name)
        )
        is None
    )
    assert nights.ledger() == []


@pytest.mark.parametrize(
    ("to", "alias", "champion", "message"),
    [
        (77, None, 1, "version 77 is gone from the registry"),
        (2, 3, 3, "before it was finished the alias was moved to version 3"),
    ],
    ids=["its version is gone", "a person moved the alias meanwhile"],
)
def test_a_pending_move_that_cannot_be_finished_is_aborted(
    nights: Any, to: int, alias: int | None, champion: int, message: str
) -> None:
    decide(nights, "one")
    nights.more(1)
    settings, registry = (
        nights.apex.settings,
        Registry(nights.apex.settings, load_pipeline(nights.apex.settings).model_name),
    )
    with champions(settings, SCHEMA, load_pipeline(settings).model_name) as ledger:
        ledger.record(NewDecision("promote", "pending", "r", "test", ("x",), from_version=1, to_version=to))
    if alias is not None:
        registry.set_alias(CHAMPION, alias)
    for _ in range(2):
        result = champion_ledger.resolve(settings, SCHEMA, registry)
        assert result is not None and result.version == champion
    manual = [("manual", 1, 3, "done")] if alias else []
    assert nights.ledger() == [("promote", None, 1, "done"), ("promote", 1, to, "aborted"), *manual]
    assert nights.apex.sql("SELECT reasons FROM orders.promotions WHERE state = 'aborted'") == [(["x", message],)]


def test_a_stopped_service_is_reported_and_nothing_is_decided(nights: Any) -> None:
    (port,) = free_ports(1)
    for changes, name in (
        ({"mlflow_tracking_uri": f"http://127.0.0.1:{port}"}, f"MLflow at http://127.0.0.1:{port}"),
        ({"database_url": f"postgresql://apex_writer:x@127.0.0.1:{port}/apex"}, f"Postgres at 127.0.0.1:{port}"),
    ):
        with pytest.raises(TransientError, match=name):
            promote(nights.apex.but(**changes).context("one"), who="test")
    assert nights.champion() is None and nights.ledger() == []
    assert decide(nights, "one")["promoted"]
