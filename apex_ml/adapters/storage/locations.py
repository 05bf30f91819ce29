"""Locations of data: the folder that a setting names."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from apex_ml.errors import ConfigError

_ONE_SLASH = re.compile(r"(?:s3a?|gs|gcs|az|azure|abfss?):/(?!/)")


def local_folder(url: str, setting: str) -> Path:
    """Turn a location into a folder path.

    Raises :class:`~apex_ml.errors.ConfigError` for a scheme that this version cannot open, naming the setting.
    """
    if _ONE_SLASH.match(url):
        raise ConfigError(f"{setting}={url}: the URL of an object store has two slashes, {url.replace(':/', '://', 1)}")
    parsed = urlparse(url)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    if "://" in url:
        raise ConfigError(
            f"{setting}={url}: the scheme {parsed.scheme}:// is not supported here; use a folder or file://"
        )
    return Path(url).absolute()


def refuse_file(folder: Path, setting: str) -> Path:
    """The folder itself. Raises :class:`~apex_ml.errors.ConfigError` when it, or a folder above it, is a file."""
    if (file := file_at(folder)) is not None:
        raise ConfigError(f"{setting}={folder}: {file} is a file, no folder; {folder_remedy(setting, file)}")
    return folder


def file_at(folder: Path) -> Path | None:
    """The file at the path of a folder, or above it; None without one."""
    return next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)


def folder_remedy(setting: str, file: Path) -> str:
    """What to do about a file where a folder should be."""
    return f"set {setting} to a folder, such as {file.parent}"
