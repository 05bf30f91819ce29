"""The service follows the champion while requests continue. It reports outages and survives them."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.mlflow.registry import CHAMPION, Registry
from apex_ml.contract.model import Contract
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.served_model import former_model
from apex_ml.serving.client import Target
from apex_ml.serving.loadtest import Plan, ask
from apex_ml.serving.loadtest_results import LoadtestResults
from apex_ml.serving.loadtest_rows import LoadtestRows, rows_of
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.manual_override import force, rollback
from apex_ml.steps.promote import promote
from tests.support.apex_home import Apex
from tests.support.home_with_champion import register
from tests.support.object_servers import moto_server
from tests.support.online_service import Running, running
from tests.support.relay import Relay

WITHIN = 5.0


@pytest.fixture
def asked(raw: Path, contract: Contract, tmp_path: Path) -> LoadtestRows:
    path = tmp_path / "orders.parquet"
    make_drop(str(raw), date(2024, 8, 24), 300, 1, path, contract)
    return rows_of(contract, pq.read_table(path), path.name)


@contextmanager
def load(service: Running, asked: LoadtestRows, seconds: float) -> Iterator[Callable[[], LoadtestResults]]:
    """Send a hundred requests per second during the block; the call waits for the end and returns the metrics."""
    results: list[LoadtestResults] = []

    def work() -> None:
        plan = Plan(concurrency=4, rate=100, seconds=seconds)
        results.append(asyncio.run(ask(Target(service.url), plan, asked)))

    worker = threading.Thread(target=work)
    worker.start()

    def end() -> LoadtestResults:
        worker.join(60)
        return results[0]

    yield end
    worker.join(60)


def test_promotion_and_rollback_apply_within_seconds_and_no_request_fails(nights: Any, asked: LoadtestRows) -> None:
    apex: Apex = nights.apex
    with running(apex) as service:
        message = service.ready(ready=False)
        first, second = nights.versions["one"], nights.versions["two"]
        promote(apex.context("one"), who="test")
        service.ready(ready=True, model_version=first)  # healed by itself
        with load(service, asked, 14) as end:
            time.sleep(1)
            force(apex.context("on"), version=second, reason="test", who="test")
            begun = time.monotonic()
            service.ready(ready=True, model_version=second)
            assert time.monotonic() - begun < WITHIN
            rollback(apex.context("back"), to=first, reason="test", who="test")
            begun = time.monotonic()
            service.ready(ready=True, model_version=first)
            assert time.monotonic() - begun < WITHIN
            result = end()
        assert result.success_rate == 1 and not result.failures and result.requests > 500
        assert set(result.versions) == {first, second}
        assert message["model_version"] is None


def test_an_outage_of_registry_and_database_is_reported_and_fails_no_request(
    scoring: Apex, asked: LoadtestRows, mlflow_server: str
) -> None:
    settings = scoring.settings
    with Relay(mlflow_server) as mlflow, Relay(settings.writer_url) as postgres:
        with running(scoring, mlflow_tracking_uri=mlflow.url, database_url=postgres.url) as service:
            version = service.ready(ready=True, problems=[])["model_version"]
            mlflow.cut()
            postgres.cut()
            with load(service, asked, 6) as end:
                message = service.ready(
                    problems=["postgres: does not answer", "registry: does not answer as it should"], seconds=30
                )
                assert message["ready"] and message["model_version"] == version
                result = end()
            assert result.success_rate == 1 and not result.failures
            assert httpx.get(f"{service.url}/ready", verify=False).status_code == 200
            mlflow.mend()
            postgres.mend()
            service.ready(ready=True, problems=[], seconds=40)


def test_a_version_that_cannot_be_loaded_keeps_the_old_one(nights: Any, asked: LoadtestRows) -> None:
    apex: Apex = nights.apex
    promote(apex.context("one"), who="test")
    first = nights.versions["one"]
    foreign = register(apex.settings, load_pipeline(apex.settings).model_name, replace(nights.like, tags={}))
    with running(apex) as service:
        service.ready(ready=True, model_version=first, problems=[])
        Registry(apex.settings, load_pipeline(apex.settings).model_name).set_alias(CHAMPION, foreign)
        problem = f"version {foreign} cannot be loaded; see the log; continuing with version {first}"
        service.ready(ready=True, model_version=first, problems=[problem], seconds=20)
        assert "was not registered by Apex" in service.log.read_text()
        # as `apex status` and `apex retrain` report it
        own = service.apex.settings
        assert former_model(own, load_pipeline(own), first) is None
        assert f"still answers with version {first}, and the champion is version {foreign} ({problem})" in str(
            former_model(own, load_pipeline(own), foreign)
        )
        Registry(apex.settings, load_pipeline(apex.settings).model_name).set_alias(CHAMPION, nights.versions["two"])
        service.ready(ready=True, model_version=nights.versions["two"], problems=[], seconds=20)


def test_a_newer_snapshot_is_loaded(nights: Any, chain: Any, asked: LoadtestRows) -> None:
    apex: Apex = nights.apex
    promote(apex.context("one"), who="test")
    with running(apex) as service:
        service.ready(ready=True)
        before = httpx.get(f"{service.url}/model").json()
        newer = apex.processed / "three"
        shutil.copytree(apex.processed / "two" / "elt", newer / ".elt")
        manifest = json.loads((newer / ".elt" / "manifest.json").read_text()) | {"run": "three"}
        manifest["result"] |= {"as_of": "2024-09-01", "snapshot_sha256": "0" * 64}
        (newer / ".elt" / "manifest.json").write_text(json.dumps(manifest))
        (newer / ".elt").rename(newer / "elt")
        deadline = time.monotonic() + 20
        while (now := httpx.get(f"{service.url}/model", verify=False).json())["snapshot_as_of"] == before[
            "snapshot_as_of"
        ]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert (now["snapshot_as_of"], now["version"]) == ("2024-09-01", before["version"])


def test_snapshots_of_an_object_store_are_followed_and_its_outage_is_survived(
    nights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apex: Apex = nights.apex
    promote(apex.context("one"), who="test")

    def publish(run: str, **result: str) -> None:
        with there.context(run).runs.new_output(run, "elt") as output:
            shutil.copytree(apex.processed / "two" / "elt", output, dirs_exist_ok=True)
            manifest = json.loads((output / "manifest.json").read_text()) | {"run": run}
            (output / "manifest.json").write_text(json.dumps(manifest | {"result": manifest["result"] | result}))

    def model(service: Running) -> dict[str, Any]:
        return httpx.get(f"{service.url}/model").json()

    with ExitStack() as store:
        server = store.enter_context(moto_server(tmp_path))
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        there = apex.but(processed_url=f"{server.url}/processed")
        publish("two")
        shutil.rmtree(there.settings.spool)  # the service has to get it
        with running(there) as service:
            service.ready(ready=True)
            publish("three", as_of="2024-09-01", snapshot_sha256="0" * 64)
            deadline = time.monotonic() + 40
            while model(service)["snapshot_as_of"] != "2024-09-01":
                assert time.monotonic() < deadline
                time.sleep(0.2)
            store.close()
            service.ready(ready=True, problems=["the store of the runs does not answer"], seconds=60)
            assert model(service)["snapshot_as_of"] == "2024-09-01"
