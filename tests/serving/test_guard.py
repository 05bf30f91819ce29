"""Authentication, size and rate limits, and the messages and logs of errors."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from starlette.testclient import TestClient

from apex_ml.api_keys import hash_of, make_key
from apex_ml.cli.serving import serve_key
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError
from apex_ml.services.scorer import NO_CHAMPION
from apex_ml.serving.keys import Access, Keys
from apex_ml.serving.pages import ASSETS
from apex_ml.serving.rate_limit import Buckets
from apex_ml.settings import Settings
from tests.support.apex_home import Apex, changed
from tests.support.online_service import app_of, running

HOST = "http://127.0.0.1:8008"


@pytest.fixture
def bare(home: Any) -> Any:
    """The service without registry and database, which the guard does not need."""

    @contextmanager
    def make(**changes: Any) -> Iterator[TestClient]:
        settings: Settings = home(
            mlflow_tracking_uri="http://127.0.0.1:9", database_url="postgresql://a:b@127.0.0.1:9/c"
        )
        settings.home.mkdir(exist_ok=True)
        app = app_of(changed(settings, **changes))
        with TestClient(app, base_url=HOST, client=("127.0.0.1", 5), raise_server_exceptions=False) as client:
            yield client

    return make


def test_without_a_key_only_loopback_is_served(home: Any) -> None:
    with pytest.raises(ConfigError, match=r"APEX_SERVING_HOST=0\.0\.0\.0.*apex serve-key"):
        app_of(home(serving_host="0.0.0.0"))
    app_of(home(serving_host="0.0.0.0", serving_keys=make_key()[1]))


def test_a_key_in_place_of_its_hash_is_refused_and_not_repeated(home: Any) -> None:
    key, sha256 = make_key()
    with pytest.raises(ConfigError, match="entry 2 of 2 is no sha256") as raised:
        app_of(home(serving_keys=f"{sha256}, {key}"))
    assert key not in str(raised.value)


def test_the_command_makes_a_key_and_its_hash() -> None:
    out = CliRunner().invoke(serve_key).output
    key, sha256 = re.search(r"key +(\S+)", out)[1], re.search(r"sha256 +(\S+)", out)[1]  # type: ignore[index]
    assert hash_of(key) == sha256 and Keys(sha256).access_of(key) == Access(sha256[:8], None) and len(key) > 40
    assert CliRunner().invoke(serve_key).output != out
    assert "A running service reads the changed .env by itself" in out  # as the guide to the service says


def test_every_route_except_health_and_ready_needs_a_key(bare: Any) -> None:
    (old, old_hash), (new, new_hash) = make_key(), make_key()
    with bare(serving_keys=f"{old_hash},{new_hash.upper()}") as client:
        for path in ("/model", "/metrics", "/docsx", "/openapi.json/x", "/nothing"):
            answer = client.get(path)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"] == "unauthorized"
        assert client.post("/predict", json={}).status_code == 401
        assert client.get("/health").status_code == 200 and client.get("/ready").status_code == 503
        for key in (old, new):
            assert client.get("/metrics", headers={"X-API-Key": key}).status_code == 200
            assert client.get("/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        for wrong in ("", old[:-1], old_hash, "é"):
            header = {"X-API-Key": wrong.encode("latin-1")}
            assert client.get("/metrics", headers=header).status_code == 401  # type: ignore[arg-type]


def test_the_documentation_is_public_and_shows_no_client(bare: Any) -> None:
    with bare(serving_keys=make_key()[1]) as client:
        for path in ("/docs", "/docs/start.js", "/docs/assets/swagger-ui.css", "/openapi.json"):
            assert client.get(path).status_code == 200, path
            assert client.post(path).status_code == 401, path
        message = client.get("/openapi.json").json()
        # the page has a field for the key
        assert message["components"]["securitySchemes"]["key"]["name"] == "X-API-Key"
        assert message["paths"]["/predict"]["post"]["security"] == [{"key": []}, {"bearer": []}]
        assert client.get("/openapi.json", headers={"Host": "evil.test"}).status_code == 421


def test_a_key_is_rotated_without_a_restart(bare: Any, home: Any) -> None:
    (old, old_hash), (new, new_hash) = make_key(), make_key()
    env = home().env_file

    def known(client: TestClient, key: str) -> bool:
        return client.get("/model", headers={"X-API-Key": key}).status_code != 401

    def wait(client: TestClient, key: str, status: bool) -> None:
        deadline = time.monotonic() + 20
        while known(client, key) != status:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    with bare(serving_keys=old_hash) as client:
        env.write_text(f"APEX_SERVING_KEYS={old_hash},{new_hash}\n")
        wait(client, new, True)
        assert known(client, old)
        env.write_text(f"APEX_SERVING_KEYS={new_hash}\n")
        wait(client, old, False)
        env.write_text("APEX_SERVING_KEYS=nonsense\n")
        deadline = time.monotonic() + 20
        while not any("keys: " in p for p in client.get("/ready").json()["problems"]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert known(client, new)


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:8008", "", "127.0.0.1.evil.test", "[::1].evil", "localhost.x:1"]
)
def test_dns_rebinding_is_refused(bare: Any, host: str) -> None:
    with bare() as client:
        answer = client.get("/health", headers={"Host": host})
        assert (answer.status_code, answer.json()["error"]) == (421, "misdirected")
        for own in ("127.0.0.1:8008", "localhost", "LOCALHOST:9000", "[::1]:8008"):
            assert client.get("/health", headers={"Host": own}).status_code == 200


def test_cross_site_posts_are_refused(bare: Any) -> None:
    """What a form of a page may send without asking is no JSON by its type."""
    with bare() as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            answer = client.post("/predict", content=b'{"rows": []}', headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["error"]) == (415, "not_json")


def test_a_compressed_body_and_another_method_are_refused_with_what_is_accepted(bare: Any) -> None:
    with bare() as client:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        answer = client.post("/predict", content=gzip.compress(b'{"rows": []}'), headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (415, "compressed")
        assert "compressed bodies are not accepted" in answer.json()["message"]
        plain = client.post("/predict", content=b"{}", headers=headers | {"Content-Encoding": "identity"})
        assert plain.status_code != 415
        answer = client.get("/predict")
        assert (answer.status_code, answer.json()["message"]) == (405, "/predict takes POST, not GET")


def test_a_body_has_a_limit_with_or_without_content_length(bare: Any) -> None:
    with bare(serving_body_kb=16) as client:
        big = b"x" * 17_000
        for content in (big, iter([big[:9000], big[9000:]])):
            answer = client.post("/predict", content=content, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["error"]) == (413, "too_large"), answer.text


def test_requests_above_the_rate_get_retry_after(bare: Any) -> None:
    with bare(serving_rate=5) as client:
        codes = [client.get("/metrics").status_code for _ in range(12)]
        assert codes[:5] == [200] * 5 and 429 in codes
        answer = next(a for a in iter(lambda: client.get("/metrics"), None) if a.status_code == 429)
        assert answer.headers["retry-after"] == "1" and answer.json()["error"] == "too_many"
        assert client.get("/health").status_code == 200


def test_the_number_of_buckets_is_limited() -> None:
    buckets = Buckets(1)
    for n in range(20_000):
        buckets.wait(str(n), now=0.0)
    assert len(buckets._left) <= 10_000


def test_without_a_champion_the_service_is_live_and_reports_why(nights: Any) -> None:
    apex: Apex = nights.apex
    app = app_of(apex.settings)
    reason = NO_CHAMPION.format("apex -p orders retrain")
    with TestClient(app, base_url=HOST) as client:
        deadline = time.monotonic() + 30
        while client.get("/ready").json()["problems"] != [reason]:
            assert time.monotonic() < deadline, client.get("/ready").text
            time.sleep(0.05)
        assert client.get("/health").json() == {"live": True}
        assert client.get("/ready").json() == {"ready": False, "model_version": None, "problems": [reason]}
        answer = client.post("/predict", json={"rows": []})
        assert answer.status_code == 503 and answer.json()["message"] == reason
        assert client.get("/model").status_code == 503 and client.get("/metrics").status_code == 200


def test_a_server_error_shows_no_trace(
    bare: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from apex_ml.serving.metrics import ServingMetrics

    def fails(self: ServingMetrics) -> bytes:
        raise RuntimeError("a secret place")

    monkeypatch.setattr(ServingMetrics, "text", fails)
    with bare() as client:
        answer = client.get("/metrics", headers={"X-Request-ID": "mine-1"})
    assert answer.status_code == 500 and answer.json()["request_id"] == "mine-1"
    assert "secret" not in answer.text and "Traceback" not in answer.text


def test_the_log_has_one_line_per_request_and_no_order(
    client: TestClient, drop_orders: list[dict[str, Any]], contract: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "apex_ml.serving")
    sent = drop_orders[:3]
    client.post("/predict", json={"rows": sent}, headers={"X-Request-ID": "abc-1"})
    client.post("/predict", json={"rows": [sent[0] | {contract.entity: "Q77"}]}, headers={"X-Request-ID": "not one!"})
    client.get(f"/{sent[0][contract.entity]}?client={sent[1][contract.entity]}")
    lines = [json.loads(r.message) for r in caplog.records if r.name == "apex_ml.serving.access"]
    assert [(line["route"], line["status"]) for line in lines] == [("/predict", 200), ("/predict", 422), ("other", 404)]
    assert lines[0]["rows"] == 3 and lines[0]["version"] and lines[0]["ms"] > 0 and lines[0]["bytes"] > 300
    assert lines[0]["request_id"] == "abc-1" and re.fullmatch("[0-9a-f]{32}", lines[1]["request_id"])
    for order in sent:
        assert order[contract.entity] not in caplog.text
    assert "Q77" not in caplog.text


def test_the_page_of_the_api_loads_nothing_from_elsewhere(bare: Any) -> None:
    with bare() as client:
        page = client.get("/docs")
        assert page.status_code == 200 and "script-src 'self';" in page.headers["content-security-policy"]
        assert "http" not in page.text.replace("http-equiv", "")
        for place in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            answer = client.get(f"/{place}")
            assert answer.status_code == 200 and answer.content, place
        assert (ASSETS / "swagger-ui-bundle.js").stat().st_size > 100_000
        message = client.get("/openapi.json").json()
        assert set(message["paths"]) == {"/predict", "/health", "/ready", "/model", "/metrics"}
        reference = message["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert (
            reference.rsplit("/", 1)[1] in message["components"]["schemas"]
            and "Row" in message["components"]["schemas"]
        )


def test_slow_senders_lose_their_connection(scoring: Apex) -> None:
    with running(scoring, serving_timeout_seconds=1) as service:
        service.ready(ready=True)
        head = f"POST /predict HTTP/1.1\r\nhost: {service.url[7:]}\r\ncontent-type: application/json\r\n"
        address = ("127.0.0.1", service.apex.settings.serving_port)
        with socket.create_connection(address, 20) as slow:  # never ends its headers
            slow.sendall(head.encode())
            assert slow.recv(1000) == b""
        with socket.create_connection(address, 20) as slow:  # never sends its body
            slow.sendall(f"{head}content-length: 100\r\n\r\nx".encode())
            assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(address, 20) as endless:  # headers without an end
            endless.sendall(head.encode())
            with pytest.raises(OSError):
                for _ in range(200):
                    endless.sendall(b"x" * 10_000)
                    time.sleep(0.01)
        assert service.ready(ready=True)["problems"] == []


def test_a_taken_port_is_reported_with_its_setting(home: Any) -> None:
    from apex_ml.serving.server import _bound

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(1)
        port = held.getsockname()[1]
        with pytest.raises(ConfigError, match=f"APEX_SERVING_PORT={port}"):
            _bound(home(serving_port=port))


def test_a_secret_setting_is_no_plain_text(home: Any) -> None:
    assert "abc" not in repr(home(serving_key=SecretStr("abc")))
    assert asyncio.iscoroutinefunction(app_of(home()).__call__)
