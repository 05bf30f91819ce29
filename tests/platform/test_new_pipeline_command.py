"""`apex init` and `apex check`: from a table to a pipeline that loads, with no service and no home."""

from __future__ import annotations

import io
import math
import os
from datetime import date, datetime, time
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apex_ml.adapters.duckdb.table_profile import profile_table
from apex_ml.contract.pipeline_file import load_contract, parse_pipeline
from apex_ml.core.new_pipeline.choices import Choices
from apex_ml.errors import ApexError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.reports.trial_page import trial_page
from apex_ml.platform.trial_run import try_pipeline
from apex_ml.services.data_check import check_data
from apex_ml.services.new_pipeline import new_pipeline
from apex_ml.settings import Settings
from tests.support.command_line import called, enter_bare_folder
from tests.support.stranger_tables import visits, write_table


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a home, a platform or a pipeline."""
    return enter_bare_folder(tmp_path, monkeypatch)


def test_a_table_becomes_a_pipeline_that_accepts_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(here / "visits" / "1.parquet", visits())
    code, out, _ = called(capsys, "init", "visits", "--from", "visits", "--target", "show", "--yes")
    assert "minutes: taken as known only after show, as the data suggests it" in out
    assert "note       the entity, whose earlier rows are the history: 298 values, 10.1 rows each; no other" in out
    assert code == 0 and "measures   minutes" in out and "features   age group, distance, late season" in out
    assert "3,000 rows in 1 file: 3,000 accepted, 0 quarantined" in out and "Next: apex -p visits run" in out
    assert load_contract(here / "pipelines" / "visits" / "pipeline.yaml").name == "visits"
    assert called(capsys, "check", "visits")[0] == 0
    assert sorted(path.name for path in here.iterdir()) == ["pipelines", "visits"]
    code, _, err = called(capsys, "init", "visits", "--from", "visits", "--target", "show", "--yes")
    assert code == 30 and "exists already" in err


def test_questions_have_defaults_and_take_columns_only(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(here / "visits.parquet", visits())
    monkeypatch.setattr("sys.stdin", io.StringIO("patent\npatient\n\n\nminutes, distance\n"))
    code, out, _ = called(capsys, "init", "visits", "--from", "visits.parquet", "--target", "show")
    assert code == 0 and "there is no column patent; did you mean patient?" in out
    assert "[minutes]" in out and "[visit]" in out and "measures   distance, minutes" in out
    assert "copy visits.parquet into" in out


def test_questions_without_a_terminal_name_the_options(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(here / "visits.parquet", visits(300))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = called(capsys, "init", "visits", "--from", "visits.parquet", "--target", "show")
    assert code == 30 and "there is no terminal to answer them: add --yes to take every default, or give" in err
    assert "Aborted" not in err and not (here / "pipelines").exists()


@pytest.mark.parametrize("command", ["init", "profile", "check", "check as a drop", "try"])
def test_a_file_without_bytes_or_without_rows_is_one_clear_error(
    here: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    table = write_table(here / "visits" / "1.parquet", visits(300))
    called(capsys, "init", "visits", "--from", "visits", "--target", "show", "--yes")
    write_table(here / "rows" / "none.parquet", {name: values[:0] for name, values in visits(300).items()})
    (here / "empty").mkdir()
    (here / "empty" / "broken.parquet").touch()
    arguments = {
        "init": ("init", "new", "--target", "show", "--yes", "--from"),
        "profile": ("profile", "--target", "show", "--out", "x.html"),
        "check": ("check", "visits", "--data"),
        "check as a drop": ("check", "visits", "--use", "score", "--data"),
        "try": ("try", "visits", "--from"),
    }[command]
    code, _, err = called(capsys, *arguments, "empty")
    assert code == 10 and "broken.parquet: not a parquet file (0 bytes): it is empty, as after a broken upload" in err
    code, out, err = called(capsys, *arguments, "rows")
    texts = {
        "init": "show cannot be the target: the table has no rows; name files that have some",
        "profile": "the table has no rows",
        "check": "there is no row in 1 file: deliver a file with rows",
        "check as a drop": "WARNING: there is no row: a run would take the drop and score nothing",
        "try": "there is no row in 1 file: deliver a file with rows",
    }
    assert texts[command] in out + err and code == (0 if command in ("profile", "check as a drop") else 10), table


def test_the_terminal_says_how_the_times_are_read_and_why_columns_are_left_out(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = visits(400)
    table["day"] = [f"{day:%Y-%m-%d}T10:00:0{n % 10}+02:00" for n, day in enumerate(table["day"])]
    table["half"] = [math.nan if n % 2 else 1.0 for n in range(400)]
    write_table(here / "visits.parquet", table)
    code, out, _ = called(capsys, "init", "visits", "--from", "visits.parquet", "--target", "show", "--yes")
    assert code == 0 and "note       day: its texts have an offset from UTC, so that they are instants" in out
    assert "note       half (left out): is NaN or infinite in 200 rows" in out


def test_a_dash_stands_for_no_column(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(here / "visits.parquet", visits(400))
    roles = ("--entity", "-", "--timestamp", "-", "--key", "-", "--measure", "-")
    code, out, _ = called(capsys, "init", "new", "--from", "visits.parquet", "--target", "show", "--yes", *roles)
    contract = load_contract(here / "pipelines" / "new" / "pipeline.yaml")
    assert (
        code == 0 and not contract.has_entity and not contract.has_timestamp and contract.named("measure", "key") == ()
    )
    assert "WARNING: minutes alone removes" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("Visits", "--target", "show"), 30, "the name Visits must be lower-case"),
        (("orders_", "--target", "show"), 30, "the name orders_ must be"),
        (("public", "--target", "show"), 30, "is reserved"),
        (("new", "--target", "shwo"), 10, "there is no column shwo; did you mean show?"),
        (("new", "--target", "show", "--entity", "patent"), 10, "did you mean patient?"),
        (("new", "--target", "show", "--measure", "minuts"), 10, "did you mean minutes?"),
        (("new", "--target", "visit"), 10, "every row has another value"),
    ],
)
def test_a_wrong_argument_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    write_table(here / "visits.parquet", visits(300))
    result, _, err = called(capsys, "init", *arguments, "--from", "visits.parquet", "--yes")
    assert result == code and words in err and "Traceback" not in err and not (here / "pipelines").exists()


def test_the_check_warns_of_what_only_a_training_would_find(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(here / "visits" / "1.parquet", visits(400))
    called(capsys, "init", "visits", "--from", "visits", "--target", "show", "--yes")
    assert "WARNING" not in called(capsys, "check", "visits")[1]
    file = here / "pipelines" / "visits" / "pipeline.yaml"
    derived = (
        "{description: X., type: string, role: attribute, nullable: true, derive: \"regexp_extract(patient, 'Q')\"}"
    )
    text = file.read_text().replace("columns:\n", f"columns:\n  x: {derived}\n", 1)
    file.write_text(text)
    warned = "WARNING: x: regexp_extract(patient, 'Q'): regexp_extract gives an empty text, not null, where nothing"
    code, out, _ = called(capsys, "check", "visits")
    assert code == 0 and warned in out
    file.write_text(text.replace('derive: "regexp', 'normalise: [trim], derive: "regexp'))
    assert warned not in called(capsys, "check", "visits")[1]
    if find_spec("lightgbm") is None:
        file.write_text(text.replace("candidates: [", "candidates: [lightgbm, "))
        assert "WARNING: model.candidates: a training fails here, as lightgbm" in called(capsys, "check", "visits")[1]


def test_the_check_names_rules_columns_and_examples(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(here / "visits" / "1.parquet", visits())
    called(capsys, "init", "visits", "--from", "visits", "--target", "show", "--yes")
    bad = visits(400)
    bad["age group"][:30] = ["baby"] * 30
    bad["distance"][30] = -1.0
    bad["distance"][31] = 9000.0
    bad["show"][32] = None
    del bad["minutes"]
    bad["extra"] = [1] * 400
    write_table(here / "bad" / "bad.parquet", bad)
    code, out, err = called(capsys, "check", "visits", "--data", "bad")
    assert code == 10 and "8.0% of the rows would be quarantined; quarantine.limit allows 1.0% (train)" in err
    assert "Row 0 of bad.parquet: age group: domain" in out and "Row 30 of bad.parquet: distance: range" in out
    assert "Row 32 of bad.parquet: show: not_null" in out and "Row 1 of" not in out
    assert "368 accepted, 32 quarantined" in out and "'baby'" in out and "distance: range: >= 0" in out
    assert "'9000.0'" in out and "Missing, filled with nulls: minutes (in 1 file)" in out
    assert "Not in the contract, ignored: extra\n" in out and "show: not_null" in out
    code, out, _ = called(capsys, "check", "visits", "--data", "bad", "--use", "score")
    assert code == 0 and "399 accepted, 1 quarantined" in out  # a drop may have new levels and no class


def test_the_check_reports_every_file_that_a_run_would_refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(here / "visits" / "1.parquet", visits())
    called(capsys, "init", "visits", "--from", "visits", "--target", "show", "--yes")
    write_table(here / "more" / "2.parquet", {"x": [1]})
    (here / "more" / "3.parquet").write_bytes(b"PAR1")
    write_table(here / "more" / "4.parquet", visits(100))
    code, out, err = called(capsys, "check", "visits", "--data", "more")
    assert code == 10 and "100 rows in 1 file" in out
    assert "2.parquet: required columns are missing" in err and "3.parquet: a truncated parquet file" in err
    code, _, err = called(capsys, "check", "visitz")
    assert code == 30 and "did you mean visits?" in err
    code, _, err = called(capsys, "check", "visits", "--data", "nowhere")
    assert code == 10 and "there is no such file or folder" in err


def test_columns_with_nearly_the_same_name_are_refused_before_anything_is_written(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = [n % 7 for n in range(400)]
    write_table(here / "t.parquet", {"show": ["yes", "no"] * 200, "x": numbers, "X": numbers[::-1], "y": numbers})
    code, _, err = called(capsys, "init", "visits", "--from", "t.parquet", "--target", "show", "--yes")
    assert code == 10 and "columns have nearly the same name: 'x', 'X'; rename them" in err
    assert not (here / "pipelines").exists()


def test_classes_that_differ_by_case_are_one_with_a_warning(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"show": ["yes", "Yes", "no", "NO"] * 100, "distance": [n % 7 for n in range(400)]}
    write_table(here / "t.parquet", table)
    code, out, err = called(capsys, "init", "visits", "--from", "t.parquet", "--target", "show", "--yes")
    assert code == 0, err
    assert "values of show that differ by case only are one class: 4 values, 2 classes" in out + err


def test_decimals_are_classes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = pa.array([Decimal("0.50"), Decimal("1.25")] * 200, pa.decimal128(9, 2))
    write_table(here / "visits.parquet", {"show": rates, "distance": [n % 7 for n in range(400)]})
    code, out, err = called(capsys, "init", "visits", "--from", "visits.parquet", "--target", "show", "--yes")
    assert code == 0, err
    assert "Accepted rows by class: 0.50 200, 1.25 200" in out


def test_levels_of_floats_have_all_their_digits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shortest text of the float 193428656 is 193428660.0."""
    table = {"show": pa.array([193428656.0, 0.0] * 200, pa.float32()), "distance": [n % 7 for n in range(400)]}
    write_table(here / "visits.parquet", table)
    code, out, err = called(capsys, "init", "visits", "--from", "visits.parquet", "--target", "show", "--yes")
    assert code == 0, err
    assert "Accepted rows by class: 0 200, 193428656 200" in out


@pytest.mark.parametrize("name", ["a\nb", "a\x85b", "a\u2028b"])
def test_a_name_or_a_level_with_a_line_break_is_no_broken_file(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    table = visits()
    rows = range(len(table["show"]))
    table |= {name: [n % 9 for n in rows], "sort": [name if n % 3 else "x" for n in rows]}
    write_table(here / "t.parquet", table)
    code, out, _ = called(capsys, "init", "odd", "--from", "t.parquet", "--target", "show", "--yes")
    assert code == 0 and "3,000 accepted, 0 quarantined" in out


def test_a_table_without_anything_to_learn_from_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"show": ["yes", "no"] * 200, "note": [f"patient {n} came late" for n in range(400)]}
    write_table(here / "visits.parquet", table)
    roles = ("--target", "show", "--key", "-", "--yes")
    code, _, err = called(capsys, "init", "visits", "--from", "visits.parquet", *roles)
    assert code == 10 and "no column is left from which a model can learn show; note: " in err
    assert not (here / "pipelines").exists()


def test_the_only_column_is_known_only_after_the_target(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [n - 200.5 for n in range(400)]
    write_table(here / "t.parquet", {"x": numbers, "show": ["yes" if x > 0 else "no" for x in numbers]})
    code, _, err = called(capsys, "init", "t", "--from", "t.parquet", "--target", "show", "--yes")
    assert code == 10 and "learn show; x: taken as known only after it; if it is known before, say --measure -" in err


def test_a_pipeline_without_features_is_one_clear_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"show": ["yes", "no"] * 200, "distance": [n % 7 for n in range(400)]}
    write_table(here / "visits.parquet", table)
    assert called(capsys, "init", "visits", "--from", "visits.parquet", "--target", "show", "--yes")[0] == 0
    path = here / "pipelines" / "visits" / "pipeline.yaml"
    path.write_text(path.read_text().replace("    - distance\n", "").replace("  attributes:\n", ""))
    code, _, err = called(capsys, "try", "visits", "--from", "visits.parquet")
    assert code == 30 and "the contract declares no feature: name some under features" in err


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
ROWS = 60
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "texts": st.lists(st.sampled_from(["a", "A ", "", "no", "é", "x'y", '"', "1", None]), min_size=ROWS, max_size=ROWS),
    "floats": st.lists(st.floats(width=32) | st.none(), min_size=ROWS, max_size=ROWS),
    "doubles": st.lists(st.floats() | st.none(), min_size=ROWS, max_size=ROWS),
    "integers": st.lists(st.integers(-(2**63), 2**63 - 1), min_size=ROWS, max_size=ROWS),
    "small": st.lists(st.integers(-2, 2) | st.none(), min_size=ROWS, max_size=ROWS),
    "booleans": st.lists(st.booleans() | st.none(), min_size=ROWS, max_size=ROWS),
    "decimals": st.lists(st.decimals(-99, 99, places=2), min_size=ROWS, max_size=ROWS),
    "dates": st.lists(st.dates() | st.none(), min_size=ROWS, max_size=ROWS),
    "times": st.lists(st.datetimes(), min_size=ROWS, max_size=ROWS),
}
COLUMNS = st.one_of([values.map(lambda drawn, kind=kind: (kind, drawn)) for kind, values in VALUES.items()])  # type: ignore[misc]
TYPES = {
    "texts": pa.string(),
    "floats": pa.float32(),
    "doubles": pa.float64(),
    "integers": pa.int64(),
    "small": pa.int16(),
    "booleans": pa.bool_(),
    "decimals": pa.decimal128(9, 2),
    "dates": pa.date32(),
    "times": pa.timestamp("us"),
}
# several rows have the same day, and some the same time of day, too
DAYS = [date(2024, 1, 1 + n % 28) for n in range(ROWS)]
TIMES = [datetime.combine(day, time(5 * (n % 4), n % 3)) for n, day in enumerate(DAYS)]
WHENS = {
    "days": pa.array(DAYS),
    "times": pa.array(TIMES, pa.timestamp("us")),
    "instants": pa.array(TIMES, pa.timestamp("ns", "UTC")).cast(pa.timestamp("ns", "Asia/Kathmandu")),
    "texts": pa.array([f"{moment:%d/%m/%Y %H:%M:%S}" for moment in TIMES]),
    "offsets": pa.array([f"{moment:%Y-%m-%dT%H:%M:%S.%f}+0{n % 4}:30" for n, moment in enumerate(TIMES)]),
    "nanoseconds": pa.array([pd.Timestamp(moment).value + n for n, moment in enumerate(TIMES)], pa.timestamp("ns")),
}


@given(
    columns=st.dictionaries(NAMES, COLUMNS, max_size=4),
    target=COLUMNS,
    entity=st.sampled_from(["who", None]),
    timestamp=st.sampled_from(["when", None]),
    of_rows=st.sampled_from(list(WHENS)),
    key=st.sampled_from([(), ("number",)]),
)
@settings(
    max_examples=int(os.environ.get("APEX_TEST_EXAMPLES", "12")),
    deadline=None,
    derandomize="APEX_TEST_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_any_table_is_refused_with_a_reason_or_is_checked_and_tried(
    tmp_path_factory: pytest.TempPathFactory,
    columns: dict[str, tuple[str, list[Any]]],
    target: tuple[str, list[Any]],
    entity: str | None,
    timestamp: str | None,
    of_rows: str,
    key: tuple[str, ...],
) -> None:
    folder = tmp_path_factory.mktemp("table")
    drawn = columns | {"the target": target}
    table: dict[str, Any] = {name: pa.array(values, TYPES[kind]) for name, (kind, values) in drawn.items()}
    table |= {"who": [f"w{n % 9}" for n in range(ROWS)], "when": WHENS[of_rows]}
    table |= {"number": list(range(ROWS))}
    path = write_table(folder / "t.parquet", table)
    own = Settings.load(home=folder)
    try:
        profile = profile_table(own, path, "the target", timestamp)
        choices = Choices("the target", entity, timestamp, key, ())
        text, _ = new_pipeline(folder / "pipeline.yaml", "new", profile, choices, None)
    except ApexError as error:
        assert str(error)
        return
    contract, _ = parse_pipeline(folder / "pipeline.yaml", text.encode())
    checked = check_data(own, contract, path, "train")
    assert [problem for problem in checked.problems() if "quarantined" in problem or "t.parquet" in problem] == []
    (folder / "pipelines" / "new").mkdir(parents=True)
    (folder / "pipelines" / "new" / "pipeline.yaml").write_text(text, encoding="utf-8")
    pipeline = load_pipeline(Settings.load(home=folder, pipelines=folder / "pipelines", pipeline="new", threads=1))
    try:
        run = try_pipeline(own, pipeline, path, lambda check: None)
    except ApexError as error:  # too few rows, or nothing to learn from
        assert str(error)
        return
    assert math.isfinite(run.compared[-1].log_loss) and trial_page("new", checked, run)


MONTHS = {"number": int, "word": lambda month: f"{date(2024, month, 1):%B}"}


def in_parts(table: dict[str, Any], month: str, prefix: str = "") -> dict[str, Any]:
    """A table with year, month and day instead of days."""
    days = table["day"]
    parts = {
        f"{prefix}year": [day.year for day in days],
        f"{prefix}month": [MONTHS[month](day.month) for day in days],
        f"{prefix}day_of_month": [day.day for day in days],
    }
    return parts | {name: values for name, values in table.items() if name != "day"}


@pytest.mark.parametrize("month", MONTHS)
@pytest.mark.parametrize(("prefix", "name"), [("", "date"), ("visit_", "visit_date"), ("visit_date_", "visit_day")])
def test_a_day_in_parts_becomes_the_timestamp(
    here: Path, capsys: pytest.CaptureFixture[str], month: str, prefix: str, name: str
) -> None:
    table = in_parts(visits(), month, prefix)
    table[f"{prefix}day_of_month"][5] = 77
    write_table(here / "visits" / "1.parquet", table)
    code, out, _ = called(capsys, "init", "visits", "--from", "visits", "--target", "show", "--yes")
    assert code == 0 and f"timestamp  {name}" in out and f"derived    {name}: " in out
    assert "3,000 rows in 1 file: 2,999 accepted, 1 quarantined" in out
    file = here / "pipelines" / "visits" / "pipeline.yaml"
    contract = load_contract(file)
    assert contract.timestamp == name and contract.has_history and contract.features.calendar
    year, month_name, day = f"{prefix}year", f"{prefix}month", f"{prefix}day_of_month"
    assert contract.sources("timestamp") == (year, month_name, day)
    assert {contract.columns[source].role for source in (year, month_name, day)} == {"ignore"}
    expected = f"make_date({year}, {month_name}, {day})"
    if month == "word":
        expected = f"strptime(concat_ws(' ', {year}, {month_name}, {day}), '%Y %B %d')"
    assert contract.columns[name].derive == expected
    comments = file.read_text().replace("\n  # ", " ")
    assert f"made of {year}, {month_name}, {day}; 0.0% null; 200 different; 2024-01-01 to 2024-07-18" in comments
    assert called(capsys, "check", "visits")[0] == 0
    code, out, _ = called(capsys, "try", "visits")
    assert code == 0 and f"{name}_day_of_week" in out


@pytest.mark.parametrize(
    "edit",
    [
        lambda table: table | {"day": visits()["day"]},
        lambda table: {name.replace("visit_", "birth_"): values for name, values in table.items()},
        lambda table: table | {"visit_day_of_month": [70] * 3000},
        lambda table: table | {"visit_year": [year - 2000 for year in table["visit_year"]]},
        lambda table: {name: values for name, values in table.items() if name != "visit_month"},
    ],
    ids=["a date", "a day of birth", "no days", "no years", "no months"],
)
def test_parts_that_are_not_the_day_of_a_row_stay_columns(
    here: Path, capsys: pytest.CaptureFixture[str], edit: Any
) -> None:
    write_table(here / "visits" / "1.parquet", edit(in_parts(visits(), "number", "visit_")))
    assert called(capsys, "init", "visits", "--from", "visits", "--target", "show", "--yes")[0] == 0
    contract = load_contract(here / "pipelines" / "visits" / "pipeline.yaml")
    assert contract.derived == {} and contract.named("timestamp") in ((), ("day",))


def test_the_day_in_parts_is_no_column_without_the_timestamp(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(here / "visits" / "1.parquet", in_parts(visits(), "number"))
    options = ("--target", "show", "--timestamp", "-", "--yes")
    assert called(capsys, "init", "visits", "--from", "visits", *options)[0] == 0
    contract = load_contract(here / "pipelines" / "visits" / "pipeline.yaml")
    assert "date" not in contract.columns and contract.columns["month"].role == "attribute"
