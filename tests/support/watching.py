"""Run a trigger while things happen, and note what it announces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from airflow.triggers.base import BaseEventTrigger


def watch(trigger: BaseEventTrigger, pause: float, *acts: Callable[[], Any]) -> list[list[str]]:
    """Run a trigger of drops; after each act wait `pause` seconds. Return the names announced after each act."""

    async def scene() -> list[list[str]]:
        announced: list[str] = []
        received: list[list[str]] = []

        async def listen() -> None:
            async for event in trigger.run():
                assert event.payload["count"] >= len(event.payload["files"])
                announced.extend(event.payload["files"])

        listener = asyncio.create_task(listen())
        for act in acts:
            announced.clear()
            await asyncio.to_thread(act)
            await asyncio.sleep(pause)
            assert not listener.done(), listener.exception()
            received.append(list(announced))
        listener.cancel()
        return received

    return asyncio.run(scene())
