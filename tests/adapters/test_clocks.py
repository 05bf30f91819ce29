"""On which clock a file's instants are days: the session's of the footer, the contract's, or a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pytest

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.storage.time_zones import SPARK_ZONE
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import Use
from apex_ml.errors import DataError
from apex_ml.settings import Settings
from tests.support.order_files import order_table, write_orders

MADRID, LIMA, LONDON = "Europe/Madrid", "America/Lima", "Europe/London"
DAYS = [date(2024, 1, 10) + timedelta(days=5 * n) for n in range(50)]
"""In winter and in summer."""
FORMS: dict[str, dict[str, Any]] = {
    # how the same instants are stored: type, options of the writer
    "INT96": {"kind": pa.timestamp("us"), "use_deprecated_int96_timestamps": True},
    "us": {"kind": pa.timestamp("us", "UTC")},
    "ms": {"kind": pa.timestamp("ms", "UTC")},
    "ns": {"kind": pa.timestamp("ns", "UTC")},
}


def midnights(zone: str, days: list[date] = DAYS) -> list[datetime]:
    """The instants at which the days begin in a zone, in UTC and without its mark."""
    begun = (datetime(d.year, d.month, d.day, tzinfo=ZoneInfo(zone)) for d in days)
    return [moment.astimezone(UTC).replace(tzinfo=None) for moment in begun]


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with engine.connect(Settings.load(home=tmp_path_factory.mktemp("home"))) as connection:
        connection.execute("SET TimeZone = 'America/Guatemala'")  # the machine's own clock is none of it
        yield connection


Read = Callable[..., tuple[FileReport, list[date]]]


@pytest.fixture
def read(con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path) -> Read:
    """Check a file of such instants; returns the report and the days of its rows."""

    def run(
        moments: list[datetime],
        form: str = "us",
        *,
        footer: str | None = None,
        zone: str | None = None,
        use: Use = "score",
        kind: pa.DataType | None = None,
    ) -> tuple[FileReport, list[date]]:
        options = dict(FORMS[form]) if kind is None else {}
        values = pa.array(moments, pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
        stored = options.pop("kind") if kind is None else kind
        table = order_table({contract.timestamp: values.cast(stored)}, rows=len(moments))
        if footer:
            table = table.replace_schema_metadata({SPARK_ZONE: footer})
        path = write_orders(tmp_path / "orders.parquet", table, **options)
        columns = contract.columns | {
            contract.timestamp: contract.columns[contract.timestamp].model_copy(update={"timezone": zone})
        }
        report = check_file(
            make_strict(con), path, contract.model_copy(update={"columns": columns}), use, as_of=None,
            accepted=tmp_path / "accepted.parquet", quarantined=tmp_path / "bad.parquet", copy=False,
        )  # fmt: skip
        assert report.quarantined == 0
        rows = con.execute(f"SELECT {contract.timestamp} FROM ({report.query})").fetchall()
        return report, [day for (day,) in rows]

    return run


@pytest.mark.parametrize(
    ("form", "zone"), [*((form, MADRID) for form in FORMS), ("INT96", LIMA), ("us", "Asia/Kathmandu"), ("ns", "+02:00")]
)
def test_days_use_the_session_zone_or_the_contract_zone(read: Read, form: str, zone: str) -> None:
    moments = midnights(zone) if "/" in zone else midnights("Etc/GMT-2")
    report, days = read(moments, form, footer=zone)
    assert days == DAYS and report.normalised == {} and report.warnings == {}
    assert zone in report.cast[0][1]
    if "/" in zone:
        assert read(moments, form, zone=zone)[1] == DAYS
        assert read(moments, form, footer=zone, zone="Asia/Tokyo")[1] == DAYS
        assert read(moments, form, footer="Etc/UTC", zone=zone)[1] == DAYS


@pytest.mark.parametrize(
    ("use", "form", "footer", "zone"),
    [
        ("train", "INT96", None, MADRID),
        ("score", "us", None, MADRID),
        ("train", "ns", "Etc/UTC", LONDON),
        ("score", "INT96", "no/such zone", MADRID),
    ],
)
def test_days_of_an_unknown_zone_are_refused_with_both_remedies(
    read: Read, use: Use, form: str, footer: str | None, zone: str
) -> None:
    hours = "22:00 or 23:00" if zone == MADRID else "00:00 or 23:00"
    with pytest.raises(DataError) as raised:
        read(midnights(zone), form, footer=footer, use=use)
    text = str(raised.value)
    assert text.startswith(
        f"orders.parquet: column fecha_pedido_dt: nearly all values are at {hours} on the clock of UTC"
    )
    assert "Set `timezone` of fecha_pedido_dt in the contract" in text and "deliver the column as date" in text


def test_days_at_midnight_utc_do_not_change(read: Read) -> None:
    evening = [datetime(d.year, d.month, d.day, 18) for d in DAYS]
    report, days = read(evening, zone="UTC")
    assert days == DAYS
    assert any("nearly all values are at 18:00" in warning for warning in report.warnings)


@pytest.mark.parametrize("form", ["INT96", "us"])
@pytest.mark.parametrize("where", [{}, {"footer": LIMA}, {"footer": MADRID, "zone": LIMA}])
def test_files_at_midnight_are_read_as_before(read: Read, form: str, where: dict[str, str]) -> None:
    report, days = read(midnights("UTC"), form, **where)
    assert days == DAYS and report.normalised == report.warnings == {}


def test_times_of_day_are_read_in_the_zone(read: Read) -> None:
    moments = [m + timedelta(minutes=7 * n) for n, m in enumerate(midnights(LIMA))]
    for where in ({"footer": LIMA}, {"zone": LIMA}):
        report, days = read(moments, "INT96", **where)
        assert days == DAYS and report.warnings == {}
    assert read(moments, "INT96")[0].normalised == {"fecha_pedido_dt: day_of_timestamp": 50}


def test_a_clock_without_a_zone_is_read_as_it_is_written(read: Read) -> None:
    plain = pa.timestamp("us")
    noon = [datetime(d.year, d.month, d.day, 12) for d in DAYS]
    report, days = read(noon, kind=plain)
    assert days == DAYS and any("at 12:00 on the clock of the file" in warning for warning in report.warnings)
    assert read(midnights("UTC"), kind=plain, footer=MADRID, zone=MADRID)[1] == DAYS
    assert read(midnights(MADRID), kind=plain, zone=MADRID)[1] == DAYS  # UTC without its mark


def test_few_values_and_values_of_another_zone_only_warn(read: Read) -> None:
    report, days = read(midnights(MADRID)[:3])
    assert days == [d - timedelta(days=1) for d in DAYS[:3]] and len(report.warnings) == 1
    report, days = read(midnights("UTC"), kind=pa.timestamp("us", LIMA))
    assert days == [d - timedelta(days=1) for d in DAYS]
    assert any("at 19:00 on the clock of America/Lima" in warning for warning in report.warnings)


def test_a_file_without_values_has_no_clock(read: Read) -> None:
    assert read([], footer=MADRID)[1] == read([], "INT96", zone=LIMA)[1] == []
