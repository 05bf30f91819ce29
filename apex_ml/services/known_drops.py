"""The ledger of known contents in Postgres, for objects of a store and commits of a table."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.drop_objects import PostgresDropObjects
from apex_ml.adapters.storage.notes import Notes, Places
from apex_ml.adapters.storage.waiting import KnownObject
from apex_ml.settings import Settings


class KnownDrops(Notes):
    """The table of known objects; each call is a transaction of its own."""

    def __init__(self, settings: Settings, schema: str) -> None:
        self._settings, self._schema = settings, schema

    @override
    def known(self, places: Places) -> Mapping[str, KnownObject]:
        if not places:
            return {}
        with transaction(self._settings, self._schema) as session:
            return PostgresDropObjects(session).known(places)

    @override
    def note(self, places: Places, sha256: str) -> None:
        with transaction(self._settings, self._schema) as session:
            PostgresDropObjects(session).note(places, sha256)
