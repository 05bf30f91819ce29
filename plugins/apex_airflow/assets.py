"""The assets, each declared here and nowhere else.

An asset declared a second time without its watcher makes Airflow drop and restart the trigger at every parse.
"""

from __future__ import annotations

import os
from urllib.parse import unquote, urlparse

from airflow.sdk import Asset, AssetWatcher

from apex_airflow.triggers.drops import DropTrigger
from apex_ml.settings import Settings

CHAMPION = Asset(name="apex_champion", group="apex")
"""A new champion. Its event is a nudge: the steps ask the ledger which version that is."""

SCORED = Asset(name="apex_scored", group="apex")
"""A run of apex_score has scored something. Its event is a nudge, too."""


def inbox(settings: Settings) -> Asset:
    """Return the asset of drops that wait in the inbox, watched when the inbox is a local folder.

    A remote inbox (``s3://…``) has no watcher and is seen by the sweep of apex_score.
    """
    url = urlparse(settings.drops)
    if url.scheme not in ("", "file"):
        return Asset(name="apex_inbox", group="apex")
    folder = unquote(url.path) if url.scheme else settings.drops
    trigger = DropTrigger(inbox=os.path.join(folder, "inbox"), poll_seconds=settings.inbox_poll_seconds)
    return Asset(name="apex_inbox", group="apex", watchers=[AssetWatcher(name="apex_inbox_watcher", trigger=trigger)])
