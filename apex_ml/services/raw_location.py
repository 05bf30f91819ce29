"""The raw files of a pipeline as a local folder, wherever they are."""

from __future__ import annotations

from pathlib import Path

from apex_ml.adapters.storage.files import digest
from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.mirror import mirror
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.adapters.storage.table_mirror import is_delta, mirror_delta
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.pipeline import Locations, PipelineSettings
from apex_ml.errors import DataError
from apex_ml.settings import Settings

PLACE = "locations.raw"
"""The key of the raw files in a pipeline's file."""


def local_raw(settings: Settings, pipeline: PipelineSettings, url: str | None = None) -> Path:
    """The folder of raw files; those of an object store are copied first, as far as they are new.

    `url` is another location than the pipeline's own. Raises as
    :func:`~apex_ml.adapters.storage.mirror.mirror` does, and
    :class:`~apex_ml.errors.DataError` when no object is there.
    """
    url = url or pipeline.locations.raw
    if not is_object_store(url):
        return local_folder(url, PLACE)
    return copied_raw(settings, pipeline.name, pipeline.locations, url)


def copied_raw(settings: Settings, name: str, locations: Locations, url: str) -> Path:
    """The folder of copies of the objects below a URL, for the pipeline of a name. Raises as :func:`local_raw` does."""
    # no folder of one location is inside of that of another
    place = f"{url.rstrip('/').rpartition('/')[2]}-{digest(url.rstrip('/'))[:12]}"
    folder = settings.spool / name / "raw" / place
    storage = open_objects(locations, url)
    copy = mirror_delta if is_delta(storage) else mirror
    if not copy(storage, folder, settings.spool_mb << 20).objects:
        raise DataError(
            f"{PLACE}={url}: there are no objects below it; put parquet files there, or correct the location"
        )
    return folder
