"""Where times count from, and the units that they count."""

from __future__ import annotations

from datetime import UTC, date, datetime

EPOCH = date(1970, 1, 1)
EPOCH_ON_CLOCK = datetime(1970, 1, 1)
"""Of times without a time zone."""
EPOCH_IN_UTC = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECONDS_AN_HOUR = 3_600_000_000
MICROSECONDS_A_DAY = 24 * MICROSECONDS_AN_HOUR
