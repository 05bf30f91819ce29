"""API keys of the online service: who asks holds the key, the service knows its hash alone."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets


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
