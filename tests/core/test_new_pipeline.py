"""Proposals for a new pipeline: which targets are refused, which roles are proposed, which contract follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from apex_ml.adapters.duckdb.table_profile import profile_table
from apex_ml.contract.model import Contract
from apex_ml.contract.normalisation import DateFormats
from apex_ml.contract.pipeline_file import parse_pipeline
from apex_ml.contract.requests.values import TimeReader
from apex_ml.core.new_pipeline.choices import Choices, propose, refuse_roles, refuse_target
from apex_ml.core.new_pipeline.ranges import rounded_out
from apex_ml.core.table_profile.values import TableProfile
from apex_ml.errors import ConfigError, DataError
from apex_ml.services.data_check import check_data
from apex_ml.services.new_pipeline import new_pipeline
from apex_ml.settings import Settings
from tests.support.stranger_tables import visits, write_table

FILE = Path("new/pipeline.yaml")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings.load(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> TableProfile:
    path = write_table(tmp_path_factory.mktemp("visits") / "visits.parquet", visits())
    return profile_table(settings, path, "show")


def contract_of(profile: TableProfile, choices: Choices) -> tuple[Contract, str]:
    text, _ = new_pipeline(FILE, "new", profile, choices, None)
    return parse_pipeline(FILE, text.encode())[0], text


def with_columns(settings: Settings, folder: Path, columns: dict[str, Any], target: str = "show") -> TableProfile:
    return profile_table(settings, write_table(folder / "t.parquet", visits(400) | columns), target)


ROWS = 400
TARGETS: dict[str, tuple[list[Any], str]] = {
    "one class": (["yes"] * ROWS, "all rows have the one class yes"),
    "no value": ([None] * ROWS, "it has no value"),
    "unique": ([f"c{n}" for n in range(ROWS)], "every row has another value"),
    "many texts": ([f"c{n % 80}" for n in range(ROWS)], "it has 80 classes; Apex predicts at most 50"),
    "many numbers": ([n // 2 / 7 for n in range(ROWS)], "it is a number with 200 values"),
    "many days": (
        [date(2024, 1, 1) + timedelta(days=n % 60) for n in range(ROWS)],
        "it has 60 different days or times",
    ),
    "lists": ([[n % 2] for n in range(ROWS)], "it holds list<"),
    "blanks": ([("a", " A", "")[n % 3] for n in range(ROWS)], "the only class is A"),
}


@pytest.mark.parametrize("values", TARGETS.values(), ids=TARGETS)
def test_a_target_that_no_model_can_learn_is_refused(
    settings: Settings, tmp_path: Path, values: tuple[list[Any], str]
) -> None:
    with pytest.raises(DataError) as error:
        refuse_target(with_columns(settings, tmp_path, {"show": values[0]}), "show")
    assert "show cannot be the target" in str(error.value) and values[1] in str(error.value)


def test_too_few_rows_are_refused(settings: Settings, tmp_path: Path) -> None:
    table = write_table(tmp_path / "few.parquet", visits(29))
    with pytest.raises(DataError, match="29 rows; a model needs at least 30"):
        refuse_target(profile_table(settings, table, "show"), "show")


CLASSES: dict[str, tuple[list[Any], str, tuple[str, ...]]] = {
    "boolean": ([n % 2 == 0 for n in range(ROWS)], "boolean", ("false", "true")),
    "integer": ([n % 3 for n in range(ROWS)], "int64", ("0", "1", "2")),
    "whole double": ([float(n % 2) for n in range(ROWS)], "int64", ("0", "1")),
    "half": ([(n % 3) / 2 for n in range(ROWS)], "decimal", ("0.0", "0.5", "1.0")),
    "fractions": ([(n % 3) / 7 for n in range(ROWS)], "double", ("0", "0.14285714285714285", "0.2857142857142857")),
    "text": ([("a", " b", "b", "")[n % 4] for n in range(ROWS)], "string", ("A", "B")),
    "words of YAML": ([("no", "yes", "on")[n % 3] for n in range(ROWS)], "string", ("no", "on", "yes")),
}


@pytest.mark.parametrize("case", CLASSES.values(), ids=CLASSES)
def test_the_classes_are_the_values_of_the_target(
    settings: Settings, tmp_path: Path, case: tuple[list[Any], str, tuple[str, ...]]
) -> None:
    values, kind, classes = case
    profile = with_columns(settings, tmp_path, {"show": values})
    contract, _ = contract_of(profile, propose(profile, "show", "patient", "day"))
    assert (contract.columns["show"].type, contract.classes) == (kind, classes)


def test_the_roles_that_are_proposed(profile: TableProfile) -> None:
    assert propose(profile, "show") == Choices("show", "patient", "day", ("visit",), ("minutes",))
    assert propose(profile, "show", entity="visit").entity == "visit"


def test_the_contract_of_the_visits(profile: TableProfile) -> None:
    contract, text = contract_of(profile, propose(profile, "show"))
    assert (contract.entity, contract.timestamp, contract.target) == ("patient", "day", "show")
    assert contract.named("measure") == ("minutes",) and contract.columns["minutes"].decimals == 0
    assert contract.features.grain == "every_row"
    assert contract.features.attributes == ("age group", "distance", "late season")
    assert [recipe.recipe for recipe in contract.features.history][-1] == "mean"
    domain = contract.columns["age group"].domain
    assert domain is not None and domain.levels == ("adult", "old", "young") and domain.closed.train
    low, high = contract.columns["distance"].checks
    largest = max(visits()["distance"])
    assert low.min == 0 and low.severity.train == "error"  # type: ignore[union-attr]
    assert 1.5 * largest < high.max < 3 * largest and high.severity.train == "warning"  # type: ignore[union-attr,operator]
    assert "# never null; 298 different" in text and "gain alone 88" in text and "changes over time" in text


def test_a_feature_that_gives_the_target_away_is_a_warning(profile: TableProfile) -> None:
    choices = replace(propose(profile, "show"), measures=())
    text, proposal = new_pipeline(FILE, "new", profile, choices, None)
    assert [warning.partition(" alone ")[0] for warning in proposal.warnings] == ["minutes"]
    assert "# WARNING: minutes alone removes 88% of the log loss" in text


def test_a_feature_just_below_the_limit_of_leaks_is_left_room(settings: Settings, tmp_path: Path) -> None:
    shows = visits(ROWS)["show"]
    other = {"yes": "no", "no": "yes"}
    # one in eight is wrong: it removes 1 - entropy(1/8) / ln 2 of the log loss, a bit less by smoothing
    hint = [other[show] if n % 8 == 0 else show for n, show in enumerate(shows)]
    profile = with_columns(settings, tmp_path, {"hint": hint})
    assert profile.target is not None
    (gain,) = [a.gain for a in profile.target.associations if a.name == "hint"]
    contract, text = contract_of(profile, propose(profile, "show", "patient", "day"))
    assert 0.4 < gain < 0.5 and "hint" in contract.features.attributes
    assert contract.features.suspicious_gain == 0.6 and "leaves room for hint" in text


def test_the_last_row_counts_where_entities_hardly_repeat(settings: Settings, tmp_path: Path) -> None:
    people = [f"P{n % 350:04d}" for n in range(ROWS)]
    profile = with_columns(settings, tmp_path, {"patient": people})
    contract, _ = contract_of(profile, propose(profile, "show", "patient", "day"))
    assert contract.features.grain == "last_row_per_entity" and contract.features.history == ()


@pytest.mark.parametrize(
    ("written", "form", "ahead"),
    [
        ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S%z", 0),
        ("%Y-%m-%dT%H:%M:%S+02:00", "%Y-%m-%dT%H:%M:%S%z", 120),
        ("%Y-%m-%dT%H:%M-0730", "%Y-%m-%dT%H:%M%z", -450),
        ("%Y-%m-%d %H:%M:%S+00", "%Y-%m-%d %H:%M:%S%z", 0),
        ("%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f", None),
        ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S.%f%z", 0),
        ("%Y-%m-%dT%H:%M:%S.%f+05:30", "%Y-%m-%dT%H:%M:%S.%f%z", 330),
        ("%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M", None),
        ("%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M %p", None),
        ("%Y%m%d%H%M%S", "%Y%m%d%H%M%S", None),
    ],
)
def test_times_of_day_in_text_are_the_time_of_a_row(
    settings: Settings, tmp_path: Path, written: str, form: str, ahead: int | None
) -> None:
    """`ahead` are the minutes that the clock of the texts is ahead of UTC; None for texts without an offset."""
    start = datetime(2024, 1, 1, 5, 30, 7, 250_000)
    times = [start + timedelta(hours=7 * n) for n in range(ROWS)]
    profile = with_columns(settings, tmp_path, {"at": [f"{moment:{written}}" for moment in times]})
    contract, _ = contract_of(profile, propose(profile, "show", "patient", "at"))
    column = contract.columns["at"]
    zone = None if ahead is None else "UTC"
    assert (column.type, column.timezone, contract.features.calendar[-1]) == ("timestamp", zone, "hour")
    (step,) = column.normalise
    assert isinstance(step, DateFormats) and step.date_formats == (form,)
    expected = datetime.strptime(f"{times[3]:{written}}", written)
    if ahead is not None:
        expected = (expected - timedelta(minutes=ahead)).replace(tzinfo=UTC)
    assert TimeReader(column)(f"{times[3]:{written}}") == expected  # by a request


@pytest.mark.parametrize("zone", [None, "Europe/Madrid"])
def test_nanoseconds_are_left_out_by_a_step_that_is_proposed(
    settings: Settings, tmp_path: Path, zone: str | None
) -> None:
    nanoseconds = [1_704_087_007_000_000_000 + n * (25_200 * 10**9 + 1) for n in range(ROWS)]
    profile = with_columns(settings, tmp_path, {"at": pa.array(nanoseconds, pa.timestamp("ns", zone))})
    (finding,) = [f for f in profile.findings if f.column == "at" and "nanoseconds" in f.text]
    assert finding.severity == "warning" and "has nanoseconds in 399 rows" in finding.text
    contract, text = contract_of(profile, propose(profile, "show", "patient", "at"))
    assert contract.columns["at"].normalise == ("microsecond_of_timestamp",)
    assert "nanoseconds of 399 rows are left out" in " ".join(text.replace("#", "").split())


def test_texts_with_and_without_an_offset(settings: Settings, tmp_path: Path) -> None:
    times = [f"2024-01-{1 + n % 28:02d}T10:00:0{n % 10}{'+02:00' if n % 2 else ''}" for n in range(ROWS)]
    profile = with_columns(settings, tmp_path, {"at": times})
    contract, text = contract_of(profile, propose(profile, "show", "patient", "at"))
    assert contract.columns["at"].timezone == "UTC"
    assert "texts without an offset are read on the clock of the timezone" in " ".join(text.replace("#", "").split())


@pytest.mark.parametrize("odd", [1, 2, 3])
def test_a_few_texts_that_are_no_dates_do_not_make_the_days_a_feature(
    settings: Settings, tmp_path: Path, odd: int
) -> None:
    days = ["n/a" if n < odd else f"{date(2024, 1, 1) + timedelta(days=n % 200):%Y-%m-%d}" for n in range(ROWS)]
    profile = with_columns(settings, tmp_path, {"at": days})
    if odd > 2:  # more than one in 200
        assert profile.column("at").text is not None
        return
    (finding,) = [f for f in profile.findings if f.column == "at" and f.severity == "warning"]
    assert "in no format of a date" in finding.text
    contract, text = contract_of(profile, propose(profile, "show", "patient", "at"))
    assert contract.columns["at"].type == "date" and "with another text than a date will be quarantined" in text
    path = tmp_path / "t.parquet"
    assert check_data(settings, contract, path, "train").problems() == []


@pytest.mark.parametrize("odd", [date(2999, 12, 31), date(9999, 12, 31), date(1900, 1, 1)])
def test_days_far_from_the_others_are_quarantined_and_named(settings: Settings, tmp_path: Path, odd: date) -> None:
    days = [odd if n % 150 == 7 else date(2024, 1, 1) + timedelta(days=n % 200) for n in range(ROWS)]
    profile = with_columns(settings, tmp_path, {"at": days})
    contract, text = contract_of(profile, propose(profile, "show", "patient", "at"))
    assert f"{odd} is far from the other days: the range of its checks" in " ".join(text.replace("#", "").split())
    checked = check_data(settings, contract, tmp_path / "t.parquet", "train")
    assert checked.quarantined == 3 and checked.problems() == []


def test_texts_of_a_target_of_which_most_are_days_stay_classes(settings: Settings, tmp_path: Path) -> None:
    due = ["soon" if n == 7 else f"2024-0{1 + n % 2}-01" for n in range(ROWS)]
    profile = with_columns(settings, tmp_path, {"due": due}, "due")
    contract, _ = contract_of(profile, propose(profile, "due", "patient", "day"))
    assert contract.classes == ("2024-01-01", "2024-02-01", "soon")


@pytest.mark.parametrize(
    ("in_second", "expression"),
    [
        (1, "make_timestamp(at * 1000000)"),
        (1_000, "make_timestamp(at * 1000)"),
        (1_000_000, "make_timestamp(at)"),
        (1_000_000_000, "make_timestamp(at // 1000)"),
    ],
)
def test_seconds_since_1970_are_named_with_the_expression_of_their_time(
    settings: Settings, tmp_path: Path, in_second: int, expression: str
) -> None:
    table = visits(ROWS) | {"at": [(1_704_067_200 + n * 3_600) * in_second for n in range(ROWS)]}
    del table["day"]
    path = write_table(tmp_path / "t.parquet", table)
    profile = profile_table(settings, path, "show")
    assert profile.time is None
    text, proposal = new_pipeline(FILE, "new", profile, propose(profile, "show", "patient"), None)
    (warning,) = [warning for warning in proposal.warnings if warning.startswith("at may be")]
    assert warning.endswith(f"derive: {expression}") and "since 1970 (2024-01-01 to 2024-01-17)" in warning
    derived = f'columns:\n  when: {{description: W., type: timestamp, role: timestamp, derive: "{expression}"}}\n'
    contract, _ = parse_pipeline(FILE, text.replace("columns:\n", derived, 1).encode())
    assert check_data(settings, contract, path, "train").problems() == []


INSTANT = datetime(2024, 1, 1, 5, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([date(2024, 1, 1 + n % 3) for n in range(ROWS)], "date", ["2024-01-01", "2024-01-02", "2024-01-03"]),
        ([datetime(2024, 1, 1 + n % 2) for n in range(ROWS)], "date", ["2024-01-01", "2024-01-02"]),
        (
            [datetime(2024, 1, 1, n % 2, 30, 0, n % 2) for n in range(ROWS)],
            "timestamp",
            ["2024-01-01 00:30:00", "2024-01-01 01:30:00.000001"],
        ),
        (
            pa.array([INSTANT + timedelta(hours=n % 2) for n in range(ROWS)], pa.timestamp("us", "Europe/Madrid")),
            "timestamp",
            ["2024-01-01 05:30:00+00:00", "2024-01-01 06:30:00+00:00"],
        ),
        ([f"0{1 + n % 2}/02/2024" for n in range(ROWS)], "date", ["2024-02-01", "2024-02-02"]),
        (
            [f"2024-02-01T10:00:00+0{n % 2}:00" for n in range(ROWS)],
            "timestamp",
            ["2024-02-01 09:00:00+00:00", "2024-02-01 10:00:00+00:00"],
        ),
    ],
)
def test_days_and_times_can_be_the_target(
    settings: Settings, tmp_path: Path, values: Any, kind: str, classes: list[str]
) -> None:
    profile = with_columns(settings, tmp_path, {"when": values}, "when")
    refuse_target(profile, "when")
    assert profile.time is not None and profile.time.name == "day"
    contract, _ = contract_of(profile, propose(profile, "when", "patient", "day"))
    assert (contract.columns["when"].type, list(contract.classes)) == (kind, classes)


def test_a_frequency_says_when_it_leaves_out_what_the_values_say(settings: Settings, tmp_path: Path) -> None:
    table = sales()
    table["shopper"] = [f"S{n:04d}" for n in range(len(table["day"]))]
    codes = [f"X{n // 2:05d}" for n in range(len(table["day"]))]
    table["back"] = ["yes" if n // 2 % 3 else "no" for n in range(len(table["day"]))]
    path = write_table(tmp_path / "sales.parquet", table | {"code": codes})
    profile = profile_table(settings, path, "back")
    text, proposal = new_pipeline(FILE, "new", profile, Choices("back", None, "day", ("shopper",), ()), None)
    contract, _ = parse_pipeline(FILE, text.encode())
    assert contract.columns["code"].encoding == "frequency"
    assert any("code: its values alone remove" in warning for warning in proposal.warnings)
    assert "remove encoding: frequency, so that they are learned as levels" in " ".join(text.replace("#", "").split())


NAMES = tuple(f"{first}{second}" for first in "abcdefghij" for second in "klmnopqrst")
"""A hundred texts that do not look like identifiers."""


def sales(rows: int = 6_000) -> dict[str, Any]:
    """A year of sales to 60 shoppers: `good`, of 100, says which are returned; 70 `shelf`s say nothing."""
    random = np.random.default_rng(3)
    good = random.integers(0, 100, rows)
    back = random.random(rows) < np.where(random.permutation(100)[good] < 50, 0.1, 0.8)
    return {
        "shopper": [f"S{n % 60:03d}" for n in range(rows)],
        "day": [date(2024, 1, 1) + timedelta(days=n * 365 // rows) for n in range(rows)],
        "good": [NAMES[n] for n in good],
        "shelf": [NAMES[n] for n in random.integers(0, 70, rows)],
        "back": np.where(back, "yes", "no").tolist(),
    }


def proposed_history(settings: Settings, folder: Path, table: dict[str, Any]) -> tuple[list[str], Contract]:
    profile = profile_table(settings, write_table(folder / "sales.parquet", table), "back")
    contract, _ = contract_of(profile, propose(profile, "back", "shopper", "day"))
    named = [f"{recipe.recipe} {recipe.scope.window or ''} {' '.join(recipe.scope.by)}".strip()
             for recipe in contract.features.history]  # fmt: skip
    return [" ".join(name.split()) for name in named], contract


OF_ALL_ROWS = ["count", "days_since_last", "last_target", "target_share"]


def test_the_history_has_the_last_weeks_and_the_levels_that_tell_classes_apart(
    settings: Settings, tmp_path: Path
) -> None:
    history, contract = proposed_history(settings, tmp_path, sales())
    of_good = ["count good", "target_share good", "count shopper good", "target_share shopper good"]
    assert history == [*OF_ALL_ROWS, "count 30", "target_share 30", *of_good]
    assert contract.features.history[0].features(contract)[0].column.name == "history_rows"


def test_a_window_holds_some_rows_of_an_entity(settings: Settings, tmp_path: Path) -> None:
    # 6 rows a year and entity are 1.5 in 90 days
    rare, _ = proposed_history(settings, tmp_path / "rare", sales(360))
    some, _ = proposed_history(settings, tmp_path / "some", sales(720))
    assert rare == OF_ALL_ROWS
    assert some[: len(OF_ALL_ROWS) + 2] == [*OF_ALL_ROWS, "count 90", "target_share 90"]


def test_many_classes_have_no_more_shares(settings: Settings, tmp_path: Path) -> None:
    table = sales()
    classes = [f"class {NAMES.index(good) % 12}" for good in table["good"]]
    history, _ = proposed_history(settings, tmp_path, table | {"back": classes})
    assert history == [*OF_ALL_ROWS, "count 30"]


def changing_sales(rows: int = 6_000) -> dict[str, Any]:
    """Sales that are returned at one of four places more often in one half of the year, at another in the other."""
    random = np.random.default_rng(5)
    place, is_late = random.integers(0, 4, rows), np.arange(rows) >= rows // 2
    back = random.random(rows) < np.where(is_late, 0.5, 0.2) + np.where(place == is_late, 0.3, 0)
    return sales(rows) | {
        "place": [("north", "south", "east", "west")[n] for n in place],
        "back": np.where(back, "yes", "no").tolist(),
    }


def test_the_last_days_by_level_where_the_classes_change_over_time(settings: Settings, tmp_path: Path) -> None:
    history, _ = proposed_history(settings, tmp_path / "changing", changing_sales())
    assert history == [*OF_ALL_ROWS, "count 30", "target_share 30", "target_share 1 place"]
    # a quarter of the rows: a level has enough of them in a week
    history, _ = proposed_history(settings, tmp_path / "fewer", changing_sales(1_500))
    assert "target_share 7 place" in history and "target_share 1 place" not in history
    random = np.random.default_rng(6)
    shuffled = changing_sales() | {"day": random.permutation(changing_sales()["day"]).tolist()}
    history, _ = proposed_history(settings, tmp_path / "steady", shuffled)
    assert not [name for name in history if "place" in name]


def test_a_lag_in_hours_is_proposed_for_times_of_day_with_its_reason(settings: Settings, tmp_path: Path) -> None:
    table = sales()
    profile = profile_table(settings, write_table(tmp_path / "sales.parquet", table), "back")
    contract, text = contract_of(profile, propose(profile, "back", "shopper", "day"))
    assert (contract.features.history_lag_days, contract.features.history_lag_hours) == (1, None)
    assert "a row counts from the second day after it on" in " ".join(text.replace("#", "").split())
    table["day"] = [datetime(2024, 1, 1, 9) + timedelta(hours=n) for n in range(len(table["day"]))]
    profile = profile_table(settings, write_table(tmp_path / "times.parquet", table), "back")
    contract, text = contract_of(profile, propose(profile, "back", "shopper", "day"))
    assert (contract.features.history_lag_days, contract.features.history_lag_hours) == (0, 24)
    assert "the data does not say when its outcome is known" in " ".join(text.replace("#", "").split())


@pytest.mark.parametrize("name", ["good_count", "shopper_good_share_yes"])
def test_a_column_of_the_data_comes_before_a_history_with_its_name(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    table = sales()
    own = table | {name: [n % 7 for n in range(len(table["good"]))]}
    history, contract = proposed_history(settings, tmp_path, own)
    assert name in contract.features.attributes and "count good" not in history


def test_neither_entity_nor_timestamp_nor_key(profile: TableProfile) -> None:
    contract, _ = contract_of(profile, Choices("show", None, None, (), ("minutes",)))
    assert not contract.has_entity and not contract.has_timestamp and contract.named("key") == ()
    assert contract.features.grain == "every_row" and contract.features.history == contract.features.calendar == ()
    patient = contract.columns["patient"]
    assert patient.identifier and patient.encoding == "frequency" and "patient" in contract.features.attributes


def test_a_key_names_a_row(profile: TableProfile) -> None:
    contract, _ = contract_of(profile, propose(profile, "show"))
    assert contract.named("key") == ("visit",) and contract.repeated_keys == "refuse"
    contract, text = contract_of(profile, propose(profile, "show", "patient", key=("visit", "day")))
    assert contract.named("key") == ("visit", "day") and contract.repeated_keys == "latest"
    assert "whether keys repeat is not known" in text
    with pytest.raises(DataError, match="distance cannot be the key: it holds double"):
        refuse_roles(profile, Choices("show", "patient", "day", ("distance",), ()))


def test_many_values_that_repeat_are_encoded_by_their_frequency(settings: Settings, tmp_path: Path) -> None:
    columns = {
        "shop_id": [1000 + n % 150 for n in range(ROWS)],
        "product": [f"{'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]}{'uvw'[n // 100 % 2]}" for n in range(ROWS)],
        "ticket": [f"T{n % 380:04d}" for n in range(ROWS)],
    }
    profile = with_columns(settings, tmp_path, columns)
    contract, text = contract_of(profile, propose(profile, "show", "patient", "day"))
    assert {name: contract.columns[name].encoding for name in columns} == {
        "shop_id": "frequency",
        "product": "frequency",
        "ticket": "levels",
    }
    assert set(contract.features.attributes) & set(columns) == {"shop_id", "product"}
    assert contract.columns["shop_id"].type == "string" and contract.columns["shop_id"].identifier
    flat = " ".join(text.replace("#", " ").split())
    assert "it looks like an identifier, of 2.7 rows each: the model sees how frequent a value is in training" in flat
    assert "it has 200 different texts, of 2.0 rows each" in flat
    assert "no feature: it looks like an identifier; list it under features.attributes if it is none" in flat


def test_nulls_of_the_target_raise_the_limit_of_quarantine(settings: Settings, tmp_path: Path) -> None:
    shows = [None if n % 20 == 0 else visits(ROWS)["show"][n] for n in range(ROWS)]
    profile = with_columns(settings, tmp_path, {"show": shows})
    contract, text = contract_of(profile, propose(profile, "show", "patient", "day"))
    assert contract.quarantine.limit.train == pytest.approx(0.06) and "rows without a class (5.0%)" in text


def test_columns_that_the_contract_cannot_have_are_left_out_with_the_reason(settings: Settings, tmp_path: Path) -> None:
    columns = {
        "row_nr": ["a", "b"] * 200,
        "free text": ["word " * 30 + str(n % 7) for n in range(ROWS)],
        "born": [date(1980, 1, 1) + timedelta(days=n % 99) for n in range(ROWS)],
        "same": [1] * ROWS,
        "bell\a": [float(n % 9) for n in range(ROWS)],
    }
    profile = with_columns(settings, tmp_path, columns)
    choices = propose(profile, "show", "patient", "day")
    contract, text = contract_of(profile, choices)
    _, proposal = new_pipeline(FILE, "new", profile, choices, None)
    assert {"row_nr", "free text", "born", "same", "bell\a"} <= {left.name for left in proposal.left_out}
    assert "distance" in contract.columns
    assert "- row_nr: the column 'row_nr' meets" in text and "- same: has the same value in every row" in text


def test_other_columns_that_could_be_entity_or_timestamp_are_named(settings: Settings, tmp_path: Path) -> None:
    columns = {
        "doctor_id": [f"D{n % 60:03d}" for n in range(ROWS)],
        "signup": [None if n % 40 == 0 else date(2015, 1, 1) + timedelta(days=n) for n in range(ROWS)],
    }
    profile = with_columns(settings, tmp_path, columns)
    choices = propose(profile, "show", "patient", "day")
    _, text = contract_of(profile, choices)
    flat = " ".join(text.replace("#", " ").split())
    patients = profile.column("patient").distinct
    assert (
        f"the history: {patients} values, {ROWS / patients:.1f} rows each; others that could be it: doctor_id (60"
        in flat
    )
    assert "choose with --entity NAME, or --entity - for none" in flat
    assert (
        "others that could be it: signup (2015-01-02 to 2016-02-04, null in 2.5%); choose with --timestamp NAME" in flat
    )
    profile = with_columns(settings, tmp_path, {})
    _, text = contract_of(profile, propose(profile, "show", "patient", "day"))
    assert " ".join(text.replace("#", " ").split()).count("no other column looks like one") == 2


def test_roles_that_contradict_the_data_are_refused(profile: TableProfile) -> None:
    with pytest.raises(DataError, match="distance cannot be the timestamp: it holds double and no dates"):
        refuse_roles(profile, Choices("show", "patient", "distance", (), ()))
    with pytest.raises(DataError, match="patient cannot be entity and measure: choose one"):
        refuse_roles(profile, Choices("show", "patient", "day", (), ("patient",)))


def test_a_needed_column_that_no_contract_can_name_is_refused(settings: Settings, tmp_path: Path) -> None:
    table = visits(ROWS)
    table["run_id"] = table.pop("patient")
    profile = profile_table(settings, write_table(tmp_path / "t.parquet", table), "show")
    with pytest.raises(ConfigError, match="the column 'run_id' meets 'run_id'"):
        new_pipeline(FILE, "new", profile, propose(profile, "show", "run_id", "day"), None)


@pytest.mark.parametrize(("value", "up", "bound"), [(732.76, True, 740), (-15.2, False, -16), (1e17 / 3, True, 3.4e16)])
def test_bounds_are_round_and_outside(value: float, up: bool, bound: float) -> None:
    assert rounded_out(value, up=up) == bound
