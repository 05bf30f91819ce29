"""Google Cloud Storage for tests: a translation in front of a server of S3, not Google's own server.

It speaks what obstore uses of Google's XML API: conditions on a generation, copies by ``x-goog-copy-source`` and
generations in answers. Names and headers are translated, and the objects are those of the server behind it. What Google
does otherwise than S3 beyond that (its errors, its limits, its logins) is not in it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import quote, unquote

from tests.support.object_servers import KEY, ObjectServer
from tests.support.passing_server import Answer, PassingHandler, passing

TRANSLATED = {"x-goog-copy-source": "x-amz-copy-source"}
CREDENTIAL = f"{KEY}/20260101/us-east-1/s3/aws4_request"
LOGIN = {"Authorization": f"AWS4-HMAC-SHA256 Credential={CREDENTIAL}, SignedHeaders=host, Signature=0"}
"""moto does not check a signature."""


class _Google(PassingHandler):
    copying: threading.Lock

    def respond(self, body: bytes) -> None:
        headers = {TRANSLATED.get(name.lower(), name): value for name, value in self.headers.items()}
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"} | LOGIN
        self.path = _as_s3(self.path)
        if source := headers.get("x-amz-copy-source"):
            headers["x-amz-copy-source"] = _as_s3(source)
        must_be_absent = headers.pop("x-goog-if-generation-match", None) == "0"
        if "x-amz-copy-source" in headers:
            with self.copying:  # a server of S3 copies without a condition
                if must_be_absent and self.ask("HEAD", self.path, b"", LOGIN).status == 200:
                    return self.answer(Answer(412, [], b""))
                return self.answer(self.ask(self.command, self.path, body, headers))
        if must_be_absent:
            headers["If-None-Match"] = "*"
        answer = self.ask(self.command, self.path, body, headers)
        etag = {name.lower(): value for name, value in answer.headers}.get("etag", "")
        if etag:
            generation = int(hashlib.sha256(etag.encode()).hexdigest()[:12], 16)
            answer = replace(answer, headers=[*answer.headers, ("x-goog-generation", str(generation))])
        return self.answer(answer)


def _as_s3(path: str) -> str:
    """The same path as clients of S3 write it."""
    plain, mark, query = path.partition("?")
    return quote(unquote(plain)) + mark + query


@contextmanager
def google_front(server: ObjectServer) -> Iterator[ObjectServer]:
    """The bucket of a server of S3 as one of Google."""
    with passing(type("Handler", (_Google,), {"copying": threading.Lock()}), server) as front:
        yield replace(front, name="google", scheme="gs")
