"""Damage, one quirk at a time, the way deliveries are damaged in practice: by name, at a rate, by seed."""

from __future__ import annotations

import shutil
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.files import part_files, write_part
from apex_ml.simulate.generate import stream
from apex_ml.simulate.process import Choice, Process, QuirkSettings

DEFAULT_RATE = 0.005
Rate = float | Literal["one"]
RateOf = Literal["rows", "clients", "files"]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Context:
    """What a quirk works with."""

    process: Process
    settings: QuirkSettings
    seed: int
    rate: Rate
    random: np.random.Generator


RowQuirk = Callable[[pa.Table, Mask, Context], pa.Table]
FolderQuirk = Callable[[list[Path], Context], list[Path]]


@dataclass(frozen=True)
class Quirk:
    """One named kind of damage.

    `rate_of` says what a rate is a share of: rows, clients, or files (a lone table is one file, always chosen).
    """

    name: str
    description: str
    rate_of: RateOf
    on_table: RowQuirk | None = None
    on_folder: FolderQuirk | None = None
    arrow_schema: bool = False  # the damage is in Arrow's own types, which the file must then carry


QUIRKS: dict[str, Quirk] = {}


def _rows(name: str, description: str, rate_of: RateOf = "rows") -> Callable[[RowQuirk], RowQuirk]:
    """Register a quirk of chosen rows of a table."""

    def register(function: RowQuirk) -> RowQuirk:
        QUIRKS[name] = Quirk(name, description, rate_of, on_table=function)
        return function

    return register


def _columns(name: str, description: str, *, arrow_schema: bool = False) -> Callable[[RowQuirk], RowQuirk]:
    """Register a quirk of the columns of chosen files."""

    def register(function: RowQuirk) -> RowQuirk:
        QUIRKS[name] = Quirk(name, description, "files", on_table=function, arrow_schema=arrow_schema)
        return function

    return register


def _folder(name: str, description: str, rate_of: RateOf = "files") -> Callable[[FolderQuirk], FolderQuirk]:
    """Register a quirk of a folder of files."""

    def register(function: FolderQuirk) -> FolderQuirk:
        QUIRKS[name] = Quirk(name, description, rate_of, on_folder=function)
        return function

    return register


def parse_quirk(text: str, process: Process) -> tuple[str, Rate, list[str] | None]:
    """Read ``NAME[:RATE[:COLUMN,...]]``: name, rate (0.005 when absent), columns (None: the process file's).

    Raises ConfigError for an unknown name, a rate outside (0, 1] that is not ``one``, or an unknown column.

    >>> from apex_ml.simulate.process import load_process
    >>> parse_quirk("nulls:one", load_process())
    ('nulls', 'one', None)
    """
    name, _, rest = text.partition(":")
    rate_text, _, columns_text = rest.partition(":")
    quirk_of(name)
    rate: Rate = DEFAULT_RATE
    if rate_text == "one":
        rate = "one"
    elif rate_text:
        try:
            rate = float(rate_text)
        except ValueError as error:
            raise ConfigError(f"quirk {text!r}: rate {rate_text!r} is neither a number nor 'one'") from error
    check_rate(name, rate)
    columns = columns_text.split(",") if columns_text else None
    if columns and name != "extra_column" and (unknown := [c for c in columns if c not in process.columns]):
        raise ConfigError(f"quirk {text!r}: no column {unknown[0]}; there are {', '.join(process.columns)}")
    return name, rate, columns


def quirk_of(name: str) -> Quirk:
    """One quirk by name; ConfigError lists the known ones."""
    if name not in QUIRKS:
        raise ConfigError(f"quirk {name!r}: unknown; there are {', '.join(QUIRKS)}")
    return QUIRKS[name]


def check_rate(name: str, rate: Rate) -> None:
    """Refuse rates that are no share."""
    if rate != "one" and not (isinstance(rate, float | int) and 0 < rate <= 1):
        raise ConfigError(f"quirk {name}: rate {rate} must be above 0 and at most 1, or 'one'")


def choose(count: int, rate: Rate, random: np.random.Generator) -> Places:
    """Places of the chosen among `count`, sorted: one, or a share rounded to the nearest and at least one."""
    wanted = 1 if rate == "one" else max(1, round(float(rate) * count))
    return np.sort(random.permutation(count)[: min(wanted, count)])


@overload
def apply_quirk(
    what: Path, name: str, rate: Rate, seed: int, process: Process, *, columns: list[str] | None = None
) -> list[Path]: ...
@overload
def apply_quirk(
    what: pa.Table, name: str, rate: Rate, seed: int, process: Process, *, columns: list[str] | None = None
) -> pa.Table: ...
def apply_quirk(
    what: pa.Table | Path, name: str, rate: Rate, seed: int, process: Process, *, columns: list[str] | None = None
) -> pa.Table | list[Path]:
    """Damage a table, and return it damaged, or the part files of a folder (or one file), and return those touched.

    `rate` is a share of rows or of files (see the quirk's `rate_of`), 1.0 all, or ``"one"``: exactly one, chosen by
    `seed`. `columns` replaces the columns of the process file. Row order is kept unless the quirk is about it.
    A file that is changed is replaced in one rename.

    Raises ConfigError for an unknown quirk, a rate that is no share, a quirk that needs a folder and got a table, or
    one without the columns it needs; DataError for a folder without part files or a column that is not there.
    """
    quirk = quirk_of(name)
    check_rate(name, rate)
    settings = process.quirks.get(name, QuirkSettings())
    if columns is not None:
        settings = settings.model_copy(update={"columns": columns})
    context = Context(process, settings, seed, rate, stream(seed, f"quirk:{name}"))
    if isinstance(what, pa.Table):
        if quirk.on_table is None:
            raise ConfigError(f"quirk {name}: works on a folder of files, not on a table")
        rows = np.arange(what.num_rows) if quirk.rate_of == "files" else choose(what.num_rows, rate, context.random)
        return _damage(_plain(what), _mask(what.num_rows, rows), quirk, context)
    files = [what] if what.is_file() else part_files(what)
    if not files:
        raise DataError(f"{what}: no part file to damage")
    if quirk.on_folder is not None:
        return quirk.on_folder(files, context)
    return _damage_files(files, quirk, context)


def _damage(table: pa.Table, rows: Mask, quirk: Quirk, context: Context) -> pa.Table:
    assert quirk.on_table is not None
    try:
        return quirk.on_table(table, rows, context)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise DataError(f"quirk {quirk.name}: the columns are of other types, damaged before? {error}") from error


def _damage_files(files: list[Path], quirk: Quirk, context: Context) -> list[Path]:
    """Run a table's quirk over files: rows are chosen over all of them, files among them."""
    counts = [_count_rows(path) for path in files]
    ends = np.cumsum(counts)
    if quirk.rate_of != "files":
        chosen = choose(int(ends[-1]), context.rate, context.random)
    else:
        picked = choose(len(files), context.rate, context.random)
        chosen = np.concatenate([np.arange(ends[place] - counts[place], ends[place]) for place in picked])
    touched = []
    for path, count, end in zip(files, counts, ends, strict=True):
        inside = chosen[(chosen >= end - count) & (chosen < end)] - (end - count)
        if len(inside) or (quirk.rate_of == "clients" and context.rate != "one"):
            damaged = _damage(_read(path), _mask(count, inside), quirk, context)
            _rewrite(damaged, path, arrow_schema=quirk.arrow_schema)
            touched.append(path)
    return touched


def _mask(count: int, places: Places) -> Mask:
    mask = np.zeros(count, np.bool_)
    mask[places] = True
    return mask


def _plain(table: pa.Table) -> pa.Table:
    """Dictionaries decoded and chunks joined: what a reader of the files sees."""
    columns = [c.cast(pa.string()) if pa.types.is_dictionary(c.type) else c for c in table.columns]
    return pa.table(columns, names=table.column_names).combine_chunks()


def _count_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path.name}: unreadable, damaged before: put quirks that break files last") from error


def _read(path: Path) -> pa.Table:
    """One file, whatever folder it lies in (never as a partition of a data set)."""
    return _plain(pq.ParquetFile(path).read())


def _rewrite(table: pa.Table, path: Path, *, arrow_schema: bool = False) -> None:
    """Replace a file in one rename; Arrow's own types of an earlier quirk are kept."""
    kept = arrow_schema
    if path.exists():
        kept |= b"ARROW:schema" in (pq.read_metadata(path).metadata or {})
        for field in pq.read_schema(path):
            if pa.types.is_dictionary(field.type) and field.name in table.column_names:
                table = _set(table, field.name, table.column(field.name).dictionary_encode())
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write_part(table, draft, arrow_schema=kept)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _named(context: Context, quirk: str, table: pa.Table) -> list[str]:
    """The columns to touch that are in the table; ConfigError when none is configured, DataError when none is there."""
    if not context.settings.columns:
        raise ConfigError(
            f"quirk {quirk}: process {context.process.name} names no columns for it (quirks.{quirk}.columns)"
        )
    found = [name for name in context.settings.columns if name in table.column_names]
    if not found:
        raise DataError(f"quirk {quirk}: no column {', '.join(context.settings.columns)} left to touch")
    return found


def _set(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def _where(table: pa.Table, name: str, rows: Mask, values: pa.Array | pa.ChunkedArray | pa.Scalar) -> pa.Table:
    """Replace a column's values in chosen rows."""
    return _set(table, name, pc.if_else(pa.array(rows), values, table.column(name)))


# --- values of rows -------------------------------------------------------------------------------------------------


@_rows("nulls", "Values go missing in the listed columns.")
def _nulls(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "nulls", table):
        table = _where(table, name, rows, pa.scalar(None, table.column(name).type))
    return table


def _append(table: pa.Table, rows: Mask, context: Context, quirk: str) -> pa.Table:
    for name in _named(context, quirk, table):
        longer = pc.binary_join_element_wise(table.column(name), context.settings.value, "")
        table = _where(table, name, rows, longer)
    return table


@_rows("estrellas_suffix", "The level carries its unit: '3 estrellas' for '3'.")
def _suffix(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return _append(table, rows, context, "estrellas_suffix")


@_rows("estrellas_decimal", "The level went through a spreadsheet: '3.0' for '3'.")
def _decimal(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return _append(table, rows, context, "estrellas_decimal")


@_rows("case", "Levels in lower case.")
def _case(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "case", table):
        table = _where(table, name, rows, pc.utf8_lower(table.column(name)))
    return table


@_rows("white_space", "A space before and a space after the level.")
def _white_space(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "white_space", table):
        table = _where(table, name, rows, pc.binary_join_element_wise("", table.column(name), "", " "))
    return table


@_rows("date_strings", "The day column is a string, as dd/mm/yyyy in the chosen rows and as yyyy-mm-dd in the others.")
def _date_strings(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "date_strings", table):
        column = table.column(name)
        if not pa.types.is_timestamp(column.type):
            raise DataError(f"quirk date_strings: {name} is {column.type}, no longer a time")
        days = column.cast(pa.timestamp("s"))
        texts = pc.if_else(pa.array(rows), _format(days, context.settings.value), _format(days, "%Y-%m-%d"))
        table = _set(table, name, texts)
    return table


def _format(days: pa.ChunkedArray, style: str) -> pa.ChunkedArray:
    return pc.strftime(days, format=style)


def _replace_value(table: pa.Table, rows: Mask, context: Context, quirk: str) -> pa.Table:
    for name in _named(context, quirk, table):
        table = _where(table, name, rows, pa.scalar(context.settings.value, pa.string()))
    return table


@_rows("unknown_country", "A country that is in no list.")
def _unknown_country(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return _replace_value(table, rows, context, "unknown_country")


@_rows("new_channel", "A channel that did not exist before.")
def _new_channel(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return _replace_value(table, rows, context, "new_channel")


@_rows("negative_amounts", "Amounts below zero; a zero becomes -1.")
def _negative_amounts(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "negative_amounts", table):
        column = table.column(name)
        below = pc.negate(pc.abs(column))
        one = pa.scalar(-1, column.type)
        table = _where(table, name, rows, pc.if_else(pc.equal(column, pa.scalar(0, column.type)), one, below))
    return table


@_rows("outlier_amounts", "Amounts a thousand times too large (the factor is in the process file).")
def _outlier_amounts(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "outlier_amounts", table):
        column = table.column(name)
        larger = pc.multiply(column.cast(pa.float64()), context.settings.factor)
        table = _where(table, name, rows, larger.cast(column.type))
    return table


@_rows("changing_attributes", "Attributes move to the next level, for good, on a day of each client's own.", "clients")
def _changing_attributes(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    # Who changes and when follow from a hash of the client alone, so that a client's orders agree over all files.
    process = context.process
    entities = table.column(process.entity).combine_chunks().dictionary_encode(null_encoding="encode")
    names = entities.dictionary.to_pylist()
    hashes = np.array([zlib.crc32(f"{context.seed}:{name}".encode()) for name in names], np.int64)
    window = (process.window.end - process.window.start).days
    first = (process.window.start - date(1970, 1, 1)).days
    moments = first + 1 + hashes * 7919 % max(1, window)  # a prime step makes the day differ from the order of the hash
    codes = entities.indices.to_numpy(zero_copy_only=False)
    days = (
        pc.fill_null(table.column(process.timestamp).cast(pa.timestamp("s")).cast(pa.int64()), 0).to_numpy() // 86_400
    )
    # One order: nothing is for good, this order alone shows other attributes.
    after = rows if context.rate == "one" else (hashes < context.rate * 2**32)[codes] & (days >= moments[codes])
    for name in _named(context, "changing_attributes", table):
        column = process.columns.get(name)
        if not isinstance(column, Choice):
            raise ConfigError(f"quirk changing_attributes: {name} is no choice column of the process")
        levels = pa.array(column.levels)
        shifted = pa.array(column.levels[1:] + column.levels[:1])
        table = _where(table, name, after, shifted.take(pc.index_in(table.column(name), levels)))
    return table


@_rows("duplicated_rows", "Chosen rows stand ten times, one after the other (rate 1: the whole file ten times).")
def _duplicated_rows(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return table.take(pa.array(np.repeat(np.arange(table.num_rows), np.where(rows, int(context.settings.factor), 1))))


@_rows("int_as_fraction", "A whole-number column is delivered as double, with half a unit too much in the chosen rows.")
def _int_as_fraction(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "int_as_fraction", table):
        column = table.column(name).cast(pa.float64())
        table = _set(table, name, pc.if_else(pa.array(rows), pc.add(column, 0.5), column))
    return table


# --- columns of files -----------------------------------------------------------------------------------------------


@_columns("int_as_double", "A whole-number column is delivered as double; no value changes.")
def _int_as_double(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "int_as_double", table):
        table = _set(table, name, table.column(name).cast(pa.float64()))
    return table


@_columns("double_as_int", "A column of doubles is delivered as int64, rounded: the decimals are lost at the source.")
def _double_as_int(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "double_as_int", table):
        table = _set(table, name, pc.round(table.column(name)).cast(pa.int64()))
    return table


@_columns("all_null_column", "A column without any value, stored as parquet's null type.")
def _all_null_column(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "all_null_column", table):
        table = _set(table, name, pa.nulls(table.num_rows))
    return table


@_columns("missing_column", "The listed columns are not in the file.")
def _missing_column(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    return table.drop_columns(_named(context, "missing_column", table))


@_columns("extra_column", "A column nobody asked for, the same text in every row.")
def _extra_column(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    if not context.settings.columns:
        raise ConfigError(
            f"quirk extra_column: process {context.process.name} names no column (quirks.extra_column.columns)"
        )
    for name in context.settings.columns:
        if name in table.column_names:
            raise ConfigError(f"quirk extra_column: {name} is there already")
        table = table.append_column(name, pa.repeat(pa.scalar(context.settings.value), table.num_rows))
    return table


@_columns("reordered_columns", "The columns in another order.")
def _reordered_columns(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    order = context.random.permutation(table.num_columns).tolist()
    if order == sorted(order):  # a shuffle that changes nothing is no quirk
        order.reverse()
    return table.select([table.column_names[place] for place in order])


@_columns("dictionary_strings", "Strings are stored as Arrow dictionaries, and read back as such.", arrow_schema=True)
def _dictionary_strings(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    columns = [c.dictionary_encode() if pa.types.is_string(c.type) else c for c in table.columns]
    return pa.table(columns, names=table.column_names)


@_columns("tz_aware", "The day is an instant: midnight of a time zone.", arrow_schema=True)
def _tz_aware(table: pa.Table, rows: Mask, context: Context) -> pa.Table:
    for name in _named(context, "tz_aware", table):
        column = table.column(name)
        if not pa.types.is_timestamp(column.type):
            raise DataError(f"quirk tz_aware: {name} is {column.type}, no longer a time")
        naive = column.cast(pa.timestamp("us"))
        zoned = pc.assume_timezone(naive, context.settings.value, ambiguous="earliest", nonexistent="latest")
        table = _set(table, name, zoned)
    return table


# --- files of a folder ----------------------------------------------------------------------------------------------


def _picked(files: list[Path], context: Context) -> list[Path]:
    return [files[place] for place in choose(len(files), context.rate, context.random)]


def _beside(path: Path, word: str) -> Path:
    """A name for a further file that sorts after the one it comes from."""
    return path.with_name(f"{path.name.removesuffix('.snappy.parquet').removesuffix('.parquet')}_{word}.snappy.parquet")


@_folder("late_files", "Chosen rows are missing from their files and arrive in one later file.", "rows")
def _late_files(files: list[Path], context: Context) -> list[Path]:
    counts = [_count_rows(path) for path in files]
    ends = np.cumsum(counts)
    chosen = choose(int(ends[-1]), context.rate, context.random)
    late, touched = [], []
    for path, count, end in zip(files, counts, ends, strict=True):
        inside = chosen[(chosen >= end - count) & (chosen < end)] - (end - count)
        if len(inside):
            table, mask = _read(path), pa.array(_mask(count, inside))
            late.append(table.filter(mask))
            _rewrite(table.filter(pc.invert(mask)), path)
            touched.append(path)
    target = _beside(files[-1], "late")
    _rewrite(pa.concat_tables(late, promote_options="default"), target)
    return [*touched, target]


@_folder("duplicated_file", "A file stands twice, byte for byte, under two names.")
def _duplicated_file(files: list[Path], context: Context) -> list[Path]:
    copies = []
    for path in _picked(files, context):
        copies.append(_beside(path, "copy"))
        shutil.copyfile(path, copies[-1])
    return copies


@_folder("redelivered_file", "A file's rows come again in another order, so in other bytes, under another name.")
def _redelivered_file(files: list[Path], context: Context) -> list[Path]:
    again = []
    for path in _picked(files, context):
        table = _read(path)
        again.append(_beside(path, "again"))
        _rewrite(table.take(pa.array(context.random.permutation(table.num_rows))), again[-1])
    return again


@_folder("truncated_file", "A file ends in the middle, without its footer.")
def _truncated_file(files: list[Path], context: Context) -> list[Path]:
    picked = _picked(files, context)
    for path in picked:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
    return picked


@_folder("empty_file", "Further files with the right columns and no rows.")
def _empty_file(files: list[Path], context: Context) -> list[Path]:
    empty = []
    for path in _picked(files, context):
        empty.append(_beside(path, "empty"))
        _rewrite(_read(path).slice(0, 0), empty[-1])
    return empty


@_folder("zero_byte_file", "Further files of zero bytes.")
def _zero_byte_file(files: list[Path], context: Context) -> list[Path]:
    empty = [_beside(path, "nothing") for path in _picked(files, context)]
    for path in empty:
        path.touch()
    return empty
