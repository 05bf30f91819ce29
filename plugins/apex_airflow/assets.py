"""The assets of a pipeline. Each is declared only here, once for all DAG files.

Declaring an asset a second time without its watcher makes Airflow drop and restart the trigger at every parse.
"""

from __future__ import annotations

from dataclasses import asdict

from airflow.sdk import Asset, AssetWatcher
from airflow.triggers.base import BaseEventTrigger

from apex_airflow.inbox import inbox_folder, local_path
from apex_airflow.triggers.drops import DropTrigger
from apex_airflow.triggers.objects import ObjectTrigger
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.contract.scoring_options import FolderRule

LOG_FOLDERS = {"delta": "_delta_log", "iceberg": "metadata"}
"""The folder of a table in which each commit leaves a file, by the format of the table."""

NO_FOLDERS = asdict(FolderRule("never"))


def champion(pipeline: PipelineSettings) -> Asset:
    """Return the asset of a new champion. Its event only starts a DAG; the steps read the version from the ledger."""
    return Asset(name=pipeline.asset_name("champion"), group="apex")


def scored(pipeline: PipelineSettings) -> Asset:
    """Return the asset of scored drops: a run of ``<pipeline>_score`` scored something. Its event only starts a DAG."""
    return Asset(name=pipeline.asset_name("scored"), group="apex")


def inbox(pipeline: PipelineSettings) -> Asset:
    """Return the asset of waiting drops, with a watcher of the folder or of the object store.

    A location of another kind has no watcher, and is refused by the steps.
    """
    name = pipeline.asset_name("inbox")
    trigger = _trigger(pipeline)
    if trigger is None:
        return Asset(name=name, group="apex")
    return Asset(name=name, group="apex", watchers=[AssetWatcher(name=f"{name}_watcher", trigger=trigger)])


def _trigger(pipeline: PipelineSettings) -> BaseEventTrigger | None:
    scoring, drops = pipeline.options.scoring, pipeline.locations.drops
    if scoring.source != "files":  # each commit adds files to the folder of the table's own
        return _folder_trigger(pipeline, f"{drops.rstrip('/')}/{LOG_FOLDERS[scoring.source]}")
    rule = scoring.folder_rule(kept=is_object_store(drops) and scoring.after == "keep")
    folders = asdict(rule)
    if is_object_store(drops):
        return ObjectTrigger(
            pipeline=pipeline.name,
            inbox=drops if scoring.after == "keep" else f"{drops.rstrip('/')}/inbox",
            poll_seconds=scoring.poll_seconds,
            deep=scoring.after == "keep" or rule.complete != "never",
            ascending=scoring.ascending_keys,
            events=scoring.events,
            folders=folders,
        )
    folder = inbox_folder(drops)
    return None if folder is None else DropTrigger(folder, scoring.poll_seconds, folders)


def _folder_trigger(pipeline: PipelineSettings, place: str) -> BaseEventTrigger | None:
    """The trigger for new files directly in a folder or below a prefix."""
    scoring = pipeline.options.scoring
    if is_object_store(place):
        return ObjectTrigger(
            pipeline=pipeline.name,
            inbox=place,
            poll_seconds=scoring.poll_seconds,
            deep=False,
            ascending=False,
            folders=NO_FOLDERS,
            events=scoring.events,
        )
    folder = local_path(place)
    return None if folder is None else DropTrigger(folder, scoring.poll_seconds, NO_FOLDERS)
