"""Open the inbox of a pipeline: a folder, an object store with the ledger of known objects, or a table."""

from __future__ import annotations

from datetime import datetime

from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.drop_objects import PostgresDropObjects
from apex_ml.adapters.storage.drops import Inbox
from apex_ml.adapters.storage.inboxes import DropInbox
from apex_ml.adapters.storage.local import LocalStorage
from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.object_inbox import ObjectInbox, ObjectLedger
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.adapters.storage.table_files import refuse_table
from apex_ml.adapters.storage.waiting import PLACE
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.services.known_drops import KnownDrops
from apex_ml.services.table_drops import open_table_inbox
from apex_ml.settings import Settings


def open_inbox(settings: Settings, pipeline: PipelineSettings) -> DropInbox:
    """The inbox of a pipeline, without a request to it."""
    url = pipeline.locations.drops
    if pipeline.drops_are_appends:
        return open_table_inbox(settings, pipeline)
    if not is_object_store(url):
        refuse_table(LocalStorage(local_folder(url, PLACE)), url, PLACE)
        return Inbox(pipeline)
    storage = open_objects(pipeline.locations, url)
    ledger = _Ledger(settings, pipeline.schema)
    return ObjectInbox(storage, ledger, pipeline.options.scoring, settings.spool_mb << 20)


class _Ledger(KnownDrops, ObjectLedger):
    """The tables of known objects and of listings."""

    def mark(self, place: str) -> tuple[str, datetime] | None:
        with transaction(self._settings, self._schema) as session:
            return PostgresDropObjects(session).mark(place)

    def set_mark(self, place: str, mark: str, full_at: datetime) -> None:
        with transaction(self._settings, self._schema) as session:
            PostgresDropObjects(session).set_mark(place, mark, full_at)
