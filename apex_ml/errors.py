"""Errors, typed by what the caller can do about them.

The exit codes are the interface between a step's process and its caller (the Airflow operator, a
container, a shell): 10 never retry, 20 retry later, 30 fix the configuration and run again.
"""

from __future__ import annotations

from typing import ClassVar

from apex_ml.text import visible_lines


class ApexError(Exception):
    """Base of every expected failure. Shown to people as one message, without a traceback.

    Names and values in it may hold characters that cannot be seen; they are shown by their numbers.
    """

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """The message."""
        return visible_lines(super().__str__())


class DataError(ApexError):
    """The input is bad: quarantine it or fail. Trying again with the same bytes cannot help."""

    exit_code: ClassVar[int] = 10


class TransientError(ApexError):
    """A service or a resource is missing for the moment: the same call may succeed later."""

    exit_code: ClassVar[int] = 20


class ConfigError(ApexError):
    """A setting, an argument or the contract is wrong: fix it and run again."""

    exit_code: ClassVar[int] = 30
