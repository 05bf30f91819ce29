"""The load test measures what clients see, and logs it to MLflow as scoring does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from apex_ml.adapters.mlflow.experiments import experiment_name
from apex_ml.api_keys import make_key
from apex_ml.cli.serving import loadtest
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError, TransientError
from apex_ml.serving.client import Target
from apex_ml.serving.loadtest import Plan, ask
from apex_ml.serving.loadtest_results import LoadtestResults
from apex_ml.serving.loadtest_rows import LoadtestRows, model_of
from benchmarks.serving import Service, Soaked, grown, run_soak
from tests.support.apex_home import Apex
from tests.support.machines import both, machines  # noqa: F401  (fixtures)
from tests.support.online_service import running

ORDERS = 400


def call(apex: Apex, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    for name, value in apex.environment().items():
        if name.startswith("APEX_"):
            monkeypatch.setenv(name, value)
    return CliRunner().invoke(loadtest, arguments, catch_exceptions=True)


def logged(apex: Apex, pipeline: str) -> list[dict[str, Any]]:
    base = f"{apex.settings.tracking_uri}/api/2.0/mlflow"
    content = httpx.get(
        f"{base}/experiments/get-by-name", params={"experiment_name": experiment_name(pipeline, "loadtest")}
    ).json()
    search = {"experiment_ids": [content["experiment"]["experiment_id"]]}
    return httpx.post(f"{base}/runs/search", json=search).json()["runs"]  # type: ignore[no-any-return]


def test_it_measures_and_logs(
    scoring: Apex, put_drop: Any, contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keys, and with a file whose channels are known."""
    key, sha256 = make_key()
    table = pq.read_table(put_drop())
    truth = [contract.classes[n % len(contract.classes)] for n in range(len(table))]
    path = tmp_path / "orders.parquet"
    pq.write_table(table.append_column(contract.target, pa.array(truth)), path)
    with running(scoring, serving_keys=sha256) as service:
        service.ready(ready=True)
        apex = service.apex.but(serving_key=SecretStr(key))
        monkeypatch.setenv("APEX_SERVING_KEY", key)
        done = call(apex, monkeypatch, "--concurrency", "8", "--rows", str(ORDERS), "--file", str(path))
        assert done.exit_code == 0, (done.output, done.exception)
        assert "success rate         100.00%" in done.output and "p99" in done.output
        assert (
            f"rows                 {ORDERS:,}" in done.output
            and ", true 134, of them predicted correctly " in done.output
        )
        (run,) = logged(apex, "orders")
        metrics = {m["key"]: m["value"] for m in run["data"]["metrics"]}
        assert (metrics["inference_samples"], metrics["inference_success_rate"]) == (ORDERS, 1.0)
        assert metrics["inference_time_ms_p50"] <= metrics["inference_time_ms_p99"] <= metrics["inference_time_ms_max"]
        assert sum(metrics[f"pred_count_{level}"] for level in contract.classes) == ORDERS
        assert sum(metrics[f"true_count_{level}"] for level in contract.classes) == ORDERS
        assert 0 < metrics["inference_accuracy"] < 1 and 0.3 < metrics["inference_confidence_mean"] < 1
        assert run["info"]["status"] == "FINISHED"
        # drawn from the raw orders, in larger bodies, by whom the service does not know
        monkeypatch.setenv("APEX_SERVING_KEY", "wrong")
        refused = call(apex, monkeypatch, "--rows", "10", "--no-log")
        assert isinstance(refused.exception, TransientError) and "401" in str(refused.exception)
        monkeypatch.setenv("APEX_SERVING_KEY", key)
        more = call(apex, monkeypatch, "--rows", "1000", "--per-request", "100", "--no-log")
        assert more.exit_code == 0 and "requests             10 in" in more.output


def test_it_asks_the_routes_of_its_pipeline(both: Apex, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Rows are drawn from the pipeline's own raw data, and logged to its own experiment."""
    with running(both) as service:
        service.ready(ready=True)
        monkeypatch.setenv("APEX_PIPELINE", "machines")
        done = call(service.apex, monkeypatch, "--rows", "600", "--per-request", "100", "--concurrency", "2")
        assert done.exit_code == 0, (done.output, done.exception)
        assert "rows                 600" in done.output and "  STOPS " in done.output
        assert "experiment machines/loadtest, run " in done.output
        (run,) = logged(service.apex, "machines")
        metrics = {m["key"]: m["value"] for m in run["data"]["metrics"]}
        assert metrics["inference_samples"] == metrics["pred_count_RUNS"] + metrics["pred_count_STOPS"] == 600
        monkeypatch.delenv("APEX_PIPELINE")
        several = call(service.apex, monkeypatch, "--rows", "1")
        assert isinstance(several.exception, ConfigError) and "name one: apex -p machines" in str(several.exception)
        lines = [line for line in service.lines() if line["route"] == "/predict"]
        assert {line["pipeline"] for line in lines} == {"machines"} and sum(line["rows"] for line in lines) == 600


async def _count(url: str, asked: LoadtestRows, plan: Plan) -> Any:
    return await ask(Target(url), plan, asked)


def test_failures_are_counted_by_reason(scoring: Apex) -> None:
    with running(scoring) as service:
        service.ready(ready=True)
        requested = LoadtestRows("orders", [{"nothing": 1}] * 6, [None] * 6, ("A",))
        result = asyncio.run(_count(service.url, requested, Plan(concurrency=2, rate=500)))
    assert result.success_rate == 0 and result.rows == 6
    ((reason, count),) = result.failures.items()
    assert reason.startswith("422 ") and count == 6
    gone = asyncio.run(_count(service.url, requested, Plan(concurrency=1)))
    assert gone.success_rate == 0 and sum(gone.failures.values()) == 6
    assert "success rate         0.00%" in list(gone.lines())
    with pytest.raises(TransientError, match="make up"):
        model_of(Target(service.url), "orders")


def test_a_short_soak_sends_both_kinds_and_no_request_fails(scoring: Apex) -> None:
    """The bench's own soak, for seconds; ten minutes are `python -m benchmarks --only soak`."""
    with running(scoring) as service:
        service.ready(ready=True)
        result = Service(service.url, psutil.Process(service.process.pid), service.apex.environment())
        soaked = run_soak(result, 6)
    assert soaked.requests > 300 and soaked.rows > soaked.requests and len(soaked.mib) > 3


def test_a_leak_is_distinguished_from_a_one_time_increase() -> None:
    rising = Soaked([100.0 + n for n in range(40)], 0.0, 0.0, 0.0, 0, 0)
    filled = Soaked([100.0, 120.0] + [121.0] * 38, 0.0, 0.0, 0.0, 0, 0)
    assert grown(rising) == 15 and grown(filled) == 0


def test_an_answer_that_is_no_json_is_a_failed_request() -> None:
    result = LoadtestResults(("A", "B"), datetime.now(UTC))
    result.add(200, b"<html>somebody else</html>", 1.0, [None, None])
    assert result.success_rate == 0 and dict(result.failures) == {"200 an answer that is no JSON": 1}
