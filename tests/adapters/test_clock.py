"""The clock of the settings: a simulation passes one, and steps and the ledger follow it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.settings import Settings
from tests.support.apex_home import Apex
from tests.support.schema import SCHEMA

SHA256 = "a" * 64
SIMULATED = datetime(2024, 3, 4, 3, tzinfo=UTC)
TOLERANCE = timedelta(minutes=1)


@pytest.fixture
def settings(databases: Any, home: Any) -> Settings:
    return Apex(home(**databases.migrated())).settings


def ledger_time(settings: Settings, bulk: bool) -> datetime:
    """The time that a new drop gets in the ledger; the drop is not kept."""
    insert = f"INSERT INTO orders.drops (name, sha256, bytes, state) VALUES ('a', '{SHA256}', 1, 'done')"
    moments: list[datetime] = []
    with (
        pytest.raises(LookupError),
        bulk_transaction(settings, SCHEMA) if bulk else transaction(settings, SCHEMA) as session,
    ):
        session.execute(insert)
        moments += [moment for (moment,) in session.fetch("SELECT received_at FROM orders.drops")]
        raise LookupError("roll back")
    return moments[0].astimezone(UTC)


@pytest.mark.parametrize("bulk", [False, True], ids=["psycopg2", "ADBC"])
def test_the_ledger_follows_the_clock_of_the_settings(settings: Settings, bulk: bool) -> None:
    assert abs(ledger_time(settings, bulk) - datetime.now(UTC)) < TOLERANCE
    assert abs(ledger_time(settings.with_clock(SIMULATED), bulk) - SIMULATED) < TOLERANCE


def test_the_clock_keeps_running(settings: Settings) -> None:
    simulated = settings.with_clock(SIMULATED)
    first = simulated.now()
    assert SIMULATED <= first <= simulated.now() < SIMULATED + TOLERANCE
    assert settings.clock_offset == timedelta()


def test_no_variable_sets_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_CLOCK_OFFSET", "P1D")
    assert Settings.load().clock_offset == timedelta()
