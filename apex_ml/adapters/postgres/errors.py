"""An error of Postgres as one of ours, by what to do about it: wait, correct the settings, or correct the data."""

from __future__ import annotations

from apex_ml.errors import ApexError, ConfigError, DataError, TransientError

DISK_FULL = "53100"
LOCKED = "55P03"
"""A lock was not available within the time limit."""
NO_POSTGRES = ("received invalid response", "expected authentication request")
"""Messages of libpq about a server that speaks another protocol."""
START_IT = "start it with: make up"
FULL = (
    "too many connections for role",
    "too many connections for database",
    "sorry, too many clients already",
    "remaining connection slots are reserved",
)
"""Messages of a server without a free connection; the driver gives no code with them."""
_REFUSED = {
    "password authentication failed": "the password is not that of the role: `apex up` sets those of .env",
    "no pg_hba.conf entry": "the server does not take connections from here: see its pg_hba.conf",
    "pg_hba.conf rejects": "the server does not take connections from here: see its pg_hba.conf",
    "permission denied for database": "the role may not connect: deployment/postgres/roles.sql makes the grants",
    'database "': "make the databases: `apex up`, or deployment/postgres/roles.sql on a server of yours",
    'role "': "make the roles: `apex up`, or deployment/postgres/roles.sql on a server of yours",
}
"""How messages about a refused login begin, which would be refused again; each with the remedy."""
_TRANSIENT = ("08", "25P", "40", "53", "55", "57", "58", "XX")
"""Classes of codes for what may pass by itself: connection, time limit, deadlock, resources, locks."""
_LOST = ("08", "57P")
"""Codes of a connection that the server ended, or that broke."""
_OF_DATA = ("22", "23")
"""Classes of codes for a value that does not fit: out of range, not JSON, a duplicate key."""


def is_full(text: str) -> bool:
    """Whether a message says that the server has no free connection."""
    return any(message in text for message in FULL)


def as_apex_error(url: str, text: str, code: str | None, outcome: str = "", others: str = "") -> ApexError:
    """The error for a message and a code of Postgres.

    `outcome` says what the failed work left behind, `others` who holds the connections or the lock, where that is
    known. What may pass by itself is a TransientError. A refused value is a DataError. A refused statement, name or
    role is a ConfigError: the same call would fail again.
    """
    where = f"Postgres at {url.rsplit('@', 1)[-1]}"
    first = (text.strip().splitlines() or ["no message"])[0]
    outcome = outcome and f"; {outcome}"
    if code == DISK_FULL or "No space left on device" in text:
        return TransientError(f"{where}: {first}{outcome}; the disk is full; free space on its disk and run again")
    if is_full(text):
        return TransientError(
            f"{where}: too many connections: {first}{outcome}; they are held by {others or 'others'}; close some, or"
            " raise the limit (apex_reader: APEX_PG_READER_CONNECTIONS)"
        )
    if code is None or code.startswith(_LOST):
        for message, remedy in _REFUSED.items():
            if f"FATAL:  {message}" in text and (not message.endswith('"') or "does not exist" in text):
                return ConfigError(f"{where} (APEX_DATABASE_URL) refuses the connection: {first}; {remedy}")
        another = any(sign in text for sign in NO_POSTGRES)
        remedy = "another program listens there: stop it or set another port, then: make up" if another else START_IT
        return TransientError(f"{where} (APEX_DATABASE_URL, APEX_PG_PORT) does not answer: {first}{outcome}; {remedy}")
    if code == LOCKED:
        return TransientError(f"{where}: {first}{outcome}; the lock is held by: {others or 'nobody any more'}")
    if code.startswith(_TRANSIENT):
        return TransientError(f"{where}: {first} ({code}){outcome}; run again")
    if code.startswith(_OF_DATA):
        return DataError(f"{where} refuses a value: {first} ({code}){outcome}")
    return ConfigError(
        f"{where} refuses a statement: {first} ({code}){outcome}; the tables may be older than the code or the"
        " contract: `apex up` brings them to the present state"
    )
