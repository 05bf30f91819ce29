"""The packages of Delta and Iceberg, which are an extra: nothing of them is imported before a table needs it."""

from __future__ import annotations

from typing import Any

from apex_ml.errors import ConfigError

INSTALL = "pip install 'apex-ml[tables]'"
"""Command that installs the extra, 180 MB."""


def load_deltalake(what: str) -> Any:
    """The package deltalake. `what` begins the error: the table, and what needs the package.

    Raises :class:`~apex_ml.errors.ConfigError` with the command that installs it.
    """
    try:
        import deltalake
    except ImportError as error:
        raise ConfigError(f"{what} needs the package deltalake, which is not installed: {INSTALL}") from error
    return deltalake


def load_pyiceberg(what: str) -> None:
    """Raise :class:`~apex_ml.errors.ConfigError` when the package pyiceberg is not installed."""
    try:
        import pyiceberg.table  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{what} needs the package pyiceberg, which is not installed: {INSTALL}") from error
