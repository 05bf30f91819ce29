"""Turn the errors of an object store into errors that name the object and the remedy, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import (
    BaseError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)

from apex_ml.contract.locations import scheme_of
from apex_ml.errors import ConfigError, DataError, TransientError

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""The usual variables of a login, by scheme."""
LONGEST = 300
_QUERY = re.compile(r"\?\S*")
_BAD_KEY = re.compile(r'invalid path: (?:Error parsing )?Path (".*?")')
_LOGIN = re.compile(r"//[^/@\s]*@")
_STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")
_REFUSED = re.compile(r"status code: 40[13]")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_NO_LOGIN = re.compile(r"//169\.254\.|metadata\.google\.internal|CredentialsNotLoaded|[Cc]redential")
"""The store asked the machine for a role, as nothing else gave a login."""


class StoreUnavailableError(TransientError):
    """An object store does not answer, or not with what was asked for; it may later."""


@contextmanager
def map_store_errors(url: str) -> Iterator[None]:
    """Turn an error of obstore about an object or a prefix into one that names it.

    An absent object is FileNotFoundError; refused access is :class:`~apex_ml.errors.ConfigError`; a key that is no
    path is :class:`~apex_ml.errors.DataError`; everything else may pass and is :class:`StoreUnavailableError`.
    """
    try:
        yield
    except (BaseError, FileNotFoundError, PermissionError) as error:
        raise _named(url, error) from error


def _named(url: str, error: Exception) -> Exception:
    whole, text = str(error), error_text(error)
    if "NoSuchBucket" in whole or "ContainerNotFound" in whole:
        return ConfigError(f"{url}: there is no such bucket; create it, or correct the location")
    if (path := _BAD_KEY.search(whole)) is not None:
        return DataError(
            f"{url}: the key {path[1]} is no path, and while it is there nothing below this prefix can be listed;"
            " delete or rename the object"
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{url}: there is no such object")
    if _NO_LOGIN.search(whole.split("\n", 1)[0]):
        return ConfigError(f"{url}: there is no login for it; set {login(url)} in .env or in the environment")
    if isinstance(error, PermissionError | UnauthenticatedError) or _REFUSED.search(whole):
        return ConfigError(
            f"{url}: access is refused ({text}); check the login ({login(url)}, in .env or the environment) and what it"
            " may do there"
        )
    if isinstance(error, UnknownConfigurationKeyError):
        return ConfigError(f"{url}: {text}")
    return StoreUnavailableError(f"{url}: cannot be reached for now: {text}")


def error_text(error: BaseException) -> str:
    r"""What an error of a store says: the server's status and code, else its first line, shortened.

    The query of an address is left out, as it may hold a signature.

    >>> error_text(OSError("Error performing PUT https://me:pw@a.b/c?sig=abc in 3ms\n\nDebug source: …"))
    'Error performing PUT https://a.b/c in 3ms'
    >>> error_text(OSError("Error … Server returned non-2xx status code: 403 Forbidden: <Code>AccessDenied</Code>"))
    'the server answered 403 Forbidden, AccessDenied'
    """
    whole = str(error).strip()
    if status := _STATUS.search(whole):
        code = _CODE.search(whole)
        return f"the server answered {status[1].strip()}" + (f", {code[1]}" if code else "")
    text = _LOGIN.sub("//", _QUERY.sub("", whole.split("\n", 1)[0]))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def login(url: str) -> str:
    """The usual variables of a login for a location."""
    return CREDENTIALS[scheme_of(url)]
