"""What Prometheus reads of Apex, and that the alert rules ask for nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from apex_airflow.pages import metrics
from apex_airflow.pages.web import create_app
from apex_ml.adapters.postgres.alerts import raise_alert
from apex_ml.contract.model import Contract
from apex_ml.pipelines import load_pipeline
from apex_ml.serving.metrics import ServingMetrics
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.many_pipelines import create_tables
from tests.support.page_rows import fill
from tests.support.pipeline_files import write_pipelines
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import free_ports

RULES = CODE_ROOT / "deployment" / "prometheus-rules.yaml"
TOKEN = "a-token-of-the-test"


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TestClient]:
    """Make an anonymous client, or a client of an Airflow user."""
    for place in ("airflow.api_fastapi.core_api.security", "apex_airflow.pages.web"):
        monkeypatch.setattr(f"{place}.get_auth_manager", SimpleAuthManager)

    def make(settings: Settings, role: str | None = None) -> TestClient:
        if role:

            async def known(*_: object) -> SimpleAuthManagerUser:
                return SimpleAuthManagerUser(username="somebody", role=role)

            monkeypatch.setattr("apex_airflow.pages.web.get_user", known)
        return TestClient(create_app(settings))

    return make


@pytest.fixture
def settings(databases: Any, home: Any) -> Settings:
    configured: Settings = home(metrics_token=SecretStr(TOKEN), **databases.migrated())
    return configured


def values(text: str) -> dict[str, float]:
    """Samples of the pipeline orders and of the platform by name and other labels."""
    return {
        sample.name + "".join(f"[{v}]" for name, v in sample.labels.items() if name != "pipeline"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created") and sample.labels.get("pipeline", "orders") == "orders"
    }


@pytest.mark.parametrize("header", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}])
@pytest.mark.parametrize("token", ["", TOKEN])
def test_anonymous_requests_are_refused(settings: Settings, visit: Any, header: dict[str, str], token: str) -> None:
    client = visit(settings.model_copy(update={"metrics_token": SecretStr(token)}))
    assert client.get("/metrics", headers=header).status_code == 401


@pytest.mark.parametrize("token", ["another", TOKEN + "x", TOKEN[:-1], "é"])
def test_another_token_is_refused(settings: Settings, visit: Any, token: str) -> None:
    answer = visit(settings).get("/metrics", headers={"Authorization": f"Bearer {token}".encode()})
    assert answer.status_code in (401, 403)
    assert "apex_" not in answer.text


def test_the_token_opens_the_metrics_and_nothing_else(settings: Settings, visit: Any) -> None:
    client = visit(settings)
    header = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/metrics", headers=header).status_code == 200
    for path in ("/", "/orders", "/static/page.css", "/data-docs/index.html"):
        assert client.get(path, headers=header).status_code in (401, 403)


def test_the_token_counts_only_when_one_is_set(settings: Settings, visit: Any) -> None:
    client = visit(settings.model_copy(update={"metrics_token": SecretStr("")}))
    assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 401


def test_an_empty_platform(settings: Settings, visit: Any) -> None:
    answer = visit(settings, "VIEWER").get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    samples = values(answer.text)
    assert samples["apex_postgres_up"] == 1 and samples["apex_drops_waiting"] == 0
    assert samples["apex_drops[done]"] == samples["apex_drops[failed]"] == samples["apex_rows_scored_total"] == 0
    assert "apex_champion_version" not in samples and "apex_last_scoring_timestamp_seconds" not in samples


def test_values(settings: Settings, contract: Contract) -> None:
    fill(settings, contract.classes, runs=200)
    inbox = Path(load_pipeline(settings).locations.drops) / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "a.parquet").write_text("x")
    samples = values(metrics.exposition(settings, ["orders"]).decode())
    now = max(samples["apex_last_alert_timestamp_seconds"], samples["apex_last_scoring_timestamp_seconds"])
    assert samples["apex_drops_waiting"] == 1
    assert samples["apex_champion_version"] == 3
    assert samples["apex_champion_age_seconds"] == pytest.approx(9 * 86400, abs=60)
    assert samples["apex_drops[done]"] + samples["apex_drops[failed]"] == 200
    assert samples["apex_scoring_runs_total"] == samples["apex_drops[done]"]
    assert (
        samples["apex_rows_scored_total"] + samples["apex_rows_quarantined_total"] == 1000 * samples["apex_drops[done]"]
    )
    assert samples["apex_open_alerts[drift]"] == samples["apex_open_alerts[quality]"] == 1
    assert samples["apex_open_alerts[drop_late]"] == 0  # it is over
    assert now - samples["apex_last_decision_timestamp_seconds"] == pytest.approx(86400, abs=3600)


def test_without_postgres(home: Any) -> None:
    (port,) = free_ports(1)
    settings = home(reader_database_url=f"postgresql://apex_reader:secret@127.0.0.1:{port}/apex")
    assert values(metrics.exposition(settings, ["orders"]).decode()) == {"apex_drops_waiting": 0, "apex_postgres_up": 0}


def test_an_unknown_kind_of_alert_is_one_label(settings: Settings) -> None:
    kind = 'a"} 1\nevil{x="\\'
    raise_alert(settings, SCHEMA, kind, "x", "x")
    samples = values(metrics.exposition(settings, ["orders"]).decode())
    assert samples[f"apex_open_alerts[{kind}]"] == 1 and "evil" not in samples


def _metrics(rule: dict[str, Any]) -> list[str]:
    """The metrics that a rule asks for."""
    return re.findall(r"\bapex_\w+", rule["expr"])


def test_the_token_shows_every_pipeline(databases: Any, contract: Contract, tmp_path: Path, visit: Any) -> None:
    write_pipelines(tmp_path / "pipelines", ["orders", "returns"])
    settings = Settings.load(
        home=tmp_path, pipelines=tmp_path / "pipelines", metrics_token=SecretStr(TOKEN), **databases.migrated()
    )
    create_tables(settings, contract, ["returns"])
    fill(settings, contract.classes, runs=20, schema="returns")
    text = visit(settings).get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    samples = {
        (family.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert samples["apex_scoring_runs", "orders"] == 0 < samples["apex_scoring_runs", "returns"]
    assert samples["apex_open_alerts", "drift", "returns"] == 1
    assert samples["apex_champion_version", "returns"] == 3 and ("apex_champion_version", "orders") not in samples
    without = {name for name, *labels in samples if "orders" not in labels and "returns" not in labels}
    assert without == {"apex_postgres_up"}


def test_the_rules_use_existing_metrics(settings: Settings, contract: Contract) -> None:
    fill(settings, contract.classes)
    expected = {name.split("[")[0] for name in values(metrics.exposition(settings, ["orders"]).decode())}
    serving = ServingMetrics()
    serving.of("orders", contract.classes)
    serving.answered("orders", "/predict", 503, 0.1)
    families = text_string_to_metric_families(serving.text().decode())
    expected |= {sample.name for family in families for sample in family.samples}
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    assert len(names) == len(set(names)) >= 14
    requested = {name for rule in rules for name in _metrics(rule)}
    assert requested <= expected
    of_platform = {"apex_postgres_up"}
    for rule in rules:
        if any(not name.startswith("apex_serving") and name not in of_platform for name in _metrics(rule)):
            texts = rule["annotations"]
            assert "{{ $labels.pipeline }}" in texts["summary"], rule["alert"]
    for rule in rules:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
