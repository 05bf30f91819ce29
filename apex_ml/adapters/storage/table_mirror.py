"""Keep a local copy of one version of a Delta table in an object store: its log, and the files that the log names."""

from __future__ import annotations

from pathlib import Path

from apex_ml.adapters.storage.delta_log import DELTA_LOG, commit_version, is_log_file, read_version
from apex_ml.adapters.storage.mirror import Mirrored, mirror
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.contract.pipeline import Locations
from apex_ml.errors import DataError


def mirror_delta(storage: ObjectStorage, folder: Path, max_bytes: int) -> Mirrored:
    """Make a folder hold the newest version of a Delta table, and nothing else.

    The version is fixed when the log is copied: what a writer commits meanwhile is left for the next call. Raises as
    :func:`~apex_ml.adapters.storage.mirror.mirror` and
    :func:`~apex_ml.adapters.storage.delta_log.read_version` do, and :class:`~apex_ml.errors.DataError` when a file of
    the version is gone.
    """
    log = _names(storage)

    def of_log(key: str) -> bool:
        return key in log or key.startswith(f"{DELTA_LOG}/_sidecars/")

    # files that were copied before stay until the log says which ones are needed
    mirror(storage, folder, max_bytes, lambda key: of_log(key) or (folder / key).is_file())
    version = read_version(folder, storage.url)
    if version is None:
        raise DataError(f"{storage.url}: the log of the Delta table was removed while it was read; run again")
    copied = mirror(storage, folder, max_bytes, lambda key: of_log(key) or key in version.files)
    if missing := sorted(path for path in version.files if not (folder / path).is_file()):
        raise DataError(
            f"{storage.url}: {len(missing)} of {len(version.files)} files of version {version.table.version} are gone,"
            f" such as {missing[0]}: the table was vacuumed while it was read, or they were deleted; run again"
        )
    return copied


def _names(storage: ObjectStorage) -> set[str]:
    """The keys of the log, without the hint at its last checkpoint, which may be newer than this listing."""
    return {file.key for file in storage.list(f"{DELTA_LOG}/") if is_log_file(file.name)}


def mirror_delta_log(locations: Locations, url: str, folder: Path, max_bytes: int) -> None:
    """Make a folder hold the log of a Delta table: its commits, and the newest checkpoint where they begin later."""
    storage = open_objects(locations, f"{url.rstrip('/')}/{DELTA_LOG}")
    names = [file.key for file in storage.list_all("") if is_log_file(file.key)]
    commits = {name for name in names if commit_version(name) is not None}
    kept = set(commits)
    if names and f"{0:020d}.json" not in commits:
        newest = max(set(names) - commits, default="")[:20]
        kept |= {name for name in names if name.startswith(newest)}
    mirror(storage, folder / DELTA_LOG, max_bytes, lambda key: key in kept or key.startswith("_sidecars/"))
