"""The proxy to the Docker engine. It lets the step operator run steps, and nothing else.

Only the proxy has the engine's socket. It serves the part of the API that :mod:`step_container` needs. It creates a
container only if image, command, mounts, network and limits are those of a step. It does not inspect, stop or remove
containers that are not steps of this platform. Therefore an attacker who controls Airflow does not control the machine.

It also ends steps without a runner. While a step runs, its runner reads the step's log through the proxy. When that
connection breaks, because the task was killed or its machine failed, the proxy removes the step. A starting proxy
removes the steps of an earlier one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from apex_airflow.runtimes.container import API_VERSION, ENVIRONMENT, LABEL, container_body
from apex_airflow.runtimes.process import StepCommand
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)

SOCKET = "/var/run/docker.sock"
PORT = 2375
CONTAINER = re.compile(r"[0-9a-f]{64}")
READS, ACTS = ("json", "logs"), ("start", "stop", "kill", "wait")


def refusal(settings: Settings, body: dict[str, Any]) -> str | None:
    """Return why a request does not create a container of a step; None when it does.

    >>> command = StepCommand(("elt", "--run", "x"), {"APEX_ORIGIN": "here"}, task="x.elt", seconds=60)
    >>> body = container_body(Settings(), command)
    >>> refusal(Settings(), body) is None
    True
    >>> refusal(Settings(), {**body, "Image": "other"})
    "Image is 'other', not 'apex-ml:latest'"
    """
    command = body.get("Cmd") or []
    step = list(command[3:] if command[:1] == ["timeout"] else command)
    if step[:1] != ["apex"] or len(step) < 2:
        return f"Cmd is {command!r:.200}, not a step of apex"
    variables = dict(line.partition("=")[::2] for line in body.get("Env") or [])
    if strange := set(variables) - ENVIRONMENT:
        return f"Env sets {sorted(strange)}"
    try:
        expected = {**container_body(settings, StepCommand(tuple(step[1:]), variables)), "Cmd": command}
    except ConfigError as error:
        return f"Env: {error}"
    for name in sorted({*body, *expected}):
        if name in ("Env", "Labels"):
            continue
        requested, right = body.get(name), expected.get(name)
        if isinstance(requested, dict) and isinstance(right, dict):
            requested = {key: value for key, value in requested.items() if key not in right or right[key] != value}
            right = {key: value for key, value in expected[name].items() if body[name].get(key) != value}
        if requested != right:
            return f"{name} is {requested!r:.300}, not {right!r:.300}"
    labels = body.get("Labels") or {}
    return None if labels.get(LABEL) == settings.project else f"Labels are {labels!r:.200}"


class DockerProxy:
    """Passes requests about steps on to the engine."""

    def __init__(self, settings: Settings, socket: str = SOCKET) -> None:
        self._settings = settings
        self._label = f"{LABEL}={settings.project}"
        # a step can run for hours without output
        self._engine = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://docker", timeout=httpx.Timeout(None)
        )
        self._background: set[asyncio.Task[None]] = set()

    def app(self) -> Starlette:
        """Return the proxy as a web application."""
        version = f"/v{API_VERSION}/containers"
        return Starlette(
            routes=[
                Route("/_ping", self._ping),
                Route(f"{version}/json", self._list),
                Route(f"{version}/create", self._create, methods=["POST"]),
                Route(f"{version}/{{container}}", self._remove, methods=["DELETE"]),
                Route(f"{version}/{{container}}/{{verb}}", self._verb, methods=["GET", "POST"]),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        content = await self._engine.get(f"/v{API_VERSION}/containers/json", params=self._of_us(all_of_them="1"))
        content.raise_for_status()
        for left in content.json():
            await self._take_down(left["Id"], "an earlier proxy left it")
        yield
        if self._background:
            await asyncio.wait(self._background, timeout=5)
        await self._engine.aclose()

    def _of_us(self, all_of_them: str, *labels: str) -> dict[str, str]:
        return {"all": all_of_them, "filters": json_text({"label": [self._label, *labels]})}

    async def _ping(self, request: Request) -> Response:
        return Response((await self._engine.get("/_ping")).text)

    async def _list(self, request: Request) -> Response:
        requested = json.loads(request.query_params.get("filters") or "{}")
        labels = [label for label in requested.get("label", []) if label != self._label]
        params = self._of_us(request.query_params.get("all", "0"), *labels)
        return _copy(await self._engine.get(request.url.path, params=params))

    async def _create(self, request: Request) -> Response:
        body = await request.json()
        why = refusal(self._settings, body)
        if why is not None:
            logger.warning("refused: %s", why)
            return _no(f"not a step: {why}")
        return _copy(await self._engine.post(request.url.path, params=dict(request.query_params), json=body))

    async def _verb(self, request: Request) -> Response:
        container, verb = request.path_params["container"], request.path_params["verb"]
        if verb not in (READS if request.method == "GET" else ACTS):
            return _no(f"{request.method} {verb}")
        if (stranger := await self._refuse_foreign(container)) is not None:
            return stranger
        if verb == "logs":
            return await self._logs(request, container)
        params = dict(request.query_params)
        return _copy(await self._engine.request(request.method, request.url.path, params=params))

    async def _remove(self, request: Request) -> Response:
        if (stranger := await self._refuse_foreign(request.path_params["container"])) is not None:
            return stranger
        return _copy(await self._engine.delete(request.url.path, params=dict(request.query_params)))

    async def _refuse_foreign(self, container: str) -> Response | None:
        """The answer for a container that does not exist or is not a step of this platform; None for a step."""
        if not CONTAINER.fullmatch(container):
            return _no("a container must be addressed by its full id")
        content = await self._engine.get(f"/v{API_VERSION}/containers/{container}/json")
        if content.status_code != 200:
            return _copy(content)
        labels = content.json()["Config"]["Labels"] or {}
        return None if labels.get(LABEL) == self._settings.project else _no("not a step of this platform")

    async def _logs(self, request: Request, container: str) -> Response:
        follow = request.query_params.get("follow") in ("1", "true", "True")
        call = self._engine.build_request("GET", request.url.path, params=dict(request.query_params))
        answer = await self._engine.send(call, stream=True)

        async def content() -> AsyncIterator[bytes]:
            whole = False
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
                whole = True
            finally:
                if follow and not whole:
                    # a separate task, because this one is being cancelled
                    task = asyncio.create_task(self._take_down(container, "its log has no reader any more"))
                    self._background.add(task)
                    task.add_done_callback(self._background.discard)
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await answer.aclose()

        kept = {"content-type": answer.headers.get("content-type", "application/octet-stream")}
        return StreamingResponse(content(), answer.status_code, headers=kept)

    async def _take_down(self, container: str, why: str) -> None:
        answer = await self._engine.delete(
            f"/v{API_VERSION}/containers/{container}", params={"force": "1", "v": "1"}, timeout=60
        )
        if answer.status_code == 204:
            logger.warning("removed step %s: %s", container[:12], why)


def _copy(answer: httpx.Response) -> Response:
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


def _no(why: str) -> Response:
    return JSONResponse({"message": f"the proxy refuses: {why}"}, 403)


def main() -> None:
    """Serve until the container is stopped."""
    import uvicorn

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    uvicorn.run(DockerProxy(Settings.load()).app(), host="0.0.0.0", port=PORT, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
