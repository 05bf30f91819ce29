"""Is each service well: not only alive, but answering."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from apex_ml.platform import postgres
from apex_ml.settings import Settings

TIMEOUT = 5.0
# the heartbeats that the API server reports, by service
HEARTBEATS = {
    "airflow-scheduler": "scheduler",
    "airflow-dag-processor": "dag_processor",
    "airflow-triggerer": "triggerer",
}


@dataclass(frozen=True)
class Health:
    """``ok`` is None when nobody can tell, because the service that would is down."""

    ok: bool | None
    detail: str = ""


def check(settings: Settings, services: Collection[str]) -> dict[str, Health]:
    """Health of the named services; never raises."""
    found: dict[str, Health] = {}
    probes: Mapping[str, Callable[[Settings], Health]] = {
        "postgres": _postgres,
        "mlflow": _mlflow,
        "serving": _serving,
    }
    for service in services:
        if service in probes:
            found[service] = probes[service](settings)
    if any(service.startswith("airflow-") for service in services):
        airflow = _airflow(settings)
        found |= {service: airflow[service] for service in services if service in airflow}
    return found


def _postgres(settings: Settings) -> Health:
    ok, detail = postgres.answers(settings)
    return Health(ok, detail)


def _mlflow(settings: Settings) -> Health:
    return _answers(f"{settings.tracking_uri}/health")


def _serving(settings: Settings) -> Health:
    """Whether it lives: without a champion it is well, and says at /ready that it waits for one."""
    return _answers(f"{settings.serving_url}/health")


def _answers(url: str) -> Health:
    try:
        _get(url)
    except OSError as error:
        return Health(False, _reason(error))
    return Health(True)


def _airflow(settings: Settings) -> dict[str, Health]:
    try:
        body = json.loads(_get(f"{settings.airflow}/api/v2/monitor/health"))
    except (OSError, ValueError) as error:
        unknown = dict.fromkeys(HEARTBEATS, Health(None, "unknown, the API server does not answer"))
        return {"airflow-api-server": Health(False, _reason(error)), **unknown}
    database = body["metadatabase"]["status"] == "healthy"
    found = {"airflow-api-server": Health(database, "" if database else "cannot reach its database")}
    for service, name in HEARTBEATS.items():
        part: dict[str, Any] = body.get(name) or {}
        if not database:
            found[service] = Health(None, "unknown, Airflow cannot reach its database")
            continue
        ok = part.get("status") == "healthy"
        found[service] = Health(ok, "" if ok else f"last heartbeat {part.get(f'latest_{name}_heartbeat') or 'never'}")
    return found


def _get(url: str) -> bytes:
    # no proxy: the services are on this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=TIMEOUT) as answer:
        body: bytes = answer.read()
    return body


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return str(error.reason)
    return str(error) or type(error).__name__
