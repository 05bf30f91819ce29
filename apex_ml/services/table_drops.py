"""Open the appends to a table as drops, with the ledger of the commits that were handled."""

from __future__ import annotations

from pathlib import Path

from apex_ml.adapters.postgres.alerts import TABLE_CHANGED, PostgresAlerts
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.table_positions import PostgresTablePositions
from apex_ml.adapters.storage.delta_appends import DeltaAppends
from apex_ml.adapters.storage.iceberg_appends import IcebergAppends
from apex_ml.adapters.storage.local import LocalStorage
from apex_ml.adapters.storage.stores import open_storage
from apex_ml.adapters.storage.table_inbox import TableInbox, TableLedger
from apex_ml.adapters.storage.table_log import Position, TableLog
from apex_ml.adapters.storage.table_mirror import mirror_delta_log
from apex_ml.adapters.storage.waiting import PLACE
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.services.known_drops import KnownDrops
from apex_ml.services.raw_location import spool_place
from apex_ml.settings import Settings


def open_table_inbox(settings: Settings, pipeline: PipelineSettings) -> TableInbox:
    """The appends to the table at a pipeline's location of drops, without a request to it."""
    options, spool_bytes = pipeline.options.scoring, settings.spool_mb << 20
    ledger = _Ledger(settings, pipeline.schema)
    url = pipeline.locations.drops.rstrip("/")
    return TableInbox(_open_log(settings, pipeline, url, spool_bytes), ledger, url, options, spool_bytes)


def _open_log(settings: Settings, pipeline: PipelineSettings, url: str, spool_bytes: int) -> TableLog:
    storage = open_storage(pipeline.locations, url, PLACE)
    if pipeline.options.scoring.source == "iceberg":
        return IcebergAppends(storage, url)

    def log_folder() -> Path:
        if isinstance(storage, LocalStorage):
            return storage.root
        folder = settings.spool / pipeline.name / "drops" / spool_place(url)
        mirror_delta_log(pipeline.locations, url, folder, spool_bytes)
        return folder

    return DeltaAppends(storage, url, log_folder)


class _Ledger(KnownDrops, TableLedger):
    """The tables of known drops and of positions."""

    def position(self, place: str, table_id: str) -> Position | None:
        with transaction(self._settings, self._schema) as session:
            return PostgresTablePositions(session).position(place, table_id)

    def begin(self, place: str, table_id: str, position: Position) -> None:
        with transaction(self._settings, self._schema) as session:
            PostgresTablePositions(session).begin(place, table_id, position)

    def advance(self, place: str, table_id: str, position: Position) -> None:
        with transaction(self._settings, self._schema) as session:
            PostgresTablePositions(session).advance(place, table_id, position)

    def report(self, subject: str, message: str) -> None:
        with transaction(self._settings, self._schema) as session:
            PostgresAlerts(session).raise_alert(TABLE_CHANGED, subject, message)
