"""The guess of a CSV file's format is that of most of its values, and names those that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb.table_profile import profile_table
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline_file import parse_pipeline
from apex_ml.core.new_pipeline.choices import propose
from apex_ml.core.table_profile.values import TableProfile
from apex_ml.errors import DataError
from apex_ml.services.data_check import check_data
from apex_ml.services.new_pipeline import new_pipeline
from apex_ml.settings import Settings

ROWS = 1200
CITIES = ("Cádiz", "León", "Ávila", "Jaén")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings.load(home=tmp_path_factory.mktemp("home"))


def _decimal(n: int) -> str:
    return f"{n * 37 % 900},{n % 100:02d}"


def sales(price: Callable[[int], str] = _decimal, encoding: str = "cp1252", name: str = "price") -> list[bytes]:
    """The lines of an export with a decimal comma."""
    rows = [f"ref;day;city;{name};paid"]
    for n in range(ROWS):
        rows.append(f"r{n:05d};{1 + n % 28:02d}/03/2024;{CITIES[n % 4]};{price(n)};{'yes' if n % 3 else 'no'}")
    return [f"{row}\r\n".encode(encoding) for row in rows]


def profiled(settings: Settings, folder: Path, lines: list[bytes], target: str = "paid") -> TableProfile:
    (folder / "t.csv").write_bytes(b"".join(lines))
    return profile_table(settings, folder / "t.csv", target)


def proposed(profile: TableProfile, target: str = "paid") -> tuple[Contract, str, tuple[str, ...]]:
    """The contract, its text without line breaks, and the warnings that the terminal shows."""
    text, proposal = new_pipeline(Path("t/pipeline.yaml"), "t", profile, propose(profile, target), None)
    contract = parse_pipeline(Path("t/pipeline.yaml"), text.encode())[0]
    return contract, " ".join(text.replace("# ", "").split()), proposal.warnings


ODD = {
    "a word": ({500: "none yet"}, "1 row with another text than a number, such as none yet: such rows are quarantined"),
    "thousands": ({500: "1.234,50"}, "such as 1.234,50: such rows are quarantined. Correct these values, or list a word"
                  " for null in files.nulls; the decimal sign is ',' (files.decimal), and separators of thousands are"),
    "a point": ({500: "12.50"}, "1 row with another text than a number, such as 12.50: such rows are quarantined"),
    "several": (dict.fromkeys(range(0, 1200, 120), "x"), "10 rows with another text than a number, such as x: such"),
}  # fmt: skip


@pytest.mark.parametrize(("odd", "note"), ODD.values(), ids=ODD)
def test_a_few_texts_among_numbers_are_named_and_quarantined(
    settings: Settings, tmp_path: Path, odd: dict[int, str], note: str
) -> None:
    profile = profiled(settings, tmp_path, sales(lambda n: odd.get(n) or _decimal(n)))
    column = profile.column("price")
    assert (column.kind, column.nulls) == ("number", len(odd)) and profile.source.csv is not None
    assert profile.source.csv.as_yaml() == {"format": "csv", "delimiter": ";", "encoding": "cp1252", "decimal": ","}
    assert [text for text in profile.findings if text.column == "price" and note in text.text]
    contract, text, warnings = proposed(profile)
    assert contract.columns["price"].type in ("double", "decimal") and not contract.columns["price"].nullable.train
    (warning,) = [warning for warning in warnings if warning.startswith("price: ")]
    assert note in warning and f"WARNING: {warning}" in text
    checked = check_data(settings, contract, tmp_path / "t.csv", "train")
    assert checked.quarantined == len(odd) and checked.problems() == []


def test_a_word_for_null_does_not_hide_the_decimal_comma(settings: Settings, tmp_path: Path) -> None:
    profile = profiled(settings, tmp_path, sales(lambda n: "NA" if n == 500 else _decimal(n)))
    assert profile.source.csv is not None
    assert (profile.source.csv.decimal, profile.source.csv.nulls) == (",", ("", "NA"))
    assert (profile.column("price").kind, profile.column("price").nulls) == ("number", 1)
    contract, _, warnings = proposed(profile)
    assert [text for text in warnings if text.startswith("NA counts as null in all columns") and "of price" in text]
    assert check_data(settings, contract, tmp_path / "t.csv", "train").quarantined == 0


def test_many_texts_among_numbers_keep_a_column_text_and_are_named(settings: Settings, tmp_path: Path) -> None:
    profile = profiled(settings, tmp_path, sales(lambda n: "unknown" if n % 20 == 7 else _decimal(n)))
    assert profile.column("price").kind == "text"
    contract, _, warnings = proposed(profile)
    (warning,) = [text for text in warnings if text.startswith("price: 60 rows with another text than a number")]
    assert "such as unknown: it stays text" in warning
    assert check_data(settings, contract, tmp_path / "t.csv", "train").quarantined == 0


def test_numbers_with_another_sign_than_most_stay_text_and_are_named(settings: Settings, tmp_path: Path) -> None:
    lines = sales(lambda n: f"{_decimal(n)};{_decimal(n + 1)};{n % 90}.{n % 97:02d}", name="a;b;latitude")
    profile = profiled(settings, tmp_path, lines)
    assert [profile.column(name).kind for name in ("a", "b", "latitude")] == ["number", "number", "text"]
    contract, _, warnings = proposed(profile)
    assert [text for text in warnings if text.startswith("latitude: 1,200 rows") and "decimal sign is ','" in text]
    assert check_data(settings, contract, tmp_path / "t.csv", "train").quarantined == 0


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("price", lambda n: "007" if n == 500 else str(n % 700), "a zero at the beginning would be lost"),
        ("shop_id", lambda n: "A7" if n == 500 else str(n % 700), "the name says that it names things"),
        ("shop", lambda n: "A7" if n == 500 else str(9000 + n), "nearly all values differ"),
    ],
)
def test_whole_numbers_that_name_things_stay_text(
    settings: Settings, tmp_path: Path, name: str, value: Callable[[int], str], why: str
) -> None:
    assert profiled(settings, tmp_path, sales(value, name=name)).column(name).kind == "text", why


def test_a_class_among_classes_of_numbers_is_a_class(settings: Settings, tmp_path: Path) -> None:
    lines = sales(lambda n: "none" if n == 500 else str(n % 3), name="grade")
    contract, _, _ = proposed(profiled(settings, tmp_path, lines, "grade"), "grade")
    assert contract.classes == ("0", "1", "2", "none")


@pytest.mark.parametrize(
    ("values", "decimal"),
    [
        (["1.234", "2.500", "7,5"], ","),  # 1.234 may be a thousand: what is sure counts
        (["1,234", "2,500", "7.5"], "."),
        (["1.234.567", "12"], "."),
        (["1.5", "2,5", "3.5"], "."),
        (["1,5e3", "2"], ","),
        (["1,234.50", "12"], "."),
        (["1.234,50", "12"], ","),
    ],
)
def test_the_decimal_sign_is_that_of_most_numbers(
    settings: Settings, tmp_path: Path, values: list[str], decimal: str
) -> None:
    profile = profiled(settings, tmp_path, sales(lambda n: values[n % len(values)]))
    assert profile.source.csv is not None and profile.source.csv.decimal == decimal


def test_a_few_lines_in_another_encoding_do_not_change_that_of_the_file(settings: Settings, tmp_path: Path) -> None:
    lines = sales(encoding="utf-8")
    lines[7] = lines[7].replace("Ávila".encode(), b"\xc1vila")
    profile = profiled(settings, tmp_path, lines)
    assert profile.source.csv is not None and profile.source.csv.encoding == "utf-8"
    assert {level.value for level in profile.column("city").levels} == set(CITIES)
    contract, text, warnings = proposed(profile)
    (warning,) = [text for text in warnings if text.startswith("the files are read as utf-8, and 1 line cannot be")]
    assert warning in text
    assert check_data(settings, contract, tmp_path / "t.csv", "train").quarantined == 1


def test_one_wrong_byte_does_not_change_an_encoding_of_windows(settings: Settings, tmp_path: Path) -> None:
    lines = sales()
    lines[7] = lines[7].replace(b"\xc1vila", b"\x81vila")
    profile = profiled(settings, tmp_path, lines)
    assert profile.source.csv is not None and profile.source.csv.encoding == "cp1252"
    assert sum(profile.source.bad_lines.values()) == 1


def test_a_mixture_of_encodings_is_named(settings: Settings, tmp_path: Path) -> None:
    mixed = [
        other if n % 2 else line for n, (line, other) in enumerate(zip(sales(), sales(encoding="utf-8"), strict=True))
    ]
    profile = profiled(settings, tmp_path, mixed)
    assert profile.source.csv is not None and profile.source.csv.encoding == "cp1252"
    _, text, warnings = proposed(profile)
    (warning,) = [text for text in warnings if text.startswith("the file mixes encodings: ")]
    assert "600 lines of 1,200 beyond ASCII are text in UTF-8" in warning and warning in text and "CÃ¡diz" in text
    (tmp_path / "u.csv").write_bytes(b"".join(sales()))
    assert not [note.text for note in profile_table(settings, tmp_path / "u.csv").findings if "encod" in note.text]


def test_files_of_different_encodings_are_not_one_table(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"".join(sales()))
    (tmp_path / "b.csv").write_bytes(b"".join(sales(encoding="utf-8")))
    with pytest.raises(DataError, match=r"b\.csv: is text in UTF-8, and encoding is cp1252"):
        profile_table(settings, tmp_path, "paid")


def test_numbers_of_parquet_files_beside_csv_files_have_points(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"".join(sales()))
    pq.write_table(pa.table({"price": [1.5, 2.25], "paid": ["yes", "no"]}), tmp_path / "b.parquet")
    column = profile_table(settings, tmp_path, "paid").column("price")
    assert (column.kind, column.nulls, column.odd) == ("number", 0, None)


def test_a_text_among_the_numbers_in_names_of_folders_is_a_value(settings: Settings, tmp_path: Path) -> None:
    for name, rows in {"1": 500, "2": 499, "x": 1}.items():
        (tmp_path / f"region={name}").mkdir()
        pq.write_table(pa.table({"n": list(range(rows))}), tmp_path / f"region={name}" / "a.parquet")
    column = profile_table(settings, tmp_path).column("region")
    assert (column.kind, column.nulls, column.distinct) == ("text", 0, 3)
