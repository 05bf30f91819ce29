"""API keys of the online service: who asks holds the key, the service knows its hash alone."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from apex_ml.wording import did_you_mean

_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def make_key() -> tuple[str, str]:
    """A new key, 256 random bits, and its sha256 as hex."""
    key = f"apex_{secrets.token_urlsafe(32)}"
    return key, hash_of(key)


def hash_of(key: str) -> str:
    """Sha256 of a key. Keys are long and random, so that no slow hash is needed to keep them from being guessed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class KeyEntry:
    """One entry of APEX_SERVING_KEYS."""

    sha256: str
    pipelines: frozenset[str] | None
    """The pipelines that the key may use; None: all."""


def key_entries(setting: str) -> list[KeyEntry]:
    """The entries of APEX_SERVING_KEYS: sha256, or ``sha256@pipeline+pipeline`` of a key for these pipelines only.

    Raises ValueError, which does not repeat an entry, as it can be a key in place of its hash.

    >>> [sorted(entry.pipelines or "all") for entry in key_entries(f"{'a' * 64}@claims+flights")]
    [['claims', 'flights']]
    """
    given = [part.strip() for part in setting.split(",") if part.strip()]
    entries: dict[str, KeyEntry] = {}
    for nr, part in enumerate(given, 1):
        sha256, limited, names = part.partition("@")
        sha256 = sha256.strip().lower()
        if not _HASH.fullmatch(sha256):
            raise ValueError(f"entry {nr} of {len(given)} is no sha256 of 64 hex digits; make one: apex serve-key")
        pipelines = frozenset(name.strip() for name in names.split("+")) if limited else None
        if pipelines is not None and not all(map(_NAME.fullmatch, pipelines)):
            raise ValueError(
                f"entry {nr} of {len(given)}: write the pipelines after @ as pipeline+pipeline, for example"
                " <sha256>@claims+flights"
            )
        entry = KeyEntry(sha256, pipelines)
        if entries.setdefault(sha256, entry) != entry:
            raise ValueError(
                f"entry {nr} of {len(given)} has the key of an earlier entry and other pipelines; write one entry,"
                " with all of them"
            )
    return list(entries.values())


def keys_fault(setting: str, address: str, pipelines: Iterable[str]) -> str | None:
    """What is wrong with valid entries: none where other machines can connect, or one for an unknown pipeline."""
    entries, names = key_entries(setting), sorted(pipelines)
    if not entries and not is_loopback(address):
        return (
            f"APEX_SERVING_HOST={address}: other machines can connect to it, and APEX_SERVING_KEYS is empty; make a"
            " key: apex serve-key"
        )
    unknown = sorted({name for entry in entries for name in entry.pipelines or ()} - {*names})
    if not unknown:
        return None
    return (
        f"APEX_SERVING_KEYS: a key is limited to {unknown[0]}, and there is no such pipeline; there are"
        f" {', '.join(names) or 'none'}{did_you_mean(unknown[0], names)}"
    )
