"""Requests to Airflow's REST API: login, retries, pages, and errors that name the setting to change."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx

from apex_ml.errors import ConfigError, TransientError
from apex_ml.settings import Settings

PAGE = 100


class AirflowConnection:
    """A connection to ``APEX_AIRFLOW_URL`` as the user admin.

    Connection errors and answers 429 and 5xx are retried for ``patience`` seconds. A request that takes longer
    than ``timeout`` seconds is sent again for ``slow_patience`` seconds in all, so a request must be safe to send
    twice. Then :class:`~apex_ml.errors.TransientError` is raised, with the address and its setting. A refused password
    raises :class:`~apex_ml.errors.ConfigError`, and so does every other refusal, with Airflow's reason, and a server
    that is not Airflow.
    """

    def __init__(
        self, settings: Settings, *, patience: float = 30.0, slow_patience: float = 180.0, timeout: float = 30.0
    ) -> None:
        self.url = settings.airflow
        self.setting = "APEX_AIRFLOW_URL" if settings.airflow_url else "APEX_AIRFLOW_PORT"
        self.patience = patience
        self.slow_patience = max(slow_patience, patience)
        self.timeout = timeout
        self._password = settings.airflow_admin_password
        self._token: str | None = None
        # trust_env=False: a proxy of the shell must not come between this machine and itself
        self._http = httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def pages(self, path: str, name: str) -> list[Any]:
        """Return all entries of a list that comes in pages."""
        entries: list[Any] = []
        while True:
            page = self.call("GET", path, params={"limit": PAGE, "offset": len(entries)})
            entries += page[name]
            if len(entries) >= page["total_entries"] or not page[name]:
                return entries

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        missing: bool = False,
        exists: bool = False,
    ) -> Any:
        """Return the decoded answer. ``missing``: None for a 404; ``exists``: None for a 409."""
        fresh = False
        while True:
            if self._token is None:
                self._token, fresh = self._login(), True
            bearer = {"Authorization": f"Bearer {self._token}", **(headers or {})}
            answer = self._send(method, f"/api/v2{path}", json=json, params=params, headers=bearer)
            if answer.status_code == httpx.codes.UNAUTHORIZED and not fresh:
                self._token = None  # expired, or signed before a restart with another secret
                continue
            if (missing and answer.status_code == httpx.codes.NOT_FOUND) or (
                exists and answer.status_code == httpx.codes.CONFLICT
            ):
                return None
            if answer.is_error:
                raise ConfigError(
                    f"Airflow at {self.url} refuses {method} {path}: {answer.status_code} {_reason(answer)}"
                )
            return self._decoded(answer)

    def _login(self) -> str:
        body = {"username": "admin", "password": self._password.get_secret_value()}
        answer = self._send("POST", "/auth/token", json=body)
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise ConfigError(
                f"Airflow at {self.url} refuses the user admin ({answer.status_code}): "
                "APEX_AIRFLOW_ADMIN_PASSWORD in .env is not the password it was started with"
            )
        token = None if answer.is_error else self._decoded(answer).get("access_token")
        if not token:
            raise self._not_airflow(answer)
        return str(token)

    def _decoded(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            content = answer.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise self._not_airflow(answer)
        return content

    def _not_airflow(self, answer: httpx.Response) -> ConfigError:
        what = f"{answer.request.method} {answer.request.url.path} is answered with {answer.status_code}"
        return ConfigError(
            f"{self.url} ({self.setting}) is not Airflow: {what} {_reason(answer)!r}. Stop the program that listens"
            f" there, or set {self.setting} in .env; then: make up"
        )

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request, again after a while when nobody answers or the answer takes too long."""
        began, pause = time.monotonic(), 0.2
        while True:
            problem: str
            cause: Exception | None = None
            patience = self.patience
            remedy = "`make status` shows what runs, `make up` starts it"
            try:
                answer = self._http.request(method, path, json=json, params=params, headers=headers)
            except httpx.TimeoutException as error:
                patience, cause = self.slow_patience, error
                problem = f"does not answer {method} {path} in {time.monotonic() - began:.0f} s"
            except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
                problem, cause = f"answers something else than HTTP ({error or type(error).__name__})", error
                remedy = f"stop the program that listens there, or set {self.setting} in .env; then: make up"
            except httpx.TransportError as error:
                problem, cause = f"does not answer ({error or type(error).__name__})", error
            else:
                if not answer.is_server_error and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    return answer
                problem = f"answers {answer.status_code} {_reason(answer)}"
            if time.monotonic() + pause > began + patience:
                raise TransientError(f"Airflow at {self.url} ({self.setting}) {problem}: {remedy}") from cause
            time.sleep(pause)
            pause = min(2.0, pause * 2)


def _reason(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text
    return str(detail)[:300]
