"""A drop that cannot be scored: its ledger row, its bad rows and its alert in one transaction."""

from __future__ import annotations

import pyarrow as pa

from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.drops import FailedDrop, PostgresDrops
from apex_ml.adapters.postgres.quarantine import PostgresQuarantine, delete_quarantined
from apex_ml.settings import Settings


def fail_drop(
    settings: Settings, schema: str, drop: FailedDrop, run: str = "", bad_rows: pa.Table | None = None
) -> None:
    """Record a drop that cannot be scored with its bad rows, in place of those of an earlier delivery."""
    with bulk_transaction(settings, schema) as session:
        if not PostgresDrops(session).fail(drop, run):
            return
        delete_quarantined(session, "drop", [drop.sha256])
        if bad_rows is not None:
            PostgresQuarantine(session).keep("drop", drop.sha256, drop.name, bad_rows.to_batches())
