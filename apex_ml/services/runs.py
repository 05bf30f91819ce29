"""Where the outputs of a pipeline's runs are: in a folder, or in an object store with copies on this machine.

An output is what one step of one run wrote. It is complete or absent. :class:`FolderRuns` and
:class:`~apex_ml.services.stored_runs.StoredRuns` implement the port; no other module knows the paths.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from apex_ml.adapters.storage.atomic_writes import new_folder
from apex_ml.adapters.storage.files import map_disk_errors, sha256_of
from apex_ml.adapters.storage.locations import local_folder, refuse_file
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.pipeline import Pipeline
from apex_ml.services.manifest import OutputFile
from apex_ml.settings import Settings

MANIFEST = "manifest.json"
PLACE = "locations.processed"
"""The key of the place of all runs in a pipeline's file."""
GOING = ".pruned.tmp"
"""Ending of the hidden name of a run's folder that is being removed."""


@dataclass(frozen=True)
class RunSize:
    """A run with outputs: its bytes, and when its last step ended. `is_going`: an earlier removal was interrupted."""

    name: str
    bytes: int
    last_used: datetime
    is_going: bool = False


class Runs(Protocol):
    """The outputs of all runs of a pipeline."""

    @property
    def root(self) -> Path:
        """A folder of this machine in which steps work."""
        ...

    def place(self, run: str, step: str) -> str:
        """Where an output is, for messages."""
        ...

    def manifest_place(self, run: str, step: str) -> str:
        """Where the manifest of an output is, for messages."""
        ...

    def manifest(self, run: str, step: str) -> bytes:
        """The manifest of a finished step. Raises FileNotFoundError when it has not finished."""
        ...

    def manifests(self, step: str) -> Mapping[str, bytes]:
        """The manifests of a step in all runs, by run."""
        ...

    def versions(self, step: str) -> frozenset[tuple[str, str]]:
        """Names and states of the manifests of a step: another value means that one was added, changed or removed."""
        ...

    def output(self, run: str, step: str, name: str, files: Mapping[str, OutputFile] | None = None) -> Path:
        """The local path of a file or folder of an output, with the files whose names begin with its stem.

        An empty name is all of the output. `files` are those of its manifest, which is read without it. The path does
        not exist when the output has no such file. A reader must not change the files.
        """
        ...

    def new_output(self, run: str, step: str) -> AbstractContextManager[Path]:
        """Yield a hidden folder that becomes the output when the block succeeds, and is removed otherwise."""
        ...

    def sizes(self) -> list[RunSize]:
        """All runs, by name."""
        ...

    def remove(self, run: RunSize) -> None:
        """Remove a run, invisibly to readers at once. After a kill the next call continues."""
        ...

    def release(self) -> None:
        """Say that this process no longer reads the outputs that it asked for."""
        ...


def open_runs(settings: Settings, pipeline: Pipeline) -> Runs:
    """The runs of a pipeline, without a request. Raises ConfigError when the location cannot be right."""
    url = pipeline.locations.processed
    if not is_object_store(url):
        return FolderRuns(refuse_file(local_folder(url, PLACE), PLACE))
    from apex_ml.services.stored_runs import StoredRuns

    return StoredRuns(settings, pipeline)


def list_files(folder: Path) -> dict[str, OutputFile]:
    """The files below a folder, by their paths from it, without the manifest."""
    return {
        name: OutputFile(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (name := path.relative_to(folder).as_posix()) != MANIFEST
    }


class FolderRuns(Runs):
    """Runs in a folder: ``<run>/<step>/``, each step's folder with its manifest."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """The folder of all runs."""
        return self._root

    def place(self, run: str, step: str) -> str:
        """Path of the folder."""
        return str(self.root / run / step)

    def manifest_place(self, run: str, step: str) -> str:
        """Path of the file."""
        return str(self.root / run / step / MANIFEST)

    def manifest(self, run: str, step: str) -> bytes:
        """Read it."""
        return (self.root / run / step / MANIFEST).read_bytes()

    def manifests(self, step: str) -> dict[str, bytes]:
        """Read all."""
        contents = {}
        for path in self.root.glob(f"*/{step}/{MANIFEST}"):
            with suppress(FileNotFoundError):  # of a run that is being removed
                contents[path.parent.parent.name] = path.read_bytes()
        return contents

    def versions(self, step: str) -> frozenset[tuple[str, str]]:
        """Paths and modification times."""
        paths = self.root.glob(f"*/{step}/{MANIFEST}")
        return frozenset((str(path), str(path.stat().st_mtime_ns)) for path in paths)

    def output(self, run: str, step: str, name: str, files: Mapping[str, OutputFile] | None = None) -> Path:
        """The path itself."""
        return self.root / run / step / name

    @contextmanager
    def new_output(self, run: str, step: str) -> Iterator[Path]:
        """Rename the hidden folder; an output that is there already is kept beside it."""
        with new_folder(self.root / run / step) as partial:
            yield partial

    def sizes(self) -> list[RunSize]:
        """The folders, with the size of all their files."""
        runs = []
        for folder in sorted(p for p in self.root.glob("*") if p.is_dir()):
            is_going = folder.name.startswith(".")
            if is_going and not folder.name.endswith(GOING):
                continue
            name = folder.name.removeprefix(".").removesuffix(GOING) if is_going else folder.name
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            runs.append(RunSize(name, size, _last_used(folder), is_going))
        return runs

    def remove(self, run: RunSize) -> None:
        """Rename its folder to a hidden one, then remove that."""
        folder, going = self.root / run.name, self.root / f".{run.name}{GOING}"
        with map_disk_errors(self.root):
            if going.exists():
                shutil.rmtree(going)
            if not run.is_going:
                folder.rename(going)
                shutil.rmtree(going)

    def release(self) -> None:
        """Nothing is held."""


def _last_used(folder: Path) -> datetime:
    """The time of a run's newest manifest, or of the folder itself without one."""
    times = [path.stat().st_mtime for path in folder.glob(f"*/{MANIFEST}")] or [folder.stat().st_mtime]
    return datetime.fromtimestamp(max(times), UTC)
