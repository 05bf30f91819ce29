"""Which drops have a known content where nothing can be renamed: objects of a store, commits of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from apex_ml.adapters.storage.storage import StoredFile
from apex_ml.adapters.storage.waiting import KnownObject

Places = Sequence[tuple[str, StoredFile]]
"""URLs with their objects."""


class Notes(Protocol):
    """The ledger of known contents."""

    def known(self, places: Places) -> Mapping[str, KnownObject]:
        """Of these URLs and objects the known ones, by URL."""
        ...

    def note(self, places: Places, sha256: str) -> None:
        """Note the content of the objects of a drop that was scored or refused."""
