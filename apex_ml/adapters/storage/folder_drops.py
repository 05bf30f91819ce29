"""A drop that is a folder: its state, its data files, and its identity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from apex_ml.adapters.storage.drop_manifest import listed_in, missing_files
from apex_ml.adapters.storage.files import map_os_errors, name_errors, sha256_of
from apex_ml.adapters.storage.inboxes import Part
from apex_ml.adapters.storage.raw_folder import walk_files
from apex_ml.adapters.storage.storage import StoredFile
from apex_ml.adapters.storage.waiting import Waiting
from apex_ml.contract.scoring_options import FolderRule
from apex_ml.errors import DataError
from apex_ml.folder_rule import files_in, why_incomplete


def local_files(folder: Path) -> list[StoredFile]:
    """All files of a local folder, by their paths from there."""
    with map_os_errors(folder):
        files = files_in(folder)
    return [
        StoredFile(key, file.size, f"{file.modified_ns:x}-{file.size:x}", file.modified_ns, file.arrived_ns)
        for key, file in files.items()
    ]


def folder_state(folder: Path, name: str) -> Waiting:
    """The current state of a local folder. Raises FileNotFoundError when it is gone."""
    return Waiting.of_folder(name, local_files(folder))


def why_not(
    rule: FolderRule, name: str, files: Sequence[StoredFile], read: Callable[[str], bytes], now: float
) -> str | None:
    """Why a folder with these files, whose keys are paths from there, is no complete drop; None when it is.

    `read` returns the content of one of the files. The text is the rest of a sentence that begins with the name.
    """
    sizes = {file.key: file.size for file in files}
    why = why_incomplete(rule, sizes, max((file.arrived_ns for file in files), default=0) / 1e9, now)
    if why is not None or rule.complete != "manifest":
        return why
    try:
        return missing_files(listed_in(read(rule.file), name, rule.file), sizes, rule.file)
    except FileNotFoundError:
        return why_incomplete(rule, set(sizes) - {rule.file}, 0, now)
    except DataError as error:  # it may be half written: a person sees it, and nothing is moved
        return f"is a folder that cannot be scored: {str(error).removeprefix(f'{name}: ')}"


def parts_in(folder: Path, name: str, rule: FolderRule, columns: Collection[str] = ()) -> tuple[Part, ...]:
    """The data files of a local folder, sorted by name; with a manifest exactly those that it lists.
    A file with the name of the marker is none.

    `name` is that of the drop: its last folders such as dt=2026-01-01 are columns, too, and begin the names of the
    parts. Raises :class:`~apex_ml.errors.DataError` for a folder without data, with links that lead out of it, or with
    a table's log that cannot be read.
    """
    with map_os_errors(folder):
        files = walk_files(folder, columns)
    above = keys_above(name)
    if files.links:
        link, target = next(iter(files.links.items()))
        raise DataError(f"{name}: {link} is a link to {target}; deliver a folder that holds its files itself")
    by_name = {files.name(path): path for path in files.files}
    by_name.pop(rule.file, None)  # it may be visible
    if rule.complete == "manifest":
        by_name = _of_manifest(folder, name, rule.file, by_name)
    if not by_name:
        raise DataError(f"{name}: no data files are in this folder; deliver parquet files in it{files.why_left_out()}")
    return tuple(Part(path, f"{above}{part}") for part, path in sorted(by_name.items()))


def keys_above(name: str) -> str:
    """The last folders of a drop's name that name columns, as the beginning of the names of its parts.

    >>> keys_above("incoming/country=PE/dt=2026-01-01"), keys_above("dt=1/sales")
    ('country=PE/dt=2026-01-01/', '')
    """
    folders = name.split("/")
    first = len(folders)
    while first and folders[first - 1].partition("=")[0] and "=" in folders[first - 1]:
        first -= 1
    return "".join(f"{folder}/" for folder in folders[first:])


def identity(parts: Iterable[Part]) -> str:
    """Sha256 of the lines that ``sha256sum`` writes about the parts, sorted by name.

    Raises as :func:`~apex_ml.adapters.storage.files.open_file` does, and FileNotFoundError for a part that is gone.
    """
    digest = hashlib.sha256()
    for part in parts:
        with name_errors(part.path, part.name):
            digest.update(f"{sha256_of(part.path)}  {part.name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _of_manifest(folder: Path, name: str, manifest: str, present: dict[str, Path]) -> dict[str, Path]:
    sizes = listed_in((folder / manifest).read_bytes(), name, manifest)
    if missing := sorted(set(sizes) - set(present)):
        raise DataError(f"{name}: {manifest} lists {missing[0]}, which is no data file of the folder; deliver it again")
    return {part: path for part, path in present.items() if part in sizes}
