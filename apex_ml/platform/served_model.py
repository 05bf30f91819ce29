"""Whether the online service answers with the champion of a pipeline, or still with a former one, and why."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.settings import Settings

TIMEOUT = 5.0
MAX_BYTES = 1 << 20
POLL_SECONDS = 0.5
FOLLOWS_WITHIN = 15.0
"""Seconds within which the service loads a new champion."""


def former_model(
    settings: Settings, pipeline: PipelineSettings, champion: int, patience: float = FOLLOWS_WITHIN
) -> str | None:
    """Why the online service does not answer with the champion, and the remedy; None when it does.

    Waits while the service may be loading the champion. A service that is off, or does not answer, is no fault here:
    the table of services shows it.
    """
    until = time.monotonic() + patience
    while settings.serving:
        state = _state(settings, pipeline.name)
        if state is None or state.get("model_version") == champion:
            return None
        problems = [str(problem) for problem in state.get("problems", ())]
        loading = [problem for problem in problems if problem.startswith(f"version {champion} ")]
        if loading or time.monotonic() > until:
            return _described(settings, champion, state.get("model_version"), loading or problems)
        time.sleep(POLL_SECONDS)
    return None


def _described(settings: Settings, champion: int, version: int | None, problems: list[str]) -> str:
    answers = f"still answers with version {version}" if version is not None else "does not answer with a model"
    why = f" ({'; '.join(problems)})" if problems else ""
    remedy = "RUNTIME=docker make up" if settings.runtime == "docker" else "apex up"
    return f"online service: {answers}, and the champion is version {champion}{why}; remedy: `{remedy}`"


def _state(settings: Settings, name: str) -> dict[str, Any] | None:
    """What /ready reports of a pipeline; empty of one that the service does not know, None when it does not answer."""
    # no proxy: the service is on this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{settings.serving_url}/{name}/ready", timeout=TIMEOUT) as answer:
            body = answer.read(MAX_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.client.NOT_FOUND:  # started before there was this pipeline, or another program
                return {} if "X-Request-Id" in error.headers else None
            body = error.read(MAX_BYTES)
    except (OSError, http.client.HTTPException):
        return None
    try:
        state = json.loads(body)
    except ValueError:
        return None
    return state if isinstance(state, dict) and "model_version" in state else None
