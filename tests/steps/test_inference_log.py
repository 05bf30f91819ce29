"""The metrics of scoring in MLflow: sent after the commit, once per call, and retried until they arrive."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from apex_ml.adapters.mlflow.inference_log import BATCH_TAG, send_outbox
from apex_ml.contract.model import Contract
from apex_ml.steps.list_drops import list_drops
from tests.support.apex_home import Apex
from tests.support.ledger import ROWS, counts, run, scored_rows
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import free_ports

Drop = Callable[..., Path]


def api(apex: Apex, method: str, path: str, **content: Any) -> Any:
    answer = httpx.request(method, f"{apex.settings.tracking_uri}/api/2.0/mlflow/{path}", **content)
    answer.raise_for_status()
    return answer.json()


def mlflow_runs(apex: Apex) -> list[dict[str, Any]]:
    """The MLflow runs of this home's batches."""
    batches = [row[0] for row in apex.sql("SELECT DISTINCT batch FROM orders.mlflow_outbox")]
    experiment = api(apex, "GET", "experiments/get-by-name", params={"experiment_name": "orders/score"})
    results = []
    for batch in batches:
        search = {"experiment_ids": [experiment["experiment"]["experiment_id"]]}
        search["filter"] = f"tags.`{BATCH_TAG}` = '{batch}'"
        ids = [one["info"]["run_id"] for one in api(apex, "POST", "runs/search", json=search).get("runs", [])]
        results += [api(apex, "GET", "runs/get", params={"run_id": run_id})["run"] for run_id in ids]
    return results


def metrics(mlflow_run: dict[str, Any]) -> dict[str, float]:
    return {m["key"]: m["value"] for m in mlflow_run["data"]["metrics"]}


def artifact(apex: Apex, mlflow_run: dict[str, Any], name: str) -> Any:
    place = mlflow_run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/").strip("/")
    answer = httpx.get(f"{apex.settings.tracking_uri}/api/2.0/mlflow-artifacts/artifacts/{place}/{name}")
    answer.raise_for_status()
    return answer.json()


def unsent(apex: Apex) -> int:
    ((rows,),) = apex.sql("SELECT count(*) FROM orders.mlflow_outbox WHERE sent_at IS NULL")
    return int(rows)


def test_each_call_has_one_run_with_the_metrics_of_its_drops(scoring: Apex, put_drop: Drop, contract: Contract) -> None:
    channels = pa.array(["DIGITAL", "VENDEDOR"] * (ROWS // 2))
    put_drop("a.parquet", seed=1, changed=lambda t: t.append_column("canal_pedido_cd", channels))
    put_drop("b.parquet", seed=2)
    run(scoring, "a.parquet", "b.parquet")
    (one,) = mlflow_runs(scoring)
    assert one["info"]["status"] == "FINISHED" and one["info"]["run_name"] == "a.parquet +1"
    tags = {t["key"]: t["value"] for t in one["data"]["tags"]}
    ((version, trained),) = scoring.sql("SELECT DISTINCT model_version, mlflow_run_id FROM orders.scoring_runs")
    assert (tags["apex.model_version"], tags["apex.training_run_id"]) == (str(version), trained)
    assert len(one["inputs"]["model_inputs"]) == 1  # the version's own model
    rows = scored_rows(scoring)
    result = metrics(one)
    ((total,),) = scoring.sql("SELECT sum(ms_total) FROM orders.scoring_runs")
    assert result["inference_samples"] == len(rows) == 2 * ROWS
    assert result["inference_total_time_ms"] == pytest.approx(total)
    assert result["inference_avg_time_ms"] == pytest.approx(total / len(rows))
    assert result["inference_success_rate"] == 1.0
    for level in contract.classes:
        assert result[f"pred_count_{level}"] == [r[4] for r in rows].count(level)
    assert result["inference_confidence_mean"] == pytest.approx(sum(r[8] for r in rows) / len(rows), abs=1e-6)
    sample = artifact(scoring, one, "inference_results.json")
    expected = scoring.sql("SELECT cliente_id, predicted, confidence FROM orders.scored ORDER BY run_id, row_nr")
    assert [(r["cliente_id"], r["predicted"], r["confidence"]) for r in sample] == expected[:100]
    shown = artifact(scoring, one, "inference_distributions.json")
    assert shown["rows"] == sum(map(sum, shown["confidence_counts"].values())) == 2 * ROWS
    confusion = scoring.sql(
        "SELECT predicted, observed, rows::int FROM orders.drop_outcomes WHERE name = 'a.parquet' AND rows > 0"
    )
    assert {(p, o): n for p, by in shown["observed_by_predicted"].items() for o, n in by.items()} == {
        (p, o): n for p, o, n in confusion
    }
    assert sum(n for _, _, n in confusion) == ROWS
    assert scoring.sql("SELECT DISTINCT scoring_mlflow_run_id FROM orders.drop_summary") == [(one["info"]["run_id"],)]


def test_without_mlflow_a_drop_is_scored_and_the_sweep_logs_it_later(scoring: Apex, put_drop: Drop) -> None:
    put_drop()
    (port,) = free_ports(1)
    run(scoring)
    scoring.sql("UPDATE orders.mlflow_outbox SET sent_at = NULL, mlflow_run_id = NULL, batch = 'later'")
    deaf = scoring.but(mlflow_tracking_uri=f"http://127.0.0.1:{port}")
    assert send_outbox(deaf.settings, SCHEMA) == 0
    ((attempts, error),) = scoring.sql("SELECT attempts, last_error FROM orders.mlflow_outbox")
    assert attempts == 1 and "does not answer" in error
    assert list_drops(scoring.context("sweep")).to_json()["waiting"] == 0
    assert unsent(scoring) == 0 and len(mlflow_runs(scoring)) == 1
    assert scoring.sql("SELECT last_error FROM orders.mlflow_outbox") == [(None,)]


@pytest.mark.parametrize("point", ["score_committed", "outbox_begun", "outbox_logged"])
def test_after_a_kill_the_next_call_logs_to_mlflow_once(scoring: Apex, put_drop: Drop, point: str) -> None:
    put_drop()
    killed = scoring.call("score", "--drops", '["a.parquet"]', APEX_FAULT=point)
    assert killed.code == -signal.SIGKILL
    assert counts(scoring) == (1, 1, ROWS) and unsent(scoring) == 1
    assert send_outbox(scoring.settings, SCHEMA) == 1
    assert send_outbox(scoring.settings, SCHEMA) == 0
    (one,) = mlflow_runs(scoring)
    assert one["info"]["status"] == "FINISHED" and metrics(one)["inference_samples"] == ROWS
    assert [row["cliente_id"] for row in artifact(scoring, one, "inference_results.json")] == [
        row[2] for row in scored_rows(scoring)[:100]
    ]
