"""Answers that are no success: their body, and the exception that makes one."""

from __future__ import annotations

from typing import Any

from apex_ml.json_text import json_text

INTERNAL = ("internal", "an error of the service; its log shows more under the request's id")
CLOSE = ((b"connection", b"close"),)
"""For a request whose body is not read to its end: what still comes is not the next request."""


class Problem(Exception):  # noqa: N818  an answer, not a fault
    """A refusal: status, a short name, what is wrong, and headers."""

    def __init__(self, status: int, error: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status, self.error, self.message, self.headers = status, error, message, headers


def refused(error: str, message: str, request_id: str, **more: Any) -> bytes:
    """The body of an answer that is no success."""
    return json_text({"error": error, "message": message, "request_id": request_id, **more}).encode()
