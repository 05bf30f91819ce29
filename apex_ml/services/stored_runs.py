"""Runs in an object store, with copies of the outputs that this machine wrote or read.

Keys below the location::

    manifests/<step>/<run>.json     written last: with it the output is complete
    runs/<run>/<step>/<id>/…        the files; the id is made of their sha256

Another output of a step gets an id of its own, so that nobody reads files of two. A file is downloaded when a step
needs it, once for a machine, and its sha256 is compared. A killed step leaves files without a manifest: the next try
uploads those that are absent, and `apex prune` removes the rest with the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from apex_ml.adapters.storage.atomic_writes import new_file, scratch_folder, write_atomically
from apex_ml.adapters.storage.copies import Copies, folder_bytes
from apex_ml.adapters.storage.files import digest, map_disk_errors
from apex_ml.adapters.storage.mirror import mirror
from apex_ml.adapters.storage.object_store import CHUNK
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.contract.pipeline import Pipeline
from apex_ml.errors import DataError, TransientError
from apex_ml.faults import reach
from apex_ml.json_text import json_file
from apex_ml.services.manifest import OutputFile
from apex_ml.services.runs import MANIFEST, PLACE, Runs, RunSize, list_files
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)
T = TypeVar("T")
REQUESTS = 8
"""Objects that are read, written or deleted at the same time."""


class StoredRuns(Runs):
    """The runs below ``locations.processed`` of a pipeline."""

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self._locations, self.url = pipeline.locations, pipeline.locations.processed.rstrip("/")
        self._storage = open_objects(self._locations, self.url)
        place = f"{self.url.rpartition('/')[2]}-{digest(self.url)[:12]}"
        self._root = settings.spool / pipeline.name / "processed" / place
        self._copies = Copies(self._root, settings.spool_mb << 20)

    @property
    def root(self) -> Path:
        """Folder of the copies."""
        return self._root

    def place(self, run: str, step: str) -> str:
        """URL of the files."""
        return f"{self.url}/runs/{run}/{step}"

    def manifest_place(self, run: str, step: str) -> str:
        """URL of the manifest."""
        return f"{self.url}/{_manifest_key(run, step)}"

    def manifest(self, run: str, step: str) -> bytes:
        """Read it; an output of this machine that a killed step did not publish is published first."""
        try:
            return self._read(run, step)
        except FileNotFoundError:
            ended = [path for path in (self.root / run / step).glob(f"*/{MANIFEST}") if path.is_file()]
            if not ended:
                raise
            self._publish(run, step, max(ended, key=lambda path: path.stat().st_mtime_ns).parent)
            return self._read(run, step)

    def manifests(self, step: str) -> dict[str, bytes]:
        """Read all: those that changed are downloaded."""
        folder, contents = self.root / ".manifests" / step, {}
        mirror(open_objects(self._locations, f"{self.url}/manifests/{step}"), folder, self._copies.max_bytes)
        for path in folder.glob("*.json"):
            with suppress(FileNotFoundError):  # of a run that is being removed
                contents[path.name.removesuffix(".json")] = path.read_bytes()
        return contents

    def versions(self, step: str) -> frozenset[tuple[str, str]]:
        """Keys and versions, by one request for a thousand runs."""
        return frozenset((file.key, file.version) for file in self._storage.list(f"manifests/{step}/"))

    def output(self, run: str, step: str, name: str, files: Mapping[str, OutputFile] | None = None) -> Path:
        """Download the files that this machine lacks.

        Raises :class:`~apex_ml.errors.DataError` for a file that is not that of its manifest, and for files that are
        larger than APEX_SPOOL_MB.
        """
        if files is None:
            try:
                files = self._files(run, step, self.manifest(run, step))
            except FileNotFoundError:
                return self.root / run / step / "absent" / name
        folder = self._folder(run, step, files)
        self._copies.hold(folder)
        stem = Path(name).stem
        absent = {n: f for n, f in files.items() if n.startswith(stem) and not _is_copy(folder / n, f)}
        if absent:
            needed = sum(file.bytes for file in absent.values())
            self._make_room(run, step, needed)
            _at_once(lambda item: self._download(folder, self._key(run, step, folder, item[0]), *item), absent.items())
            logger.info("output_downloaded from=%s files=%d bytes=%d", self.place(run, step), len(absent), needed)
        return folder / name

    @contextmanager
    def new_output(self, run: str, step: str) -> Iterator[Path]:
        """Move the hidden folder to the copies, upload its files, then the manifest."""
        with scratch_folder(self.root / run, step) as partial:
            yield partial
            files = list_files(partial)
            if not (partial / MANIFEST).exists():
                content = {"step": step, "run": run, "outputs": {name: f.to_json() for name, f in files.items()}}
                write_atomically(partial / MANIFEST, json_file(content))
            folder = self._folder(run, step, files)
            self._copies.hold(folder)
            with map_disk_errors(folder):
                for name in (*files, MANIFEST):  # a file that is there already has the same content
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (partial / name).replace(folder / name)
        reach("output_written")
        self._publish(run, step, folder)
        self._copies.make_room(0)

    def sizes(self) -> list[RunSize]:
        """The runs of the store, and those of which only this machine has something."""
        bytes_of: dict[str, int] = {}
        ended: dict[str, int] = {}
        written: dict[str, int] = {}
        for file in self._storage.list_all(""):
            match file.key.split("/"):
                case ["manifests", _, name]:
                    run, times = name.removesuffix(".json"), ended
                case ["runs", run, *_]:
                    times = written
                case _:
                    continue
            bytes_of[run] = bytes_of.get(run, 0) + file.size
            times[run] = max(times.get(run, 0), file.modified_ns)
        newest = written | ended
        runs = {run: RunSize(run, size, _time(newest[run])) for run, size in bytes_of.items()}
        for folder in self.root.glob("[!.]*"):
            if folder.name not in runs:
                runs[folder.name] = RunSize(folder.name, folder_bytes(folder), _time(folder.stat().st_mtime_ns))
        return [runs[name] for name in sorted(runs)]

    def remove(self, run: RunSize) -> None:
        """Delete its manifests, then its files, then the copies."""
        for step in self._storage.folders("manifests/"):
            self._storage.delete(_manifest_key(run.name, step))
        reach("manifests_deleted")
        _at_once(lambda file: self._storage.delete(file.key), self._storage.list_all(f"runs/{run.name}/"))
        self._copies.remove_below(self.root / run.name)

    def release(self) -> None:
        """Let other processes remove the copies."""
        self._copies.release()

    def _read(self, run: str, step: str) -> bytes:
        with self._storage.open(_manifest_key(run, step)) as file:
            return file.read()

    def _files(self, run: str, step: str, manifest: bytes) -> dict[str, OutputFile]:
        try:
            return {name: OutputFile.from_json(file) for name, file in json.loads(manifest)["outputs"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            place = self.manifest_place(run, step)
            raise DataError(f"{place}: damaged; remove it and run the step again") from error

    def _folder(self, run: str, step: str, files: Mapping[str, OutputFile]) -> Path:
        return self.root / run / step / digest({name: file.sha256 for name, file in files.items()})[:16]

    def _key(self, run: str, step: str, folder: Path, name: str) -> str:
        return f"runs/{run}/{step}/{folder.name}/{name}"

    def _publish(self, run: str, step: str, folder: Path) -> None:
        """Upload the files that the store lacks, then the manifest. A second call changes nothing."""
        manifest = (folder / MANIFEST).read_bytes()
        files = self._files(run, step, manifest)
        there = {file.key: file.size for file in self._storage.list_all(f"runs/{run}/{step}/{folder.name}/")}
        keys = {self._key(run, step, folder, name): name for name in files}
        absent = [key for key, name in keys.items() if there.get(key) != files[name].bytes]

        def upload(key: str) -> None:
            self._storage.put_file(key, folder / keys[key])
            reach("output_file_uploaded")

        _at_once(upload, absent)
        reach("output_uploaded")
        self._storage.put(_manifest_key(run, step), manifest)
        reach("output_published")
        logger.info("output_published to=%s files=%d uploaded=%d", self.place(run, step), len(files), len(absent))

    def _make_room(self, run: str, step: str, needed: int) -> None:
        if needed > self._copies.max_bytes:
            raise DataError(
                f"{self.place(run, step)}: {needed:,} bytes are more than the copies of a pipeline's outputs may have"
                f" ({self._copies.max_bytes:,}: APEX_SPOOL_MB); allow more"
            )
        if not self._copies.make_room(needed):
            raise TransientError(
                f"{self.root}: the copies that running steps read leave no room for {needed:,} bytes"
                f" (limit {self._copies.max_bytes:,}: APEX_SPOOL_MB); wait for them, or allow more"
            )

    def _download(self, folder: Path, key: str, name: str, file: OutputFile) -> None:
        place = self._storage.place(key)
        try:
            with new_file(folder / name) as temporary:
                with self._storage.open(key) as stream, temporary.open("wb") as copy:
                    shutil.copyfileobj(stream, copy, CHUNK)
                with temporary.open("rb") as copy:
                    sha256 = hashlib.file_digest(copy, "sha256").hexdigest()
                if sha256 != file.sha256:
                    raise DataError(f"{place}: is not the file that the step wrote ({PLACE}); run the step again")
        except FileNotFoundError as error:
            raise DataError(f"{place}: is missing ({PLACE}); run the step again") from error
        reach("output_file_downloaded")


def _manifest_key(run: str, step: str) -> str:
    return f"manifests/{step}/{run}.json"


def _is_copy(path: Path, file: OutputFile) -> bool:
    try:
        return path.stat().st_size == file.bytes
    except FileNotFoundError:
        return False


def _time(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)


def _at_once(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Do the work of several requests at the same time. The first error ends it."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
