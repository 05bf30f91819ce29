"""One process serves several pipelines: each has its own columns, champion, faults, metrics and keys."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from apex_ml.adapters.mlflow.registry import CHAMPION, Registry
from apex_ml.api_keys import make_key
from apex_ml.cli.main import apex
from apex_ml.cli.serving import serve_key
from apex_ml.contract.history_state import state_columns
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.services.run_layout import SNAPSHOT
from apex_ml.services.scorer import NO_CHAMPION
from apex_ml.serving.history import History, history_bytes
from apex_ml.serving.memory import MIB
from apex_ml.settings import Settings
from tests.support.apex_home import Apex, changed
from tests.support.home_with_champion import register
from tests.support.machines import PIPELINE, ROW, add_machines, both, machines, write_pipeline  # noqa: F401  (fixtures)
from tests.support.online_service import app_of, served

HOST = "http://127.0.0.1:8008"
OF_PIPELINE = {"/predict", "/ready", "/model", "/openapi.json", "/docs", "/docs/start.js", "/docs/assets"}
OF_PROCESS = {"/health", "/metrics", "/ready", "/predict", "/model"} | OF_PIPELINE


@contextmanager
def serving(settings: Settings, **changes: Any) -> Iterator[TestClient]:
    """The service in this process, which need not be ready."""
    app = app_of(changed(settings, **changes))
    with TestClient(app, base_url=HOST, client=("127.0.0.1", 5), raise_server_exceptions=False) as client:
        yield client


def wait_ready(client: TestClient, name: str, **expected: Any) -> dict[str, Any]:
    """Wait until the state of a pipeline has these values; returns it."""
    deadline = time.monotonic() + 60
    while True:
        state: dict[str, Any] = client.get(f"/{name}/ready").json()
        if all(state[key] == value for key, value in expected.items()):
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.05)


def example(client: TestClient, name: str) -> dict[str, Any]:
    """The example of a pipeline's own document."""
    document = client.get(f"/{name}/openapi.json").json()
    content: dict[str, Any] = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    return content["example"]  # type: ignore[no-any-return]


def test_each_pipeline_answers_under_its_name(both: Apex) -> None:  # noqa: F811
    with served(both) as client:
        for name, classes, column in (
            ("orders", {"DIGITAL", "TELEFONO", "VENDEDOR"}, "cliente_id"),
            ("machines", {"RUNS", "STOPS"}, "machine"),
        ):
            body = example(client, name)
            assert set(body["rows"][0]) >= {column}
            answer = client.post(f"/{name}/predict", json=body)
            assert answer.status_code == 200, answer.text
            (predicted,) = answer.json()["predictions"]
            assert set(predicted["probabilities"]) == classes and predicted["predicted"] in classes
            described = client.get(f"/{name}/model").json()
            assert set(described["classes"]) == classes
            # the keys of the first edition, in the answers of its pipeline alone
            assert ("known_client" in predicted, "clients" in described) == (name == "orders",) * 2
            document = client.get(f"/{name}/openapi.json").json()
            assert document["servers"] == [{"url": f"/{name}"}]
            assert set(document["paths"]) == {"/predict", "/ready", "/model"}
            for file in ("docs", "docs/start.js", "docs/assets/swagger-ui-bundle.js"):
                assert client.get(f"/{name}/{file}").status_code == 200
        hot, cold = (
            client.post("/machines/predict", json={"rows": [ROW | {"heat": heat}]}).json()["predictions"][0]
            for heat in (95.0, 50.0)
        )
        assert hot["known_entity"] and hot["predicted"] == "STOPS" and cold["predicted"] == "RUNS"
        refused = client.post("/machines/predict", json=example(client, "orders"))
        assert refused.status_code == 422 and "cliente_id" in refused.text
        ready = client.get("/ready").json()
        assert ready["ready"] and set(ready["pipelines"]) == {"orders", "machines"} and ready["problems"] == []
        lines = client.get("/metrics").text.splitlines()
        assert 'apex_serving_rows_total{pipeline="machines"} 3.0' in lines
        assert 'apex_serving_rows_total{pipeline="orders"} 1.0' in lines
        assert 'apex_serving_requests_total{pipeline="machines",route="/predict",status="422"} 1.0' in lines
        assert set(client.get("/openapi.json").json()["paths"]) == {"/health", "/ready", "/metrics"}


def test_a_route_without_a_name_needs_one_pipeline(both: Apex) -> None:  # noqa: F811
    with serving(both.settings) as client:
        for path, method in (("/predict", "POST"), ("/predict", "GET"), ("/model", "GET")):
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["error"]) == (404, "several")
            assert f"use /machines{path} or /orders{path} instead of {path}" in answer.json()["message"]
    with served(both, pipeline="machines") as client:
        named = client.post("/machines/predict", json={"rows": [ROW]}).json()
        short = client.post("/predict", json={"rows": [ROW]}).json()
        assert named["predictions"] == short["predictions"] and named["model"] == short["model"]
        assert client.get("/model").json() == client.get("/machines/model").json()
        assert client.get("/ready").json() == client.get("/machines/ready").json()
        assert client.get("/orders/ready").status_code == client.get("/orders/predict").status_code == 404
        lines = client.get("/metrics").text
        assert 'apex_serving_requests_total{pipeline="machines",route="/predict",status="200"} 2.0' in lines


def test_a_pipeline_without_a_champion_is_a_503_of_its_own(both: Apex) -> None:  # noqa: F811
    write_pipeline(both.settings.pipelines, "machines", f"{PIPELINE}model: {{name: nobody}}\n", None, None)
    with serving(both.settings) as client:
        wait_ready(client, "orders", ready=True)
        wait_ready(client, "machines", ready=False, problems=[NO_CHAMPION.format("apex -p machines retrain")])
        answer = client.post("/machines/predict", json={"rows": [ROW]})
        assert (answer.status_code, answer.json()["message"]) == (503, NO_CHAMPION.format("apex -p machines retrain"))
        assert client.get("/machines/model").status_code == client.get("/machines/ready").status_code == 503
        assert client.get("/machines/docs").status_code == client.get("/machines/openapi.json").status_code == 200
        assert client.post("/orders/predict", json=example(client, "orders")).status_code == 200
        together = client.get("/ready")
        assert together.status_code == 503 and together.json()["problems"] == [
            "machines is not ready; see /machines/ready"
        ]
        assert together.json()["pipelines"]["orders"]["ready"] is True


def test_a_champion_that_cannot_be_loaded_is_a_503_of_its_own(both: Apex, machines: Apex) -> None:  # noqa: F811
    """It heals by itself when the alias names another version."""
    name = "machines_of_others"
    like = Registry(machines.settings, "machines").by_alias(CHAMPION)
    assert like is not None
    foreign = register(machines.settings, name, replace(like, tags={}))
    good = register(machines.settings, name, like)
    registry = Registry(machines.settings, name)
    registry.set_alias(CHAMPION, foreign)
    write_pipeline(
        both.settings.pipelines, "machines", f"{PIPELINE}model: {{name: {name}}}\n", machines.processed, None
    )
    with serving(both.settings) as client:
        wait_ready(client, "orders", ready=True)
        wait_ready(client, "machines", problems=[f"version {foreign} cannot be loaded; see the log"])
        assert client.post("/machines/predict", json={"rows": [ROW]}).status_code == 503
        assert client.post("/orders/predict", json=example(client, "orders")).status_code == 200
        registry.set_alias(CHAMPION, good)
        wait_ready(client, "machines", ready=True, model_version=good, problems=[])
        assert client.get("/ready").status_code == 200


def test_a_broken_file_is_a_503_with_the_fault_on_its_own_routes(both: Apex) -> None:  # noqa: F811
    file = add_machines(both.settings.pipelines)
    file.write_text(file.read_text().replace("type: double", "type: dubble"))
    key, sha256 = make_key()
    with serving(both.settings, serving_keys=sha256) as client:
        wait_ready(client, "orders", ready=True)
        headers = {"X-API-Key": key}
        for path in ("predict", "model", "docs", "openapi.json", "", "nothing/at/all"):
            for method in ("GET", "POST"):
                answer = client.request(method, f"/machines/{path}", headers=headers)
                assert (answer.status_code, answer.json()["error"]) == (503, "broken"), path
                message = answer.json()["message"]
                assert "pipelines/machines/pipeline.yaml" in message and "dubble" in message
                assert message.endswith("correct it, then restart the service: make up")
                assert str(both.settings.home.parent) not in message
        ready = client.get("/machines/ready")
        assert ready.status_code == 503 and "dubble" in ready.json()["problems"][0]
        assert client.post("/machines/predict").status_code == 401
        assert client.get("/ready", headers=headers).status_code == 503
        assert client.post("/orders/predict", json=example(client, "orders"), headers=headers).status_code == 200
    with pytest.raises(ConfigError, match="dubble"):
        app_of(both.settings.model_copy(update={"pipeline": "machines"}))


def test_answers_are_recorded_in_the_schema_of_their_pipeline(both: Apex) -> None:  # noqa: F811
    with served(both, serving__record_share=1) as client:
        client.post("/machines/predict", json={"rows": [ROW, ROW]})
        client.post("/orders/predict", json=example(client, "orders"))
    assert both.sql("SELECT machine, heat FROM machines.online_rows") == [("M00001", 71.5)] * 2
    assert both.sql("SELECT count(*) FROM orders.online_rows") == [(1,)]


# keys


def routes_of(client: TestClient) -> dict[str, set[str]]:
    """Every path of the application with its methods, also of the applications below it."""
    methods_of: dict[str, set[str]] = {}

    def walk(routes: Any, before: str) -> None:
        for route in routes:
            if isinstance(route, Mount) and hasattr(route.app, "router"):
                walk(route.routes, before + route.path)
            else:
                assert isinstance(route, Route | Mount), route
                methods = set(getattr(route, "methods", None) or {"GET"})
                methods_of.setdefault(before + route.path, set()).update(methods)

    walk(client.app._app.routes, "")  # type: ignore[attr-defined]
    return methods_of


@pytest.mark.parametrize("only", ["", "machines", "orders"])
def test_a_limited_key_opens_its_pipelines_alone_on_every_route(both: Apex, only: str) -> None:  # noqa: F811
    """Of every route that there is, so that a new one cannot be forgotten."""
    (limited, limited_hash), (full, full_hash) = make_key(), make_key()
    with serving(both.settings, serving_keys=f"{limited_hash}@orders, {full_hash}", pipeline=only) as client:
        for name in [only] if only else ["orders", "machines"]:
            wait_ready(client, name, ready=True)
        client.post("/machines/predict", json={"rows": [ROW]}, headers={"X-API-Key": full})
        routes = routes_of(client)
        names = {path.split("/")[1] for path in routes if path.split("/")[1] in ("orders", "machines")}
        assert names == ({only} if only else {"orders", "machines"})
        for name in names:
            inner = {path.removeprefix(f"/{name}") for path in routes if path.startswith(f"/{name}/")}
            assert inner == OF_PIPELINE
        assert {path for path in routes if path.split("/")[1] not in names} == OF_PROCESS
        for path, methods in routes.items():
            first = path.split("/")[1]
            owner = first if first in names else only if only and path in OF_PIPELINE else ""
            for method in sorted(methods | {"GET", "POST", "DELETE"}):
                answer = client.request(method, path, headers={"X-API-Key": limited})
                assert client.request(method, path, headers={"X-API-Key": full}).status_code not in (401, 403)
                if owner == "machines":
                    assert answer.status_code == 403, (method, path)
                    if method != "HEAD":
                        assert answer.json()["error"] == "forbidden" and "/orders/…" in answer.json()["message"]
                else:
                    assert answer.status_code not in (401, 403), (method, path)
                for secret in ("machines", "STOPS", "heat"):
                    assert secret not in answer.text, (method, path)
        # where the key's pipeline is the only one, there is nothing to hide
        unknown = 404 if only == "orders" else 403
        for path in (
            "/nothing",
            "/machines",
            "/machines/",
            "/machines/nothing",
            "/machines/docs/assets/x",
            "//machines",
        ):
            assert client.get(path, headers={"X-API-Key": limited}).status_code == unknown, path


def test_without_a_key_the_process_names_no_pipeline(both: Apex) -> None:  # noqa: F811
    _, sha256 = make_key()
    with serving(both.settings, serving_keys=sha256) as client:
        for name in ("orders", "machines"):
            wait_ready(client, name, ready=True)
        for path in ("/ready", "/health", "/docs", "/openapi.json", "/metrics", "/predict", "/model", "/nothing"):
            answer = client.get(path)
            for name in ("machines", "/orders", '"orders"'):
                assert name not in answer.text, path
        assert client.get("/ready").json() == {"ready": True, "pipelines": {}, "problems": []}
    write_pipeline(both.settings.pipelines, "machines", f"{PIPELINE}model: {{name: nobody}}\n", None, None)
    with serving(both.settings, serving_keys=sha256) as client:
        wait_ready(client, "orders", ready=True)
        answer = client.get("/ready")
        assert answer.status_code == 503 and answer.json()["problems"] == [
            "1 of 2 pipelines not ready; send an API key to see which"
        ]


def test_a_limited_key_sees_its_own_readiness_alone(both: Apex) -> None:  # noqa: F811
    (key, sha256) = make_key()
    write_pipeline(both.settings.pipelines, "machines", f"{PIPELINE}model: {{name: nobody}}\n", None, None)
    with serving(both.settings, serving_keys=f"{sha256}@orders") as client:
        wait_ready(client, "orders", ready=True)
        answer = client.get("/ready", headers={"X-API-Key": key})
        assert answer.status_code == 200 and set(answer.json()["pipelines"]) == {"orders"}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("{a}@machine", r"limited to machine, and there is no such pipeline; there are machines, orders; did you mean"),
        ("{a}@", r"entry 1 of 1: write the pipelines after @ as pipeline\+pipeline"),
        ("{a}@orders+", r"entry 1 of 1: write the pipelines after @"),
        ("{a}@orders, {a}@machines", r"entry 2 of 2 has the key of an earlier entry and other pipelines"),
        ("apex_secret@orders", r"entry 1 of 1 is no sha256"),
    ],
)
def test_a_wrong_entry_is_refused_and_not_repeated(both: Apex, entries: str, words: str) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match=words) as raised:
        app_of(changed(both.settings, serving_keys=entries.format(a="a" * 64)))
    assert "aaaa" not in str(raised.value) and "secret" not in str(raised.value)


def test_the_command_makes_an_entry_for_pipelines(both: Apex, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("APEX_HOME", str(both.settings.home))
    monkeypatch.setenv("APEX_PIPELINES", str(both.settings.pipelines))
    out = CliRunner().invoke(serve_key, ["--only", "orders", "--only", "machines"]).output
    key, entry = (line.split()[1] for line in out.splitlines()[:2])
    assert entry.endswith("@machines+orders")
    with serving(both.settings, serving_keys=entry) as client:
        assert client.get("/metrics", headers={"X-API-Key": key}).status_code == 200
    monkeypatch.setenv("APEX_PIPELINE", "orders")  # which the command replaces; afterwards it is as before
    assert "@machines\n" in CliRunner().invoke(apex, ["-p", "machines", "serve-key"]).output
    empty = CliRunner().invoke(apex, ["-p", "", "serve-key"])
    assert isinstance(empty.exception, ConfigError) and "the name of the pipeline is empty" in str(empty.exception)
    wrong = CliRunner().invoke(serve_key, ["--only", "machine"])
    assert isinstance(wrong.exception, ConfigError) and "did you mean machines?" in str(wrong.exception)


# memory


def make_large_run(first: Path, run: Path, entities: int) -> None:
    """A newer run whose history has so many machines."""
    shutil.copytree(first / "elt", run / "elt")
    path = run / "elt" / SNAPSHOT
    table = pq.read_table(path)
    rows = table.take(np.arange(entities) % len(table))
    names = pa.array([f"M{n:07d}" for n in range(entities)])
    at = table.column_names.index("machine")
    pq.write_table(rows.set_column(at, "machine", names), path)
    manifest = json.loads((run / "elt" / "manifest.json").read_text()) | {"run": "second"}
    manifest["result"] |= {"as_of": "2024-09-01", "snapshot_sha256": "1" * 64}
    (run / "elt" / "manifest.json").write_text(json.dumps(manifest))


def memory_of(client: TestClient, name: str) -> int:
    """The bytes that a pipeline holds by the service's estimate."""
    start = f'apex_serving_memory_bytes{{pipeline="{name}"}} '
    lines = client.get("/metrics").text.splitlines()
    return int(float(next(line for line in lines if line.startswith(start)).removeprefix(start)))


def test_a_champion_over_the_memory_budget_is_not_loaded_and_the_others_go_on(
    both: Apex,  # noqa: F811
    machines: Apex,  # noqa: F811
    tmp_path: Path,
) -> None:
    """While it runs, where it goes on with the earlier one, and from its start."""
    processed = tmp_path / "processed"
    shutil.copytree(machines.processed, processed)
    add_machines(both.settings.pipelines, processed)
    make_large_run(processed / "first", tmp_path / "large", 400_000)
    budget = 64
    with served(both, serving_memory_mb=budget) as client:
        before = {name: memory_of(client, name) for name in ("orders", "machines")}
        assert all(before.values()) and sum(before.values()) <= budget * MIB
        version = client.get("/machines/model").json()["version"]
        (tmp_path / "large").rename(processed / "second")
        problem = f"APEX_SERVING_MEMORY_MB is {budget}; raise it, or serve fewer pipelines in one process"
        deadline = time.monotonic() + 60
        while problem not in client.get("/machines/ready").text:
            assert time.monotonic() < deadline, client.get("/ready").text
            time.sleep(0.1)
        (problem,) = client.get("/machines/ready").json()["problems"]
        assert problem.startswith("memory: the champion and its history need about ")
        assert problem.endswith(f"; continuing with version {version}")
        assert client.post("/machines/predict", json={"rows": [ROW]}).status_code == 200
        assert {name: memory_of(client, name) for name in before} == before
        assert 'apex_serving_over_memory{pipeline="machines"} 1.0' in client.get("/metrics").text
        assert client.get("/orders/ready").json()["problems"] == []
    with serving(both.settings, serving_memory_mb=budget) as client:
        wait_ready(client, "orders", ready=True, problems=[])
        deadline = time.monotonic() + 60
        while "memory: " not in client.get("/machines/ready").text:
            assert time.monotonic() < deadline, client.get("/ready").text
            time.sleep(0.1)
        answer = client.post("/machines/predict", json={"rows": [ROW]})
        assert answer.status_code == 503 and "APEX_SERVING_MEMORY_MB" in answer.json()["message"]
        assert client.get("/ready").status_code == client.get("/machines/ready").status_code == 503
        assert client.post("/orders/predict", json=example(client, "orders")).status_code == 200
        assert 'apex_serving_over_memory{pipeline="orders"} 0.0' in client.get("/metrics").text
        assert memory_of(client, "machines") == 0
    with served(both) as client:
        assert client.get("/machines/model").json()["entities"] == 400_000


@pytest.mark.parametrize("entities", [1, 1000, 300_000])
def test_the_estimate_of_a_history_is_near_its_size(
    machines: Apex,  # noqa: F811
    tmp_path: Path,
    entities: int,
) -> None:
    make_large_run(machines.processed / "first", tmp_path / "run", entities)
    contract = load_pipeline(machines.settings).contract
    columns = state_columns(contract)
    path = tmp_path / "run" / "elt" / SNAPSHOT
    history = History(contract, path, "", date(2024, 9, 1), date(2024, 9, 1), columns)
    own = history._of_entities
    texts = sum(sys.getsizeof(name) + sys.getsizeof(place) for name, place in own.places.items())
    size = texts + sys.getsizeof(own.places) + sum(values.nbytes for values in own._states.values())
    assert size * 0.9 < history_bytes(contract, path, columns) < size * 1.6 + 2000
