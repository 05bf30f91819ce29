"""The types of settings that are more than text or a number: each is checked where settings are loaded.

An empty value means "not set" for all of them but the cron.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

from apex_ml.api_keys import key_entries
from apex_ml.discovery import ALERT_CHANNELS, CANDIDATES, SPLIT_STRATEGIES, module_names
from apex_ml.wording import did_you_mean

PRESETS = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
CRON_FIELDS = 5


MAX_NOUN = 24
"""Letters of the noun for rows: it stands beside numbers, on phones too."""


def check_rows_noun(value: str) -> str:
    """Return a noun for rows; ValueError for what is not one short word.

    >>> check_rows_noun("flights"), check_rows_noun("Aufträge")
    ('flights', 'Aufträge')
    >>> check_rows_noun("all flights")
    Traceback (most recent call last):
        ...
    ValueError: must be one word in the plural, of at most 24 letters, such as flights or claims
    """
    if not value.replace("-", "").isalpha() or len(value) > MAX_NOUN:
        raise ValueError(f"must be one word in the plural, of at most {MAX_NOUN} letters, such as flights or claims")
    return value


def check_cron(value: str) -> str:
    """Return a cron expression as Airflow takes it; ValueError says what is wrong with any other.

    >>> check_cron("0 2 * * mon-fri")
    '0 2 * * mon-fri'
    >>> check_cron("0 25 * * *")
    Traceback (most recent call last):
        ...
    ValueError: is no cron expression (out of range); five fields, e.g. "0 2 * * *" for every night at 02:00 UTC
    """
    remedy = 'five fields, e.g. "0 2 * * *" for every night at 02:00 UTC'
    expression = value.strip()
    fields = expression.split()
    if expression in PRESETS:
        return expression
    if len(fields) != CRON_FIELDS:
        raise ValueError(f"has {len(fields)} fields; a cron expression has {remedy}")
    if any(re.search(r"(?<![a-z])[rh](?![a-z])", field.lower()) for field in fields):
        raise ValueError(f"is no cron expression (a random field changes at every look); {remedy}")
    from croniter import CroniterBadDateError, CroniterError, croniter

    try:
        croniter(expression).get_next()
    except CroniterBadDateError:
        raise ValueError("never comes: there is no such day in a calendar") from None
    except CroniterError as error:
        reason = re.sub(r"^\[.*?\] is not acceptable[,.]? ?", "", str(error)) or "not acceptable"
        raise ValueError(f"is no cron expression ({reason}); {remedy}") from None
    return expression


def check_host(value: str) -> str:
    """Return a host name or an address without scheme and port."""
    if not value:
        return value
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?", value):
            raise ValueError("is no host: a name or an address alone, without http:// and without a port") from None
    return value


def check_mail(value: str) -> str:
    """Return an e-mail address, which may have a name before it."""
    if value and not re.fullmatch(r"([^<>@,]+<[^<>@\s,]+@[^<>@\s,]+>|[^<>@\s,]+@[^<>@\s,]+)", value.strip()):
        raise ValueError("is no e-mail address such as apex@example.org")
    return value


def check_mails(value: str) -> str:
    """Return e-mail addresses with commas between."""
    if value:
        wrong = [part.strip() for part in value.split(",") if not part.strip() or not _is_mail(part)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no e-mail address; write addresses with commas between")
    return value


def _is_mail(value: str) -> bool:
    try:
        check_mail(value)
    except ValueError:
        return False
    return True


def check_hashes(value: str) -> str:
    """Return entries of API keys with commas between; what is none may be a key, so no message repeats it."""
    key_entries(value)
    return value


def check_fernet_key(value: SecretStr) -> SecretStr:
    """Return a key of 32 bytes in url-safe base64."""
    text = value.get_secret_value()
    try:
        sound = not text or len(base64.b64decode(text, altchars=b"-_", validate=True)) == 32
    except (binascii.Error, ValueError):
        sound = False
    if not sound:
        raise ValueError("is no Fernet key (32 bytes in url-safe base64); remove the line, and `apex up` makes one")
    return value


def check_candidates(value: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of candidate models, each at most once."""
    known = module_names(CANDIDATES)
    wrong = [name for name in value if name not in known]
    if wrong or len(set(value)) < len(value):
        meant = did_you_mean(wrong[0], known) if wrong else ""
        raise ValueError(f"expected {', '.join(known)}, each at most once; found {', '.join(value)}{meant}")
    return value


def check_split(value: str) -> str:
    """Return the name of a split strategy."""
    if value not in (names := module_names(SPLIT_STRATEGIES)):
        raise ValueError(f"expected one of {', '.join(names)}; found {value}{did_you_mean(value, names)}")
    return value


def check_channel_options(value: SecretStr) -> SecretStr:
    """Return options of alert channels: a JSON object of text by the name of a channel, or an empty value."""
    if not (text := value.get_secret_value()):
        return value
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict) or not all(isinstance(option, str) for option in options.values()):
        raise ValueError('is no JSON object of text by the name of a channel, such as {"pager": "https://…"}')
    known = module_names(ALERT_CHANNELS)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"names no channel: {', '.join(unknown)}; there are {', '.join(known)}")
    return value


def check_url(value: str, schemes: tuple[str, ...], needs_host: bool = True) -> str:
    """Return a URL of one of the schemes."""
    if not value:
        return value
    expected = f"expected {' or '.join(f'{scheme}://' for scheme in schemes)}…"
    try:
        parts = urlsplit(value)
        port_is_sound = parts.port != 0
    except ValueError:
        raise ValueError(f"is no URL (host or port); {expected}") from None
    if parts.scheme not in schemes or "://" not in value:
        raise ValueError(f"has no such scheme; {expected}")
    if needs_host and not parts.hostname:
        raise ValueError(f"names no host; {expected}")
    if not port_is_sound or re.search(r"[\s\x00-\x1f]", value):
        raise ValueError(f"is no URL (port 0, or a blank inside); {expected}")
    return value


def _url(*schemes: str, needs_host: bool = True) -> Callable[[str], str]:
    return lambda value: check_url(value, schemes, needs_host)


def _secret_url(*schemes: str) -> Callable[[SecretStr], SecretStr]:
    def check(value: SecretStr) -> SecretStr:
        check_url(value.get_secret_value(), schemes)
        return value

    return check


Host = Annotated[str, AfterValidator(check_host)]
WebUrl = Annotated[str, AfterValidator(_url("http", "https"))]
BucketUrl = Annotated[str, AfterValidator(_url("s3"))]
DatabaseUrl = Annotated[str, AfterValidator(_url("postgresql", "postgresql+psycopg2", "postgres", needs_host=False))]
EngineUrl = Annotated[str, AfterValidator(_url("unix", "tcp", "http", "https", "ssh", needs_host=False))]
WebhookUrl = Annotated[SecretStr, AfterValidator(_secret_url("http", "https"))]
MailServerUrl = Annotated[SecretStr, AfterValidator(_secret_url("smtp", "smtps"))]
FernetKey = Annotated[SecretStr, AfterValidator(check_fernet_key)]
ChannelOptions = Annotated[SecretStr, AfterValidator(check_channel_options)]
Mail = Annotated[str, AfterValidator(check_mail)]
Mails = Annotated[str, AfterValidator(check_mails)]
Hashes = Annotated[str, AfterValidator(check_hashes)]
