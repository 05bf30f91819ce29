"""The API keys of the online service, which knows only their hashes."""

from __future__ import annotations

import hmac
import logging
import re

from apex_ml.api_keys import hash_of, is_loopback
from apex_ml.errors import ConfigError
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)
_HASH = re.compile(r"[0-9a-f]{64}")
ID_LENGTH = 8


class Keys:
    """The accepted keys. Raises :class:`~apex_ml.errors.ConfigError` for an entry that is not a sha256."""

    def __init__(self, setting: str) -> None:
        given = [part.strip().lower() for part in setting.split(",") if part.strip()]
        for nr, part in enumerate(given, 1):
            if not _HASH.fullmatch(part):
                # it can be a key instead of its hash, so the message does not repeat it
                raise ConfigError(
                    f"APEX_SERVING_KEYS: entry {nr} of {len(given)} is no sha256 of 64 hex digits;"
                    " make one: apex serve-key"
                )
        self._hashes = tuple(given)

    def __bool__(self) -> bool:
        """Whether any key is set."""
        return bool(self._hashes)

    def admitted(self, key: str) -> str | None:
        """The first digits of the hash of an accepted key; None for another key.

        The time does not depend on the key: every hash is compared in constant time.
        """
        given, key_id = hash_of(key), None
        for known in self._hashes:
            if hmac.compare_digest(known, given):
                key_id = known[:ID_LENGTH]
        return key_id


def checked_keys(settings: Settings) -> Keys:
    """The keys of the settings.

    Raises :class:`~apex_ml.errors.ConfigError` when there are none and other machines can connect.
    """
    keys = Keys(settings.serving_keys)
    if not keys and not is_loopback(settings.serving_address):
        raise ConfigError(
            f"APEX_SERVING_HOST={settings.serving_address}: other machines can connect to it, and APEX_SERVING_KEYS is"
            " empty; make a key: apex serve-key"
        )
    return keys


class KeyFile:
    """The keys of the settings, read again when ``.env`` changes. A key is added or revoked without a restart.

    With invalid new keys the old ones stay valid, and there is a problem.
    """

    def __init__(self, settings: Settings) -> None:
        self.keys = checked_keys(settings)
        self._settings = settings
        self._seen = self._stamp()
        self._problem = ""

    def problems(self) -> list[str]:
        """Why the newest keys are not used."""
        return [self._problem] if self._problem else []

    def look(self) -> None:
        """Read the keys again when the file has changed."""
        if (stamp := self._stamp()) == self._seen:
            return
        self._seen = stamp
        try:
            fresh = Settings.load(home=self._settings.home)
            self.keys = checked_keys(self._settings.model_copy(update={"serving_keys": fresh.serving_keys}))
        except ConfigError as error:
            self._problem = "keys: APEX_SERVING_KEYS cannot be used; the old ones stay in force"
            logger.warning("keys_refused reason=%s", error)
        else:
            self._problem = ""
            logger.info("keys_read")

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self._settings.env_file.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino
