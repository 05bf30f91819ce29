"""Moments and durations as text, for reports."""

from __future__ import annotations

from datetime import UTC, datetime


def moment_text(moment: datetime | None) -> str:
    """A moment in UTC; as wide when there is none."""
    return moment.astimezone(UTC).strftime("%F %T") if moment else "not started        "


def duration_text(started: datetime | None, ended: datetime | None) -> str:
    """The seconds of a run that has ended."""
    return f"{(ended - started).total_seconds():.0f} s" if started and ended else ""
