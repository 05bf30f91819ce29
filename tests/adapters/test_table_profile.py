"""The description of a table that no pipeline describes: values against those that Python counts, faults, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from datetime import date, datetime
from math import log
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb.table_profile import profile_table
from apex_ml.core.new_pipeline.choices import propose
from apex_ml.core.table_profile.values import MEDIAN, TableProfile
from apex_ml.errors import DataError
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.stranger_tables import awkward, visits, write_table


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings.load(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> TableProfile:
    path = write_table(tmp_path_factory.mktemp("visits") / "visits.parquet", visits())
    return profile_table(settings, path, "show")


def texts(profile: TableProfile, column: str | None) -> list[str]:
    return [finding.text for finding in profile.findings if finding.column == column]


def test_counts_and_summaries_are_those_of_the_values(described: TableProfile) -> None:
    values = visits()
    for column in described.columns:
        own = values[column.name]
        assert (column.rows, column.known, column.distinct) == (len(own), len(own), len(set(own))), column.name
    distance = described.column("distance").numbers
    assert distance is not None and distance.decimals == 1
    assert (distance.low, distance.high) == (min(values["distance"]), max(values["distance"]))
    assert distance.mean == pytest.approx(np.mean(values["distance"]))
    assert distance.quantiles[MEDIAN] == pytest.approx(np.median(values["distance"]), abs=0.3)
    groups = {level.value: level.rows for level in described.column("age group").levels}
    assert groups == Counter(values["age group"])
    day = described.column("day").times
    assert day is not None and day.first.date() == min(values["day"]) and day.last.date() == max(values["day"])
    assert day.days == len(set(values["day"]))


def test_bins_hold_every_value_once(described: TableProfile) -> None:
    for column in described.columns:
        assert sum(level.rows for level in column.bins) == column.known, column.name
    assert described.column("distance").is_ordered and not described.column("age group").is_ordered


def test_keys_identifiers_and_repeated_rows(described: TableProfile, settings: Settings, tmp_path: Path) -> None:
    assert described.keys == (("visit",),) and described.repeated_rows == 0
    assert described.identifiers == ("visit", "patient")
    pairs = {"a": [1, 1, 2, 2], "b": ["x", "y", "x", "y"], "c": [None, "p", "p", "p"]}
    assert profile_table(settings, write_table(tmp_path / "pairs.parquet", pairs)).keys == (("a", "b"),)
    twice = {"a": [1, 1, 2, None, None], "b": ["x", "x", "x", None, None]}
    assert profile_table(settings, write_table(tmp_path / "twice.parquet", twice)).repeated_rows == 2


def test_a_gain_is_that_of_a_table_on_other_rows(described: TableProfile) -> None:
    target = described.target
    assert target is not None
    values = visits()
    shares = Counter(values["show"])
    assert target.entropy == pytest.approx(-sum(n / 3000 * log(n / 3000) for n in shares.values()))
    gains = {a.name: a.gain for a in target.associations}
    assert target.associations[0].name == "minutes" and gains["minutes"] > 0.85
    # by its own chances: 0.2, 0.5, 0.8
    expected = 1 - np.mean([-(p * log(p) + (1 - p) * log(1 - p)) for p in (0.2, 0.5, 0.8)]) / target.entropy
    assert gains["age group"] == pytest.approx(expected, abs=0.04)
    assert all(gains[name] < 0.02 for name in ("distance", "patient", "visit", "day"))
    counts = dict(target.associations[1].shares)
    assert sum(map(sum, counts.values())) == 3000
    assert any("known only after show" in text for text in texts(described, "minutes"))


def test_a_column_that_is_null_where_the_target_is(settings: Settings, tmp_path: Path) -> None:
    table = visits(400)
    absent = [n % 8 == 0 for n in range(400)]
    table["show"] = [None if gone else value for gone, value in zip(absent, table["show"], strict=True)]
    table["bill"] = [None if gone else float(n % 7) for n, gone in enumerate(absent)]
    table["fax"] = [None if n % 2 == 0 else float(n % 7) for n in range(400)]
    profile = profile_table(settings, write_table(tmp_path / "t.parquet", table), "show")
    assert any("is null in 100% of the rows without show" in text for text in texts(profile, "bill"))
    assert not any("known only after" in text for name in ("fax", "distance") for text in texts(profile, name))
    assert propose(profile, "show").measures == ("minutes", "bill")


def test_a_column_that_changes_over_time_is_reported(described: TableProfile) -> None:
    time = described.time
    assert time is not None and (time.name, time.unit) == ("day", "week")
    assert sum(rows for _, rows in time.periods) == 3000
    assert time.drifts[0].name == "late season" and time.drifts[0].stability > 1
    others = {drift.name: drift.stability for drift in time.drifts[1:]}
    assert max(others["age group"], others["distance"], others["show"]) < 0.02
    assert all(sum(shares) == pytest.approx(1) for drift in time.drifts for shares in drift.shares)
    assert any("changes over time" in text for text in texts(described, "late season"))


def test_awkward_names_and_types(settings: Settings, tmp_path: Path) -> None:
    profile = profile_table(settings, write_table(tmp_path / "awk ward's.parquet", awkward()), "a b.c")
    kinds = {column.name: column.kind for column in profile.columns}
    assert list(kinds) == list(awkward())
    assert (kinds["Select"], kinds['"q"'], kinds["año's"], kinds["from"]) == ("boolean", "number", "timestamp", "other")
    assert (kinds["bytes"], kinds["raw"], kinds["unsigned"]) == ("text", "other", "integer")
    assert profile.column("text date").formats == ("%d/%m/%Y",)
    assert set(profile.column("two formats").formats) == {"%d/%m/%Y", "%Y-%m-%d"}
    assert profile.column("two formats").known == 60
    assert "NaN or infinite in 6 rows" in texts(profile, "nan")
    assert texts(profile, "nothing") == ["has no value at all"]
    assert "1 value equal to another but for case or blanks" in texts(profile, "blanks")
    assert "is blank in 15 rows, which are not null" in texts(profile, "blanks")
    assert texts(profile, "from")[-1].endswith("which no model of Apex reads")


def test_a_table_without_rows(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    pq.write_table(pq.read_table(write_table(tmp_path / "some.parquet", awkward())).slice(0, 0), path)
    profile = profile_table(settings, path, "a b.c", "año's")
    assert profile.rows == 0 and texts(profile, None) == ["the table has no rows"]
    assert {(column.known, column.distinct) for column in profile.columns} == {(0, 0)}


def test_files_with_other_columns_and_types(settings: Settings, tmp_path: Path) -> None:
    write_table(tmp_path / "t" / "1.parquet", {"a": [1, 2], "b": ["x", "y"]})
    write_table(tmp_path / "t" / "2.parquet", {"b": ["x", "z"], "a": [1.5, 2.0], "c": [True, False]})
    profile = profile_table(settings, tmp_path / "t")
    assert [(column.name, column.known, column.distinct) for column in profile.columns] == [
        ("a", 4, 3),
        ("b", 4, 3),
        ("c", 2, 2),
    ]
    assert texts(profile, "a") == ["its type differs by file: int64, double"]
    assert "is missing in 1 file of 2" in texts(profile, "c")


def test_names_of_folders_are_columns(settings: Settings, tmp_path: Path) -> None:
    for year in (2023, 2024):
        write_table(tmp_path / "t" / f"year={year}" / "month=1" / "1.parquet", {"a": [1, 2], "month": [1, 1]})
    profile = profile_table(settings, tmp_path / "t")
    assert [(column.name, column.kind) for column in profile.columns] == [
        ("a", "integer"),
        ("month", "integer"),
        ("year", "integer"),
    ]
    assert profile.rows == 4 and "is in the names of folders, and not in the files" in texts(profile, "year")


def test_a_target_of_many_numbers_is_compared_by_ranges(settings: Settings, tmp_path: Path) -> None:
    values = list(range(1000))
    table = {
        "x": [2.0 * v for v in values],
        "y": [float(v) for v in values],
        "noise": [hash(str(v)) % 7 for v in values],
    }
    target = profile_table(settings, write_table(tmp_path / "n.parquet", table), "y").target
    assert target is not None and target.are_ranges and len(target.classes) == 4
    assert target.associations == ()  # every value is different: nothing can be learnt about them
    table["y"] = [float(v // 2) for v in values]
    target = profile_table(settings, write_table(tmp_path / "n.parquet", table), "y").target
    assert target is not None and target.associations[0].name == "x"
    assert target.associations[0].correlation == pytest.approx(1, abs=0.001) and target.associations[0].gain > 0.7


def test_times_of_day_and_dates_far_away(settings: Settings, tmp_path: Path) -> None:
    table = {
        "at": [datetime(2024, 1, 1, n % 24, n % 60) for n in range(500)],
        "far": [date(9999, 12, 31), *[date(2024, 1, 1 + n % 20) for n in range(499)]],
    }
    profile = profile_table(settings, write_table(tmp_path / "t.parquet", table), timestamp="at")
    assert profile.time is not None and profile.time.unit == "hour" and len(profile.time.periods) == 24
    assert texts(profile, "far") == ["has a date far from the others: 9999-12-31"]


def _damaged(path: Path) -> None:
    content = bytearray(write_table(path, visits(300)).read_bytes())
    content[200:400] = b"\x5a" * 200
    path.write_bytes(content)


def _truncated(path: Path) -> None:
    content = write_table(path, visits(300)).read_bytes()
    path.write_bytes(content[: len(content) // 2])


FAULTS = {
    "no file": (lambda path: None, "there is no such file or folder"),
    "empty": (lambda path: path.write_bytes(b""), "x.parquet: not a parquet file (0 bytes)"),
    "no columns": (lambda path: pq.write_table(pa.table({}), path), "x.parquet: has no columns"),
    "truncated": (_truncated, "x.parquet: a truncated parquet file"),
    "damaged": (_damaged, "x.parquet"),
    "repeated name": (
        lambda path: pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path),
        "x.parquet: repeated columns: a",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_cannot_be_read_is_one_clear_error(settings: Settings, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "x.parquet"
    make, message = FAULTS[fault]
    make(path)
    with pytest.raises(DataError) as error:
        profile_table(settings, path)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


def test_other_faults_are_one_clear_error(settings: Settings, tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", visits(50))
    with pytest.raises(DataError, match="there is no column shwo; did you mean show"):
        profile_table(settings, path, "shwo")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match="x.json: Apex reads parquet, CSV and JSON lines"):
        profile_table(settings, tmp_path / "x.json")
    write_table(tmp_path / "odd" / "1.parquet", {"a": [1]})
    write_table(tmp_path / "odd" / "2.parquet", {"a": [[1]]})
    with pytest.raises(DataError, match="odd: a is int64 in one file and list<.*> in another"):
        profile_table(settings, tmp_path / "odd")


MEASURE = """
import sys
from pathlib import Path
from apex_ml.adapters.duckdb.table_profile import profile_table
from apex_ml.settings import Settings
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024
before = peak()
profile_table(Settings.load(home=sys.argv[2]), Path(sys.argv[1]), "target")
print(peak() - before)
"""
LIMIT_MB = 256
"""DuckDB's own limit."""
TEXTS_MB, MAX_GROWTH_MB = 270, 180
"""The texts of the file, and what describing them may take: it would be more if they were held at once."""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """300,000 texts of 900 characters, all different."""
    path = tmp_path / "large.parquet"
    schema = pa.schema([("id", pa.string()), ("number", pa.float64()), ("target", pa.string())])
    random = np.random.default_rng(1)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, 300_000, 50_000):
            numbers = np.arange(start, start + 50_000)
            ids = [f"{n:010d}".ljust(900, "x") for n in numbers]
            classes = random.choice(["a", "b"], len(numbers))
            writer.write_table(pa.table([ids, random.random(len(numbers)), classes], schema=schema))
    environment = {**os.environ, "APEX_MEMORY_LIMIT_MB": str(LIMIT_MB), "PYTHONPATH": str(CODE_ROOT)}
    command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert 20 < int(done.stdout) < MAX_GROWTH_MB < TEXTS_MB


def test_csv_files_are_profiled_by_the_values_of_their_texts(settings: Settings, tmp_path: Path) -> None:
    lines = ["id;code;price;sold;day;n"]
    lines += [f"{n};{n % 3:03d};{n},5;{'true' if n % 2 else 'FALSE'};{1 + n % 28:02d}.03.2024;NA" for n in range(60)]
    lines[9] = "8;002;8,5;true;05.03.2024;7"
    lines.insert(4, "a line of one value")
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-16")
    profile = profile_table(settings, tmp_path / "t.csv")
    kinds = {column.name: (column.kind, column.nulls) for column in profile.columns}
    assert kinds == {
        "id": ("integer", 0), "code": ("text", 0), "price": ("number", 0), "sold": ("boolean", 0),
        "day": ("timestamp", 0), "n": ("integer", 59),
    }  # fmt: skip
    assert profile.source.csv is not None
    assert profile.source.csv.as_yaml() == {
        "format": "csv", "delimiter": ";", "encoding": "utf-16", "decimal": ",", "nulls": ["", "NA"],
    }  # fmt: skip
    assert texts(profile, None)[0] == "1 line cannot be parsed: columns: fewer values than the header has"


def test_a_first_row_of_values_is_a_warning(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("".join(f"{n},2024-01-05,x,{n / 2}\n" for n in range(20)))
    (warning,) = [text for text in texts(profile_table(settings, tmp_path / "t.csv"), None) if "names" in text]
    assert warning.startswith("the names of the columns look like values (0, 2024-01-05, 0.0): if the files have no")
    (tmp_path / "u.csv").write_text("a,b\n1,2\n3,4\n")
    assert not [text for text in texts(profile_table(settings, tmp_path / "u.csv"), None) if "names" in text]
