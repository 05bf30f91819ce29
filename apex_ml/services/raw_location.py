"""The raw files of a pipeline as a local folder, wherever they are."""

from __future__ import annotations

from pathlib import Path

from apex_ml.adapters.storage.files import digest
from apex_ml.adapters.storage.local import LocalStorage
from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.mirror import mirror
from apex_ml.adapters.storage.stores import open_objects, open_storage
from apex_ml.adapters.storage.table_files import table_format
from apex_ml.adapters.storage.table_mirror import mirror_delta
from apex_ml.adapters.storage.table_packages import load_pyiceberg
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.pipeline import Locations, PipelineSettings
from apex_ml.errors import DataError
from apex_ml.settings import Settings

PLACE = "locations.raw"
"""The key of the raw files in a pipeline's file."""
NO_PIPELINE = "apex"
"""The place of the copies of commands that know no pipeline. No pipeline can have this name."""


def local_raw(settings: Settings, pipeline: PipelineSettings, url: str | None = None) -> Path:
    """The folder of raw files; those of an object store are copied first, as far as they are new.

    `url` is another location than the pipeline's own. Raises as
    :func:`~apex_ml.adapters.storage.mirror.mirror` does, and
    :class:`~apex_ml.errors.DataError` when no object is there.
    """
    url = url or pipeline.locations.raw
    return copied_raw(settings, pipeline.name, pipeline.locations, url) if is_copied(url) else local_folder(url, PLACE)


def local_table(settings: Settings, place: str, name: str = NO_PIPELINE) -> tuple[Path, str | None]:
    """A table that a command names, as a local file or folder, and its URL or path where its rows are read from copies.

    The copies are those of the pipeline of the name, so that its first night downloads nothing. Raises as
    :func:`local_raw` does.
    """
    url = place if is_object_store(place) else str(Path(place).absolute())
    if is_copied(url):
        return copied_raw(settings, name, Locations(url, "", "", env_file=settings.env_file), url), url
    return Path(place), None


def is_copied(url: str) -> bool:
    """Whether the raw files of a location are read from copies: those of a store, and the rows of Iceberg tables."""
    return is_object_store(url) or table_format(LocalStorage(local_folder(url, PLACE))) == "iceberg"


def copied_raw(settings: Settings, name: str, locations: Locations, url: str) -> Path:
    """The folder of the copies of a location, for the pipeline of a name. Raises as :func:`local_raw` does."""
    folder, max_bytes = settings.spool / name / "raw" / spool_place(url), settings.spool_mb << 20
    storage = open_storage(locations, url, PLACE)
    if (kind := table_format(storage)) == "iceberg":
        load_pyiceberg(f"{PLACE}={url}: an Iceberg table")
        from apex_ml.adapters.storage.iceberg_raw import copy_iceberg  # its package is an extra

        copy_iceberg(storage, url.rstrip("/"), folder, max_bytes)
        return folder
    objects = open_objects(locations, url)
    copied = (mirror_delta if kind == "delta" else mirror)(objects, folder, max_bytes)
    if not copied.objects:
        raise DataError(
            f"{PLACE}={url}: there are no objects below it; put parquet files there, or correct the location"
        )
    return folder


def spool_place(url: str) -> str:
    """The name of the folder of a location's copies; no folder of one location is inside of that of another."""
    return f"{url.rstrip('/').rpartition('/')[2]}-{digest(url.rstrip('/'))[:12]}"
