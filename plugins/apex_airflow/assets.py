"""The assets of a pipeline. Each is declared only here, once for all DAG files.

Declaring an asset a second time without its watcher makes Airflow drop and restart the trigger at every parse.
"""

from __future__ import annotations

from airflow.sdk import Asset, AssetWatcher

from apex_airflow.inbox import inbox_folder
from apex_airflow.triggers.drops import DropTrigger
from apex_ml.contract.pipeline import PipelineSettings


def champion(pipeline: PipelineSettings) -> Asset:
    """Return the asset of a new champion. Its event only starts a DAG; the steps read the version from the ledger."""
    return Asset(name=pipeline.asset_name("champion"), group="apex")


def scored(pipeline: PipelineSettings) -> Asset:
    """Return the asset of scored drops: a run of ``<pipeline>_score`` scored something. Its event only starts a DAG."""
    return Asset(name=pipeline.asset_name("scored"), group="apex")


def inbox(pipeline: PipelineSettings) -> Asset:
    """Return the asset of waiting drops, with a watcher when the inbox is a local folder.

    A remote inbox (``s3://…``) has no watcher; the sweep of ``<pipeline>_score`` finds its drops.
    """
    name = pipeline.asset_name("inbox")
    folder = inbox_folder(pipeline.locations.drops)
    if folder is None:
        return Asset(name=name, group="apex")
    trigger = DropTrigger(inbox=folder, poll_seconds=pipeline.options.scoring.poll_seconds)
    return Asset(name=name, group="apex", watchers=[AssetWatcher(name=f"{name}_watcher", trigger=trigger)])
