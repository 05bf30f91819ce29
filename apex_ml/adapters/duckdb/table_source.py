"""The files of a table that no contract describes yet, as one relation in DuckDB with the columns named by place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa

from apex_ml.adapters.duckdb.engine import StrictConnection, errors_name, one_row
from apex_ml.adapters.duckdb.file_schema import read_schema
from apex_ml.adapters.duckdb.plain_types import SAMPLED_ROWS, read_plain
from apex_ml.adapters.storage.files import name_errors
from apex_ml.adapters.storage.parquet_pages import verify_pages
from apex_ml.adapters.storage.path_keys import path_keys
from apex_ml.adapters.storage.raw_folder import RawFiles, raw_files
from apex_ml.contract.expressions import parse_expression
from apex_ml.core.table_profile.date_parts import DateParts, likely_date_parts
from apex_ml.core.table_profile.values import Kind, OddTexts, Source
from apex_ml.errors import DataError
from apex_ml.sql import table_profile as sql
from apex_ml.sql.file_types import type_name
from apex_ml.sql.parquet import place_name
from apex_ml.sql.quote import literal
from apex_ml.text import visible

DATE_FORMATS = (
    *("%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d"),
    *(
        "%Y-%m-%d %H:%M:%S",
        "%Y-%m-%dT%H:%M:%S",
        "%Y-%m-%dT%H:%M:%S%z",
        "%Y-%m-%d %H:%M:%S%z",
        "%Y-%m-%d %H:%M:%S %z",
        "%d/%m/%Y %H:%M:%S",
        "%m/%d/%Y %H:%M:%S",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%dT%H:%M%z",
        "%Y-%m-%d %H:%M%z",
        "%d/%m/%Y %H:%M",
        "%m/%d/%Y %H:%M",
        "%m/%d/%Y %I:%M %p",
        "%Y%m%d%H%M%S",
    ),
    *(f"%Y-%m-%d{between}%H:%M:%S.%f{zone}" for between in (" ", "T") for zone in ("", "%z")),
)
"""Formats of dates that are recognised in texts; of two that fit all values the first is taken."""
TEXT = "string"
"""The type of a column in the path of a file."""
MAX_UNREADABLE = 0.005
"""Share of texts that are no dates, such as n/a, up to which a column holds dates."""
DAYS_SHARE = 0.99
"""Share of rows from which columns are the parts of a day."""
YEARS = 1900, 2100
"""Years of a day in parts: other whole numbers are no years."""
_KINDS: dict[str, Kind] = {
    "BOOLEAN": "boolean",
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"), "integer"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"), "integer"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "number"),
    **dict.fromkeys(("VARCHAR", "UUID"), "text"),
    "DATE": "date",
}


@dataclass(frozen=True)
class TableColumn:
    """A column of the relation: its own name, its name there, and what it holds."""

    name: str
    sql: str
    kind: Kind
    formats: tuple[str, ...] = ()
    """Formats of its texts, which are read as timestamps."""
    nanoseconds: int = 0
    """Times that microseconds do not hold."""
    unreadable: int = 0
    """Texts that no format reads, which count as null."""
    odd: OddTexts | None = None
    """Texts among the numbers of a CSV column."""
    parts: DateParts | None = None
    """The columns of which it is the day, where the files do not hold it."""


def find_table(path: Path) -> RawFiles:
    """The files of a table: one file, or those below a folder.

    Raises :class:`~apex_ml.errors.DataError` when there are none.
    """
    if path.is_dir():
        return raw_files(path.absolute(), "FOLDER")
    if not path.exists():
        raise DataError(
            f"{path}: there is no such file or folder; name a parquet, CSV or JSON lines file, or a folder of them"
        )
    if path.suffix.lower() in (".json", ".xlsx"):
        raise DataError(
            f"{path.name}: Apex reads parquet, CSV and JSON lines (.jsonl), and this is {path.suffix}; write it as"
            ' one of them, for example by pandas.read_json("…").to_parquet("…")'
        )
    root = path.absolute().parent
    while "=" in root.name:  # such a folder names a column
        root = root.parent
    return RawFiles(root, (path.absolute(),), {}, {})


def open_table(
    con: StrictConnection, path: Path, files: RawFiles, target: str | None = None, *, decimal_signs: str = ""
) -> tuple[Source, list[TableColumn]]:
    """Make the files one relation. Columns that other files have with another type get a type that holds both.

    Without a date or timestamp, columns with year, month and day become one behind the others; the target is no part.
    With `decimal_signs` files were CSV: texts of numbers with one of them, or of truth values, are read as such.
    Raises :class:`~apex_ml.errors.DataError` for a file that cannot be read or has no columns, and for a table with a
    repeated name.
    """
    schemas = [_schema(con, file, files.name(file)) for file in files.files]
    keys = [_keys(schema, files.name(file)) for file, schema in zip(files.files, schemas, strict=True)]
    of_folders = list(dict.fromkeys(name for of_file in keys for name in of_file))
    names = list(dict.fromkeys([*(name for schema in schemas for name in schema.names), *of_folders]))
    groups: dict[tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str | None], ...]], list[Path]] = {}
    for file, schema, of_file in zip(files.files, schemas, keys, strict=True):
        groups.setdefault((_described(schema), tuple(of_file.items())), []).append(file)
    types: dict[str, list[str]] = {name: [] for name in names}
    for described, of_group in groups:
        for name, kind in (*described, *((name, TEXT) for name, _ in of_group)):
            types[name] += [kind] if kind not in types[name] else []
    _refuse_unlike(path.name, schemas, types)
    views = [(paths, _places(names, [name for name, _ in own], dict(of))) for (own, of), paths in groups.items()]
    columns = _read_columns(con, path.name, names, views, target, names if decimal_signs else of_folders, decimal_signs)
    # DuckDB reads the whole numbers of a duration, which no contract takes
    lasting = {name for name, kinds in types.items() if kinds[0].startswith("duration")}
    columns = [replace(column, kind="other") if column.name in lasting else column for column in columns]
    held = [{*schema.names, *of_file} for schema, of_file in zip(schemas, keys, strict=True)]
    lacking = {name: sum(name not in of_file for of_file in held) for name in names}
    source = Source(
        visible(path.absolute().name or str(path)),
        len(files.files),
        sum(file.stat().st_size for file in files.files),
        dict(files.left_out),
        tuple((name, kinds[0]) for name, kinds in types.items()),
        {name: tuple(kinds) for name, kinds in types.items() if len(kinds) > 1},
        {name: n for name, n in lacking.items() if n},
        tuple(of_folders),
    )
    return source, columns


def _keys(schema: pa.Schema, name: str) -> dict[str, str | None]:
    """The columns in the path of a file, such as year=2024, that it does not hold itself."""
    return {key: value for key, value in path_keys(name).items() if key not in schema.names}


def _schema(con: StrictConnection, file: Path, name: str) -> pa.Schema:
    with name_errors(file, name):
        schema = read_schema(file)
        if not schema.names:
            raise DataError(f"{file.name}: has no columns; deliver a table with at least one")
        if twice := sorted({n for n in schema.names if schema.names.count(n) > 1}):
            raise DataError(f"{file.name}: repeated columns: {', '.join(map(visible, twice))}; deliver each once")
        verify_pages(con, file)
    return schema


def _refuse_unlike(shown: str, schemas: Sequence[pa.Schema], types: Mapping[str, Sequence[str]]) -> None:
    """Refuse a column that is a list or structure in one file and of another type in the next."""
    for name, kinds in types.items():
        fields = [schema.field(name).type for schema in schemas if name in schema.names]
        if len(kinds) > 1 and any(map(pa.types.is_nested, fields)):
            raise DataError(f"{shown}: {visible(name)} is {' in one file and '.join(kinds)} in another; use one type")


def _described(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    return tuple((field.name, type_name(field.type)) for field in schema)


def _places(names: Sequence[str], own: Sequence[str], keys: Mapping[str, str | None]) -> list[int | str | None]:
    """By column, its place in the files of a group, or SQL of its value in the path."""
    places: dict[str, int | str | None] = {
        key: None if value is None else literal(value) for key, value in keys.items()
    }
    places |= {name: place for place, name in enumerate(own)}
    return [places.get(name) for name in names]


def _read_columns(
    con: StrictConnection,
    shown: str,
    names: Sequence[str],
    views: Sequence[tuple[Sequence[Path], Sequence[int | str | None]]],
    target: str | None,
    texts: Collection[str],
    signs: str,
) -> list[TableColumn]:
    """Create the relation; bytes that are text, and texts that are dates, are read as such, days in parts joined.

    `texts` are the columns that are text in any case: those of numbers or truth values are read as such, too. `signs`
    are the decimal signs of CSV files, in whose columns a few texts may be no numbers.
    """
    with errors_name(shown):
        con.execute(sql.create_table_view(views))
        types = [str(row[1]) for row in con.execute(sql.DESCRIBE_TABLE).fetchall()][: len(names)]
        read_as: dict[int, str] = {}
        columns = []
        for nr, (name, kind) in enumerate(zip(names, types, strict=True)):
            column = TableColumn(name, place_name(nr), _kind(kind))
            if kind == "BLOB" and _all_readable(con, column.sql, decoded := sql.decoded(column.sql)):
                read_as[nr] = decoded
                column = TableColumn(name, place_name(nr), "text")
            elif kind == "FLOAT":
                read_as[nr] = sql.widened(column.sql)
            elif kind == "VARCHAR" and (
                formats := _date_formats(con, column.sql, 0 if name == target else MAX_UNREADABLE)
            ):
                read_as[nr] = sql.parsed(column.sql, formats)
                (fine,) = one_row(con, sql.count_nanoseconds(column.sql, formats))
                values, readable = one_row(con, sql.count_readable(column.sql, [read_as[nr]]))
                column = TableColumn(name, place_name(nr), "timestamp", formats, fine, values - readable)
            elif kind in ("TIMESTAMP_NS", "TIMESTAMPTZ_NS"):
                (fine,) = one_row(con, sql.count_nanoseconds(column.sql, ()))
                column = TableColumn(name, place_name(nr), "timestamp", nanoseconds=fine)
            elif kind == "VARCHAR" and name in texts:
                plain = read_plain(con, name, column.sql, signs or ".", exact=name == target or not signs)
                if plain is not None:
                    read_as |= {} if plain.sql is None else {nr: plain.sql}
                    column = replace(column, kind=plain.kind, odd=plain.odd)
            columns.append(column)
        if read_as:
            con.execute(sql.create_table_view(views, read_as))
        if not any(column.kind in ("date", "timestamp") for column in columns):
            for day, expression in _days(con, columns, target):
                con.execute(sql.create_table_view(views, read_as, {len(columns): expression}))
                return [*columns, day]
        return columns


def _days(
    con: StrictConnection, columns: Sequence[TableColumn], target: str | None
) -> Iterator[tuple[TableColumn, str]]:
    """Days that the table holds in parts, each with its SQL: nearly every row has one, in a year of our time."""
    places = {column.name: column.sql for column in columns}
    for parts in likely_date_parts([(column.name, column.kind) for column in columns], [target]):
        day = sql.day_of_parts(parse_expression(parts.expression).sql(places))
        rows, days, first, last = one_row(con, sql.count_days(day))
        if days and days >= DAYS_SHARE * rows and YEARS[0] <= first <= last <= YEARS[1]:
            yield TableColumn(parts.name, place_name(len(columns)), "date", parts=parts), day


def _kind(duckdb_type: str) -> Kind:
    if duckdb_type.startswith("TIMESTAMP"):
        return "timestamp"
    if duckdb_type.startswith("DECIMAL"):
        return "number"
    return "text" if duckdb_type.startswith("ENUM") else _KINDS.get(duckdb_type, "other")


def _all_readable(con: StrictConnection, column: str, reading: str) -> bool:
    values, readable = one_row(con, sql.count_readable(column, [reading]))
    return bool(values) and readable >= values


def _date_formats(con: StrictConnection, column: str, max_unreadable: float) -> tuple[str, ...]:
    """The formats by which nearly every text is a date; none when more are not. A sample says which are tried."""
    readings = {form: sql.parsed(column, [form]) for form in DATE_FORMATS}
    try:
        values, *counts = one_row(con, sql.count_readable(column, readings.values(), SAMPLED_ROWS))
        by_format = dict(zip(DATE_FORMATS, counts, strict=True))
        tried = sorted((form for form in DATE_FORMATS if by_format[form]), key=lambda form: -by_format[form])
        if not values or sum(counts) < (1 - 2 * max_unreadable) * values:
            return ()
        if by_format[tried[0]] == values and _all_readable(con, column, readings[tried[0]]):
            return (tried[0],)
        values, readable = one_row(con, sql.count_readable(column, [sql.parsed(column, tried)]))
        if values - readable > max_unreadable * values:
            return ()
        for form in reversed(tried):  # one that reads nothing that the others do not
            rest = [other for other in tried if other != form]
            if rest and one_row(con, sql.count_readable(column, [sql.parsed(column, rest)]))[1] == readable:
                tried = rest
        return tuple(tried)
    except duckdb.InvalidInputException:  # a text that is not UTF-8
        return ()
