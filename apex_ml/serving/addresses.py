"""Whose route a path is: one of the process, or one of a pipeline under ``/<pipeline>``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OTHER = "other"
"""The route of a path that no route has: a path may hold anything, so it is neither logged nor counted."""


@dataclass(frozen=True)
class Address:
    """A path, taken apart."""

    pipeline: str
    """The pipeline that the route belongs to; empty for a route of the process."""
    path: str
    """The path without the pipeline."""
    route: str
    """The same path if it is a route, else "other"."""


class Addresses:
    """The routes of a service. Those of its only pipeline are also there without its name.

    >>> addresses = Addresses(("claims", "flights"), None, {"/predict"}, {"/ready"})
    >>> addresses.find("/claims/predict")
    Address(pipeline='claims', path='/predict', route='/predict')
    >>> addresses.find("/predict").route, addresses.find("/ready").route, addresses.find("/claims/x").route
    ('other', '/ready', 'other')
    """

    def __init__(
        self, names: Iterable[str], only: str | None, of_pipeline: Iterable[str], of_process: Iterable[str]
    ) -> None:
        self._names, self._only = frozenset(names), only
        self._of_pipeline, self._of_process = frozenset(of_pipeline), frozenset(of_process)

    def find(self, path: str) -> Address:
        """The address of a path."""
        _, _, rest = path.partition("/")
        first, slash, rest = rest.partition("/")
        if first in self._names:
            inner = slash + rest
            return Address(first, inner, inner if inner in self._of_pipeline else OTHER)
        if path in self._of_process:
            return Address("", path, path)
        if self._only is not None:
            return Address(self._only, path, path if path in self._of_pipeline else OTHER)
        return Address("", path, OTHER)
