"""The API keys of the online service, which knows only their hashes."""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass

from apex_ml.api_keys import hash_of, key_entries, keys_fault
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import settings_by_pipeline
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)
ID_LENGTH = 8


@dataclass(frozen=True)
class Access:
    """What the sender of a request may use."""

    key_id: str | None
    """The first digits of the key's hash; None without a key."""
    pipelines: frozenset[str] | None
    """The pipelines of a limited key; None: all."""

    def includes(self, pipeline: str) -> bool:
        """Whether a pipeline may be used."""
        return self.pipelines is None or pipeline in self.pipelines


EVERYTHING = Access(None, None)
"""Of a request to a service without keys."""
NOTHING = Access(None, frozenset())
"""Of a request without a key, to a service that has keys."""


class Keys:
    """The accepted keys. Raises :class:`~apex_ml.errors.ConfigError` for an entry that is not as it must be."""

    def __init__(self, setting: str) -> None:
        try:
            self._limits = {entry.sha256: entry.pipelines for entry in key_entries(setting)}
        except ValueError as error:
            raise ConfigError(f"APEX_SERVING_KEYS: {error}") from None

    def __bool__(self) -> bool:
        """Whether any key is set."""
        return bool(self._limits)

    def access_of(self, key: str) -> Access | None:
        """The access of an accepted key; None for another key.

        The time does not depend on the key: every hash is compared in constant time.
        """
        given, access = hash_of(key), None
        for known, pipelines in self._limits.items():
            if hmac.compare_digest(known, given):
                access = Access(known[:ID_LENGTH], pipelines)
        return access


def checked_keys(settings: Settings) -> Keys:
    """The keys of the settings. Raises :class:`~apex_ml.errors.ConfigError` for what :func:`keys_fault` finds."""
    keys = Keys(settings.serving_keys)
    if fault := keys_fault(settings.serving_keys, settings.serving_address, settings_by_pipeline(settings)):
        raise ConfigError(fault)
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
