"""The online service says of an order what the drop's scores say of it, to the last bit."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from apex_ml.contract.model import Contract
from apex_ml.pipelines import load_pipeline
from apex_ml.sql.tables import probability_columns
from tests.support.apex_home import Apex
from tests.support.ledger import ROWS, run


def ask(client: TestClient, orders: list[dict[str, Any]]) -> dict[str, Any]:
    answer = client.post("/predict", json={"rows": orders})
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def as_scored(contract: Contract, answers: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (a["predicted"], *(np.float32(a["probabilities"][c]) for c in contract.classes), np.float32(a["confidence"]))
        for a in answers
    ]


def scored(apex: Apex, contract: Contract) -> list[tuple[Any, ...]]:
    p = ", ".join(probability_columns(contract.classes).values())
    rows = apex.sql(f"SELECT predicted, {p}, confidence FROM orders.scored ORDER BY run_id, row_nr")
    return [(row[0], *map(np.float32, row[1:])) for row in rows]


def test_an_answer_is_the_score_of_the_drop_to_the_last_bit(
    scoring: Apex, client: TestClient, drop_orders: list[dict[str, Any]], contract: Contract
) -> None:
    version = run(scoring)["model_version"]
    together = ask(client, drop_orders)
    assert together["model"] == {"name": load_pipeline(scoring.settings).model_name, "version": version}
    expected = scored(scoring, contract)
    assert len(expected) == ROWS and as_scored(contract, together["predictions"]) == expected
    alone = [ask(client, [order])["predictions"][0] for order in drop_orders[:60]]
    assert as_scored(contract, alone) == expected[:60]
    assert all(a["known_entity"] and a["warnings"] == [] for a in alone)


def test_unusual_values_are_read_as_in_a_drop(
    scoring: Apex, client: TestClient, drop_orders: list[dict[str, Any]], put_drop: Any, contract: Contract
) -> None:
    """Unknown clients and levels, nulls, other cases and blanks, later days: the same in a drop and in a request."""
    names = list(contract.features.attributes)
    random = np.random.default_rng(3)
    orders = [dict(order) for order in drop_orders[:200]]
    for nr, order in enumerate(orders):
        for name in random.choice(names, 2, replace=False):
            value = order[name]
            order[name] = [None, "never seen", f" {value}\t", str(value).lower(), "", "\u00a0"][nr % 6]
        if nr % 4 == 0:
            order[contract.entity] = f" c9{nr:07d}"
        day = date.fromisoformat(order[contract.timestamp]) + timedelta(days=nr % 40)
        order[contract.timestamp] = day.strftime("%d/%m/%Y") if nr % 3 else day.isoformat()

    def changed(table: pa.Table) -> pa.Table:
        return pa.table({name: [order[name] for order in orders] for name in orders[0]})

    put_drop("odd.parquet", changed=changed)
    assert run(scoring, "odd.parquet")["rows_scored"] == 200
    answers = ask(client, orders)["predictions"]
    assert as_scored(contract, answers) == scored(scoring, contract)
    assert [a["known_entity"] for a in answers] == [nr % 4 != 0 for nr in range(200)]
    assert any("taken as unknown" in w for a in answers for w in a["warnings"])


def test_the_observed_channel_of_an_order_is_checked_and_not_used(
    client: TestClient, drop_orders: list[dict[str, Any]], contract: Contract
) -> None:
    order = drop_orders[0]
    plain = ask(client, [order])["predictions"]
    message = order | {contract.target: contract.classes[-1]} | dict.fromkeys(contract.named("measure"), 3)
    assert ask(client, [message])["predictions"] == plain
    bad = client.post("/predict", json={"rows": [order | {contract.named("measure")[0]: -1}]})
    assert bad.status_code == 422


def test_an_order_before_the_snapshot_is_refused_with_the_day(
    client: TestClient, drop_orders: list[dict[str, Any]], contract: Contract
) -> None:
    as_of = date.fromisoformat(client.get("/model").json()["snapshot_as_of"])
    order = drop_orders[0] | {contract.timestamp: (as_of - timedelta(days=1)).isoformat()}
    answer = client.post("/predict", json={"rows": [drop_orders[1], order]})
    assert answer.status_code == 422
    ((fault),) = answer.json()["faults"]
    assert fault["path"] == f"rows[1].{contract.timestamp}" and str(as_of) in fault["rule"]


def test_the_example_of_the_documentation_is_answered(client: TestClient, contract: Contract) -> None:
    """The example of the page is sent unchanged."""
    body = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    answer = client.post("/predict", json=body["example"])
    assert answer.status_code == 200, answer.text
    (predicted,) = answer.json()["predictions"]
    assert predicted["warnings"] == [] and predicted["known_entity"] is False
    (order,) = body["example"]["rows"]
    assert set(order) == {c.name for c in contract.columns.values() if c.required.score}


def test_every_fault_of_a_request_is_reported_with_its_remedy(
    client: TestClient, drop_orders: list[dict[str, Any]], contract: Contract
) -> None:
    """Of the shape, of values, of pairs, of the snapshot's day: each with its place, escaped value, rule and remedy."""
    day, (first, second) = contract.timestamp, contract.rules[0].columns
    good = dict(drop_orders[0])
    early = good | {day: "2020-01-31"}
    odd = good | {contract.entity: "C1\u200b", first + "x": 1}
    answer = client.post("/predict", json={"rows": [early, 7, odd]})
    assert answer.status_code == 422
    message = answer.json()
    assert message["message"] == "the request has 4 faults; none of its rows was scored" and message["total"] == 4
    faults = {fault["path"]: fault for fault in message["faults"]}
    assert list(faults) == [
        f"rows[0].{day}", "rows[1]", f"rows[2].{first}x", f"rows[2].{contract.entity}",
    ]  # fmt: skip
    assert faults[f"rows[2].{contract.entity}"]["value"] == r"'C1\u200b'"
    assert faults[f"rows[2].{first}x"]["remedy"] == f"remove it; did you mean {first}?"
    assert all(fault["rule"] and fault["remedy"] for fault in faults.values())
    one = client.post("/predict", json={"rows": [early]}).json()
    assert one["message"] == "the request has 1 fault; none of its rows was scored"
    assert second in good


def test_broken_json_is_shown_as_text(client: TestClient) -> None:
    content = '{"rows": [{"a": "é", }]}'.encode()
    answer = client.post("/predict", content=content, headers={"Content-Type": "application/json"})
    (fault,) = answer.json()["faults"]
    assert answer.status_code == 422 and fault["path"] == "body" and fault["rule"].startswith("not JSON: ")
    assert fault["value"] == content.decode() and "b'" not in answer.text
    assert fault["remedy"].startswith("send JSON in UTF-8")


def test_the_model_route_shows_its_lineage(chain: Any, client: TestClient) -> None:
    message, trained, elt = client.get("/model").json(), chain.results["train"], chain.results["elt"]
    assert (message["version"], message["mlflow_run_id"]) == (trained["model_version"], trained["mlflow_run_id"])
    assert (message["snapshot_sha256"], message["entities"]) == (elt["snapshot_sha256"], elt["entities"])
    assert message["data_sha256"] == elt["data_sha256"] and message["contract_sha256"] and message["features"]


def test_a_client_without_history_is_a_normal_case(
    client: TestClient, drop_orders: list[dict[str, Any]], contract: Contract
) -> None:
    answer = ask(client, [drop_orders[0] | {contract.entity: "C999999999"}])
    (message,) = answer["predictions"]
    assert message["known_entity"] is False and sum(message["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert message["confidence"] == message["probabilities"][message["predicted"]]
    assert answer["ms"] > 0 and answer["request_id"]
    assert 'apex_serving_unknown_entities_total{pipeline="orders"} 1.0' in client.get("/metrics").text
