"""Manifests: files that list the files of a drop that is a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from apex_ml.errors import DataError
from apex_ml.wording import counted


def listed_in(content: bytes, folder: str, manifest: str) -> dict[str, int | None]:
    """The paths that a manifest lists, from its folder, with the size of each in bytes, where it says so.

    It is JSON, a list of paths or what Redshift writes (``{"entries": [{"url": …, "meta": {"content_length": …}}]}``),
    or text with one path a line. Of a URL the part behind the name of the folder counts. Raises
    :class:`~apex_ml.errors.DataError` for another file, and for a path that leaves the folder.
    """
    try:
        text = content.decode("utf-8-sig")
        entries = _entries(json.loads(text)) if text.lstrip().startswith(("{", "[")) else _lines(text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{folder}: {manifest} cannot be read as a manifest ({type(error).__name__}: {error}); write a JSON list of"
            " paths, or one path a line"
        ) from error
    return {_relative(path, folder, manifest): size for path, size in entries}


def missing_files(sizes: Mapping[str, int | None], present: Mapping[str, int], manifest: str) -> str | None:
    """Why a folder is not complete by its manifest, as :func:`~apex_ml.folder_rule.why_incomplete` says it.

    `present` has the sizes of the files by path. None when every file is there.
    """
    missing = [
        path for path, size in sizes.items() if path not in present or (size is not None and present[path] != size)
    ]
    if not missing:
        return None
    return f"is a folder that waits for {counted(len(missing), 'file')} of its {manifest}, such as {missing[0]}"


def _entries(content: Any) -> list[tuple[str, int | None]]:
    entries = content["entries"] if isinstance(content, dict) else content
    listed: list[tuple[str, int | None]] = []
    for entry in entries:
        if isinstance(entry, str):
            listed.append((entry, None))
        else:
            size = (entry.get("meta") or {}).get("content_length")
            listed.append((entry["url"] + "", None if size is None else int(size)))
    return listed


def _lines(text: str) -> list[tuple[str, int | None]]:
    return [(line.strip(), None) for line in text.splitlines() if line.strip()]


def _relative(path: str, folder: str, manifest: str) -> str:
    if "://" in path:
        path = unquote(urlsplit(path).path)
        last = f"/{folder.rpartition('/')[2]}/"
        path = path.rpartition(last)[2] if last in path else path.rpartition("/")[2]
    path = path.removeprefix("./")
    if path.startswith("/") or not path or any(part in ("", "..") for part in path.split("/")):
        raise DataError(f"{folder}: {manifest} lists {path!r}, which is no path below the folder; correct it")
    return path
