"""The folders of the pipelines' data. Those of a home of the first edition move below the pipeline that owns them.

``data/raw`` becomes ``data/<pipeline>/raw``. The old name stays as a link: manifests of older runs hold paths with it,
and so do the programs that deliver drops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from apex_ml.adapters.storage.files import map_disk_errors
from apex_ml.contract.pipeline import Pipeline
from apex_ml.errors import ApexError, ConfigError, TransientError
from apex_ml.pipeline_settings import former_pipeline
from apex_ml.pipelines import usable_pipelines
from apex_ml.services.inboxes import open_inbox
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)
DATA = ("raw", "processed", "drops")
DATA_DOCS = "great_expectations"


def make_data_folders(settings: Settings, pipeline: Pipeline) -> None:
    """Create the folders of drops and raw files of a pipeline, except a configured folder of raw files.

    Of an object store it is only tried whether drops can be moved there. One that does not answer now stops nothing.
    The first look at a table is noted in Postgres, which may not run yet: see :func:`begin_tables`.
    """
    try:
        if not pipeline.drops_are_appends:
            open_inbox(settings, pipeline).prepare()
    except TransientError as error:
        logger.warning("inbox_unavailable pipeline=%s reason=%s", pipeline.name, error)
    if not pipeline.options.locations.raw:
        raw = Path(pipeline.locations.raw)
        with map_disk_errors(raw.parent):
            raw.mkdir(parents=True, exist_ok=True)


def begin_tables(settings: Settings, say: Callable[[str], None]) -> None:
    """Note the version of each table whose appends are drops, so that every later append is one.

    A table that cannot be read now stops nothing: the first step that can read it does it.
    """
    for pipeline in usable_pipelines(settings)[0]:
        if not pipeline.drops_are_appends:
            continue
        try:
            open_inbox(settings, pipeline).prepare()
        except ApexError as error:
            say(f"{pipeline.name}: its table of drops cannot be read yet: {error}")


def has_former_folders(settings: Settings) -> bool:
    """Whether a folder of the first edition is still in its old place, or its move was interrupted."""
    return any(True for _ in _pending(settings))


def move_former_folders(settings: Settings) -> list[str]:
    """Move the folders of the first edition, and return a line for each moved one. Nothing may use them meanwhile.

    A folder that has no file is removed. A killed call can be repeated. Raises
    :class:`~apex_ml.errors.ConfigError`, before any change, where it is unclear which pipeline they belong to, or when
    the folder of the pipeline has files, too.
    """
    pending = list(_pending(settings))
    if not pending:
        return []
    name = former_pipeline(settings)
    if name is None:
        raise ConfigError(
            f"{pending[0]}: is of the first edition, and there are several pipelines: name the one that owns it in"
            f" {settings.env_file}, APEX_PIPELINE=…"
        )
    moves = [(old, _new_place(settings, old, name)) for old in pending]
    for old, new in moves:
        if old.exists() and _has_files(old) and _has_files(new):
            raise ConfigError(
                f"{old}: is of the first edition, and {new} has files, too: move its files, then remove it"
            )
    lines = []
    for old, new in moves:
        with map_disk_errors(new.parent):
            if _move(old, new, is_linked=old.name in DATA):
                lines.append(f"Moved {old} to {new}")
    return lines


def _pending(settings: Settings) -> Iterator[Path]:
    """Folders of the first edition that are in the home, or whose link is not in place yet."""
    for name in DATA:
        old = settings.home / "data" / name
        if (old.is_dir() and not old.is_symlink()) or (_link(old).is_symlink() and not old.is_symlink()):
            yield old
    docs = settings.state / DATA_DOCS
    if (docs / "great_expectations.yml").exists() or _between(docs).exists():
        yield docs


def _new_place(settings: Settings, old: Path, pipeline: str) -> Path:
    if old.name == DATA_DOCS:
        return old / pipeline
    return old.parent / pipeline / old.name


def _link(old: Path) -> Path:
    """The prepared link, which takes the old name once the folder has moved."""
    return old.with_name(f".{old.name}.link")


def _between(old: Path) -> Path:
    """The name of a folder on its way to a place below its own old name."""
    return old.with_name(f"{old.name}.moving")


def _has_files(folder: Path) -> bool:
    return any(not path.is_dir() or path.is_symlink() for path in folder.rglob("*"))


def _move(old: Path, new: Path, *, is_linked: bool) -> bool:
    """Move one folder; whether it had files."""
    if not is_linked:  # below itself: by a name between
        if not _between(old).exists():
            old.rename(_between(old))
        old.mkdir(exist_ok=True)
        _between(old).rename(new)
        return True
    had_files = not old.exists() or _has_files(old)
    if had_files:
        new.parent.mkdir(parents=True, exist_ok=True)
        link = _link(old)
        link.unlink(missing_ok=True)
        link.symlink_to(Path(new.parent.name) / new.name, target_is_directory=True)
        if old.exists():
            _remove_empty(new)
            old.rename(new)
        link.rename(old)
    else:
        _remove_empty(old)
    return had_files


def _remove_empty(folder: Path) -> None:
    """Remove a folder that has no file."""
    if folder.is_dir():
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir()
        folder.rmdir()
