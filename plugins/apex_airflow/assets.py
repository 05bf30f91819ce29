"""The assets. Each is declared only here.

Declaring an asset a second time without its watcher makes Airflow drop and restart the trigger at every parse.
"""

from __future__ import annotations

from airflow.sdk import Asset, AssetWatcher

from apex_airflow.inbox import inbox_folder
from apex_airflow.triggers.drops import DropTrigger
from apex_ml.contract.pipeline import PipelineSettings

CHAMPION = Asset(name="orders_champion", group="apex")
"""A new champion. The event only starts a DAG; the steps read the version from the ledger."""

SCORED = Asset(name="orders_scored", group="apex")
"""A run of orders_score has scored something. This event only starts a DAG, too."""


def inbox(pipeline: PipelineSettings) -> Asset:
    """Return the asset of waiting drops, with a watcher when the inbox is a local folder.

    A remote inbox (``s3://…``) has no watcher; the sweep of orders_score finds its drops.
    """
    folder = inbox_folder(pipeline.locations.drops)
    if folder is None:
        return Asset(name="orders_inbox", group="apex")
    trigger = DropTrigger(inbox=folder, poll_seconds=pipeline.options.scoring.poll_seconds)
    return Asset(
        name="orders_inbox", group="apex", watchers=[AssetWatcher(name="orders_inbox_watcher", trigger=trigger)]
    )
