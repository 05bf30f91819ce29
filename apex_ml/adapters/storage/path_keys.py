"""Columns in the names of folders, as Hive and Spark write them: country=PE/month=2026-01/part-0.parquet."""

from __future__ import annotations

from urllib.parse import unquote

from apex_ml.contract.model import Contract
from apex_ml.errors import DataError
from apex_ml.text import folded, visible

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""The value of a folder whose rows have null."""


def path_keys(name: str) -> dict[str, str | None]:
    """The keys in the folders of a file's path, with their values. Raises DataError for a key that repeats.

    >>> path_keys("raw/country=PE/day=__HIVE_DEFAULT_PARTITION__/city=San%20Juan/a=b.parquet")
    {'country': 'PE', 'day': None, 'city': 'San Juan'}
    """
    keys: dict[str, str | None] = {}
    for folder in name.split("/")[:-1]:
        key, separator, value = folder.partition("=")
        if not (key and separator):
            continue
        if (key := unquote(key)) in keys:
            raise DataError(f"{name}: two folders of its path name {visible(key)}; keep one")
        keys[key] = None if value == HIVE_NULL else unquote(value)
    return keys


def column_keys(contract: Contract, name: str) -> dict[str, str | None]:
    """The keys in a file's path that are columns of the contract, or have nearly the name of one."""
    keys = path_keys(name)
    known = {folded(column) for column in contract.file_columns} if keys else set()
    return {key: value for key, value in keys.items() if folded(key) in known}
