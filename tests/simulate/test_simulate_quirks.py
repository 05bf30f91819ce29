"""Every quirk does what its description says, to the given number of rows or files, and to nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.files import part_files
from apex_ml.simulate.process import Process
from apex_ml.simulate.process_columns import Choice
from apex_ml.simulate.quirks.apply import apply_quirk
from apex_ml.simulate.quirks.catalog import QUIRKS, parse_quirk
from apex_ml.simulate.quirks.interface import Rate
from apex_ml.simulate.quirks.selection import choose

RATES: list[Rate] = ["one", 0.005, 1.0]
Expected = Callable[[Process, str, object], object]

VALUES: dict[str, Expected] = {  # what a value of a touched column becomes
    "nulls": lambda process, name, value: None,
    "estrellas_suffix": lambda process, name, value: f"{value} estrellas",
    "estrellas_decimal": lambda process, name, value: f"{value}.0",
    "case": lambda process, name, value: str(value).lower(),
    "white_space": lambda process, name, value: f" {value} ",
    "date_strings": lambda process, name, value: value.strftime("%d/%m/%Y"),
    "unknown_country": lambda process, name, value: "XX",
    "new_channel": lambda process, name, value: "WHATSAPP",
    "negative_amounts": lambda process, name, value: -value,
    "outlier_amounts": lambda process, name, value: value * 1000,
    "int_as_fraction": lambda process, name, value: value + 0.5,
}
UNTOUCHED: dict[str, Expected] = {"date_strings": lambda process, name, value: value.strftime("%Y-%m-%d")}


def expected_count(count: int, rate: Rate) -> int:
    return 1 if rate == "one" else round(rate * count)


def read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.ParquetFile(path).read() for path in part_files(folder)], promote_options="permissive")


def column(table: pa.Table, name: str) -> list[object]:
    values = table.column(name)
    return (values.cast(pa.timestamp("s")) if pa.types.is_timestamp(values.type) else values).to_pylist()


def check_values(process: Process, quirk: str, before: pa.Table, after: pa.Table, rate: Rate) -> None:
    names = process.quirks[quirk].columns
    assert after.column_names == before.column_names
    assert after.drop_columns(names).equals(before.drop_columns(names))
    keep = UNTOUCHED.get(quirk, lambda process, name, value: value)
    chosen = None
    for name in names:
        new, old = column(after, name), column(before, name)
        touched = {
            row for row, pair in enumerate(zip(new, old, strict=True)) if pair[0] != keep(process, name, pair[1])
        }
        assert len(touched) == expected_count(before.num_rows, rate)
        assert chosen in (None, touched)  # the same rows in every column
        chosen = touched
        assert all(new[row] == VALUES[quirk](process, name, old[row]) for row in touched)


def test_all_are_registered_and_described(process: Process) -> None:
    names = [
        "nulls",
        "estrellas_suffix",
        "estrellas_decimal",
        "case",
        "white_space",
        "date_strings",
        "late_files",
        "duplicated_file",
        "redelivered_file",
        "unknown_country",
        "new_channel",
        "negative_amounts",
        "outlier_amounts",
        "changing_attributes",
        "truncated_file",
        "missing_column",
        "extra_column",
        "reordered_columns",
        "int_as_double",
        "double_as_int",
        "all_null_column",
        "dictionary_strings",
        "tz_aware",
        "empty_file",
        "duplicated_rows",
    ]
    assert set(names) <= set(QUIRKS)
    assert all(quirk.description.endswith(".") and quirk.name == name for name, quirk in QUIRKS.items())
    assert set(process.quirks) <= set(QUIRKS)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("quirk", list(VALUES))
def test_values_of_a_table(process: Process, orders: pa.Table, quirk: str, rate: Rate) -> None:
    damaged = apply_quirk(orders, quirk, rate, 1, process)
    check_values(process, quirk, orders, damaged, rate)
    assert damaged.equals(apply_quirk(orders, quirk, rate, 1, process))
    if rate != 1.0:
        assert not damaged.equals(apply_quirk(orders, quirk, rate, 2, process))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("quirk", sorted(set(VALUES) - {"date_strings", "int_as_fraction"}))
def test_values_of_a_folder(process: Process, orders: pa.Table, folder: Path, quirk: str, rate: Rate) -> None:
    untouched = {path: path.read_bytes() for path in part_files(folder)}
    touched = apply_quirk(folder, quirk, rate, 1, process)
    check_values(process, quirk, orders, read(folder), rate)
    assert all(path in touched or path.read_bytes() == content for path, content in untouched.items())
    assert len(touched) == {"one": 1, 0.005: 4, 1.0: 4}[rate]
    assert (folder / "_SUCCESS").exists()
    assert not list(folder.glob(".*"))


def test_types_that_change_in_one_file_only(process: Process, orders: pa.Table, folder: Path) -> None:
    for quirk, types in (
        ("date_strings", {pa.string(), pa.timestamp("ns")}),
        ("int_as_fraction", {pa.float64(), pa.int64()}),
    ):
        name = process.quirks[quirk].columns[0]
        touched = apply_quirk(folder, quirk, "one", 1, process)
        assert len(touched) == 1
        assert {pq.read_schema(path).field(name).type for path in part_files(folder)} == types


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_attributes_change_once_and_alike_in_table_and_folder(
    process: Process, orders: pa.Table, folder: Path, rate: float
) -> None:
    damaged = apply_quirk(orders, "changing_attributes", rate, 1, process)
    apply_quirk(folder, "changing_attributes", rate, 1, process)
    assert read(folder).equals(damaged)
    name = process.quirks["changing_attributes"].columns[0]
    changed = np.array(pc.not_equal(damaged.column(name), orders.column(name)))
    owners = np.array(orders.column(process.entity).to_pylist())
    days = orders.column(process.timestamp).to_numpy()
    clients = np.unique(owners[changed])
    assert len(clients) == pytest.approx(rate * 1000, rel=0.2)
    levels = process.named(Choice)[name].levels
    for client in clients[:50]:
        mine = owners == client
        first = days[mine & changed].min()
        np.testing.assert_array_equal(changed[mine], days[mine] >= first)
        old = orders.column(name)[int(np.flatnonzero(mine)[0])].as_py()
        new = damaged.column(name)[int(np.flatnonzero(mine & changed)[0])].as_py()
        assert new == levels[(levels.index(old) + 1) % len(levels)]


def test_one_changed_attribute(process: Process, orders: pa.Table) -> None:
    damaged = apply_quirk(orders, "changing_attributes", "one", 1, process)
    for name in process.quirks["changing_attributes"].columns:
        assert pc.sum(pc.not_equal(damaged.column(name), orders.column(name))).as_py() == 1


@pytest.mark.parametrize(("rate", "rows"), [("one", 8_009), (0.005, 8_360), (1.0, 80_000)])
def test_duplicated_rows(process: Process, orders: pa.Table, folder: Path, rate: Rate, rows: int) -> None:
    damaged = apply_quirk(orders, "duplicated_rows", rate, 1, process)
    apply_quirk(folder, "duplicated_rows", rate, 1, process)
    for table in (damaged, read(folder)):
        assert table.num_rows == rows
        counts = table.group_by(table.column_names).aggregate([([], "count_all")])
        assert counts.num_rows == 8_000
        assert set(counts.column("count_all").to_pylist()) <= {1, 10}


def test_columns_of_a_table(process: Process, orders: pa.Table) -> None:
    def of(quirk: str) -> tuple[pa.Table, str]:
        return apply_quirk(orders, quirk, 1.0, 1, process), process.quirks[quirk].columns[0]

    table, name = of("int_as_double")
    assert table.column(name).type == pa.float64()
    assert table.column(name).cast(pa.int64()).equals(orders.column(name))
    table, name = of("double_as_int")
    assert table.column(name).type == pa.int64()
    assert pc.max(pc.abs(pc.subtract(table.column(name).cast(pa.float64()), orders.column(name)))).as_py() <= 0.5
    table, name = of("all_null_column")
    assert table.column(name).type == pa.null()
    table, name = of("missing_column")
    assert table.equals(orders.drop_columns([name]))
    table, name = of("extra_column")
    assert table.drop_columns([name]).equals(orders)
    assert name not in process.columns
    table = apply_quirk(orders, "reordered_columns", 1.0, 1, process)
    assert table.column_names != orders.column_names
    assert table.select(orders.column_names).equals(orders)
    table = apply_quirk(orders, "dictionary_strings", 1.0, 1, process)
    assert {
        pa.types.is_dictionary(field.type)
        for field in table.schema
        if orders.schema.field(field.name).type == pa.string()
    } == {True}
    table, name = of("tz_aware")
    assert table.column(name).type == pa.timestamp("us", tz="America/Guayaquil")
    assert table.column(name)[0].as_py().utcoffset().total_seconds() == -5 * 3600
    assert table.column(name)[0].as_py().replace(tzinfo=None) == column(orders, name)[0]


STORED: dict[str, Callable[[pa.DataType], bool]] = {
    "int_as_double": pa.types.is_floating,
    "double_as_int": pa.types.is_integer,
    "all_null_column": pa.types.is_null,
    "tz_aware": lambda kind: kind.tz == "America/Guayaquil",
}


@pytest.mark.parametrize(("rate", "files"), [("one", 1), (0.5, 2), (1.0, 4)])
@pytest.mark.parametrize(
    "quirk", [name for name, quirk in QUIRKS.items() if quirk.rate_of == "files" and quirk.on_table]
)
def test_columns_of_files(process: Process, folder: Path, quirk: str, rate: Rate, files: int) -> None:
    before = {path: pq.read_schema(path) for path in part_files(folder)}
    touched = apply_quirk(folder, quirk, rate, 1, process)
    after = {path: pq.read_schema(path) for path in part_files(folder)}
    assert sorted(touched) == [path for path in before if not after[path].equals(before[path])]
    assert len(touched) == files
    if quirk in STORED:
        name = process.quirks[quirk].columns[0]
        assert all(STORED[quirk](after[path].field(name).type) for path in touched)
    if quirk == "dictionary_strings":
        assert all(pa.types.is_dictionary(after[path].field(process.target).type) for path in touched)


def test_an_earlier_quirk_outlives_a_later_one(process: Process, folder: Path) -> None:
    for quirk in ("dictionary_strings", "tz_aware", "nulls"):
        apply_quirk(folder, quirk, 1.0, 1, process)
    schema = pq.read_schema(part_files(folder)[0])
    assert pa.types.is_dictionary(schema.field(process.target).type)
    assert schema.field(process.timestamp).type.tz == "America/Guayaquil"


@pytest.mark.parametrize(("rate", "rows"), [("one", 1), (0.005, 40), (1.0, 8_000)])
def test_late_files(process: Process, orders: pa.Table, folder: Path, rate: Rate, rows: int) -> None:
    touched = apply_quirk(folder, "late_files", rate, 1, process)
    assert touched[-1] == part_files(folder)[-1]
    assert pq.read_metadata(touched[-1]).num_rows == rows
    keys = [(name, "ascending") for name in orders.column_names]
    assert read(folder).sort_by(keys).equals(orders.sort_by(keys))


@pytest.mark.parametrize(("rate", "files"), [("one", 1), (0.5, 2), (1.0, 4)])
def test_duplicated_files(process: Process, folder: Path, rate: Rate, files: int) -> None:
    def hashes() -> set[str]:
        return {hashlib.sha256(path.read_bytes()).hexdigest() for path in part_files(folder)}

    first = hashes()
    copies = apply_quirk(folder, "duplicated_file", rate, 1, process)
    assert (len(part_files(folder)), hashes()) == (4 + files, first)
    for path in copies:
        path.unlink()
    second = apply_quirk(folder, "redelivered_file", rate, 1, process)
    assert (len(part_files(folder)), len(hashes())) == (4 + files, 4 + files)
    for path in second:
        origin = path.with_name(path.name.replace("_again", ""))
        rows, old = pq.read_table(path), pq.read_table(origin)
        keys = [(name, "ascending") for name in old.column_names]
        assert not rows.equals(old)
        assert rows.sort_by(keys).equals(old.sort_by(keys))


@pytest.mark.parametrize(("rate", "files"), [("one", 1), (0.5, 2), (1.0, 4)])
def test_broken_and_empty_files(process: Process, folder: Path, rate: Rate, files: int) -> None:
    schema = pq.read_schema(part_files(folder)[0])
    empty = apply_quirk(folder, "empty_file", rate, 1, process)
    assert [pq.read_metadata(path).num_rows for path in empty] == [0] * files
    assert all(pq.read_schema(path).equals(schema) for path in empty)
    assert read(folder).num_rows == 8_000
    nothing = apply_quirk(folder, "zero_byte_file", rate, 1, process)
    assert all(path.stat().st_size == 0 for path in nothing)
    for path in nothing:
        path.unlink()
    cut = apply_quirk(folder, "truncated_file", rate, 1, process)
    for path in cut:
        with pytest.raises(pa.ArrowInvalid):
            pq.ParquetFile(path)
    with pytest.raises(DataError, match="damaged before"):
        apply_quirk(folder, "nulls", 1.0, 1, process)


def test_eighty_percent_nulls_and_explicit_columns(process: Process, orders: pa.Table) -> None:
    damaged = apply_quirk(orders, "nulls", 0.8, 1, process, columns=[process.target])
    assert damaged.column(process.target).null_count == 6_400
    assert damaged.drop_columns([process.target]).equals(orders.drop_columns([process.target]))


def test_a_single_file_may_be_damaged(process: Process, folder: Path) -> None:
    path = part_files(folder)[1]
    assert apply_quirk(path, "new_channel", "one", 1, process) == [path]
    assert pc.sum(pc.equal(pq.read_table(path).column(process.target), "WHATSAPP")).as_py() == 1


def test_a_zero_amount_becomes_negative_too(process: Process, orders: pa.Table) -> None:
    name = process.quirks["negative_amounts"].columns[0]
    zero = orders.set_column(orders.schema.get_field_index(name), name, pa.array(np.zeros(orders.num_rows)))
    assert pc.max(apply_quirk(zero, "negative_amounts", 1.0, 1, process).column(name)).as_py() < 0


def test_choose() -> None:
    random = np.random.default_rng(0)
    assert [len(choose(10, rate, random)) for rate in ("one", 0.001, 0.25, 1.0)] == [1, 1, 2, 10]
    assert len(choose(0, 1.0, random)) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rust", "unknown; there are nulls"),
        ("nulls:many", "neither a number nor"),
        ("nulls:0", "above 0"),
        ("nulls:1.5", "at most 1"),
        ("nulls:nan", "at most 1"),
        ("nulls:1:nowhere", "no column nowhere"),
    ],
)
def test_what_parsing_refuses(process: Process, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_quirk(text, process)


def test_parsing(process: Process) -> None:
    assert parse_quirk("nulls", process) == ("nulls", 0.005, None)
    assert parse_quirk(f"nulls:0.8:{process.target},{process.given}", process)[2] == [process.target, process.given]


def test_what_applying_refuses(process: Process, orders: pa.Table, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="on a folder of files"):
        apply_quirk(orders, "truncated_file", 1.0, 1, process)
    with pytest.raises(ConfigError, match="names no columns for it"):
        apply_quirk(orders, "nulls", 1.0, 1, process.model_copy(update={"quirks": {}}))
    with pytest.raises(DataError, match="left to touch"):
        apply_quirk(orders.drop_columns([process.target]), "new_channel", 1.0, 1, process)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no part file"):
        apply_quirk(tmp_path / "none", "nulls", 1.0, 1, process)
    texts = apply_quirk(orders, "date_strings", 1.0, 1, process)
    for quirk in ("tz_aware", "date_strings", "changing_attributes"):
        with pytest.raises(DataError, match=quirk):
            apply_quirk(texts, quirk, 1.0, 1, process)
    with pytest.raises(DataError, match="negative_amounts"):
        apply_quirk(orders, "negative_amounts", 1.0, 1, process, columns=[process.target])
