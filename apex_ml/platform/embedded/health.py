"""Health checks of the services: whether they answer."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from apex_ml.platform.embedded.ports import listener, stranger
from apex_ml.platform.embedded.postgres.process import server_answers
from apex_ml.platform.embedded.processes import family
from apex_ml.settings import Settings

TIMEOUT = 5.0
MAX_BYTES = 1 << 20
"""Maximum bytes of an answer; the services send far fewer."""
# the heartbeats that the API server reports, by service
HEARTBEATS = {
    "airflow-scheduler": "scheduler",
    "airflow-dag-processor": "dag_processor",
    "airflow-triggerer": "triggerer",
}


@dataclass(frozen=True)
class Health:
    """``ok`` is None when the state is unknown, because the service that reports it is down."""

    ok: bool | None
    detail: str = ""


def check(settings: Settings, services: Collection[str]) -> dict[str, Health]:
    """Health of the named services; never raises."""
    states: dict[str, Health] = {}
    probes: Mapping[str, Callable[[Settings], Health]] = {
        "postgres": _postgres,
        "mlflow": _mlflow,
        "serving": _serving,
    }
    for service in services:
        if service in probes:
            states[service] = probes[service](settings)
    if any(service.startswith("airflow-") for service in services):
        airflow = _airflow(settings)
        states |= {service: airflow[service] for service in services if service in airflow}
    return states


def _postgres(settings: Settings) -> Health:
    ok, detail = server_answers(settings)
    return Health(ok, detail if ok else detail + _stranger(settings, "pg_port", settings.pg_host))


def _mlflow(settings: Settings) -> Health:
    return _answers(settings, "mlflow_port", f"{settings.tracking_uri}/health", settings.mlflow_tracking_uri)


def _serving(settings: Settings) -> Health:
    """Whether the process is live. Without a champion it is healthy; /ready reports that it waits for one."""
    return _answers(settings, "serving_port", f"{settings.serving_url}/health")


def _answers(settings: Settings, name: str, url: str, given: str = "") -> Health:
    try:
        _get(url)
    except (OSError, http.client.HTTPException) as error:
        return Health(False, _reason(error) + _stranger(settings, name, given, error))
    return Health(True)


def _airflow(settings: Settings) -> dict[str, Health]:
    try:
        body = json.loads(_get(f"{settings.airflow}/api/v2/monitor/health"))
        if not isinstance(body, dict) or not isinstance(body.get("metadatabase"), dict):
            raise ValueError("the answer is not that of Airflow")
    except (OSError, ValueError, http.client.HTTPException) as error:
        unknown = dict.fromkeys(HEARTBEATS, Health(None, "unknown, the API server does not answer"))
        detail = _reason(error) + _stranger(settings, "airflow_port", settings.airflow_url, error)
        return {"airflow-api-server": Health(False, detail), **unknown}
    database = body["metadatabase"].get("status") == "healthy"
    states = {"airflow-api-server": Health(database, "" if database else "cannot reach its database")}
    for service, name in HEARTBEATS.items():
        part: dict[str, Any] = body[name] if isinstance(body.get(name), dict) else {}
        if not database:
            states[service] = Health(None, "unknown, Airflow cannot reach its database")
            continue
        ok = part.get("status") == "healthy"
        states[service] = Health(ok, "" if ok else f"last heartbeat {part.get(f'latest_{name}_heartbeat') or 'never'}")
    return states


def _get(url: str) -> bytes:
    # no proxy: the services are on this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=TIMEOUT) as answer:
        body: bytes = answer.read(MAX_BYTES)
        if answer.length and len(body) < MAX_BYTES:
            raise http.client.IncompleteRead(body)
    return body


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return str(error.reason)
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return f"answers something else than HTTP: {str(error).strip()[:60] or type(error).__name__!r}"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "the answer is no JSON"
    return str(error) or type(error).__name__


def _stranger(settings: Settings, name: str, given: str, error: Exception | None = None) -> str:
    """The remedy when another program has the port of a service, after a semicolon; otherwise empty."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ConnectionRefusedError | urllib.error.HTTPError):  # the port is free, or the service has it
        return ""
    if given:
        return f"; {stranger(settings, name, given)}" if not isinstance(reason, OSError) else ""
    holder = listener(getattr(settings, name))
    if holder is None or holder.pid in {process.pid for process in family(settings)}:
        return ""
    return f"; {stranger(settings, name)}"
