"""Random damage to a parquet file, as in real deliveries and worse; the same number gives the same damage.

A corruption takes a source file and writes the damaged one. Those of bytes leave a file that may be unreadable, or
readable with other values; those of tables leave a legal file with columns of other names, types or values.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BytesDamage = Callable[[bytearray, random.Random], None]
TableDamage = Callable[[pa.Table, random.Random], pa.Table]


@dataclass(frozen=True)
class Case:
    """A damaged file. `certain` means that it must be refused, because its checksums show the damage."""

    what: str
    path: Path
    certain: bool = False


# --- bytes ----------------------------------------------------------------------------------------------------------


def _flip(content: bytearray, chance: random.Random, start: int, end: int) -> None:
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        content[chance.randrange(start, max(end, start + 1))] ^= 1 << chance.randrange(8)


def _footer(content: bytearray) -> int:
    return len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]


def flip_anywhere(content: bytearray, chance: random.Random) -> None:
    _flip(content, chance, 0, len(content))


def flip_pages(content: bytearray, chance: random.Random) -> None:
    _flip(content, chance, 4, _footer(content))


def flip_footer(content: bytearray, chance: random.Random) -> None:
    _flip(content, chance, _footer(content), len(content) - 8)


def random_bytes(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    length = min(chance.choice([1, 4, 64, 1000]), len(content) - start)
    content[start : start + length] = chance.randbytes(length)


def zeros(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    length = min(chance.choice([8, 512, 4096]), len(content) - start)
    content[start : start + length] = bytes(length)


def missing_bytes(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    del content[start : start + chance.choice([1, 7, 512, 4096])]


def extra_bytes(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    content[start:start] = chance.randbytes(chance.choice([1, 7, 512]))


def truncated(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def cut_out_of_the_middle(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(4, _footer(content))
    del content[start : chance.randrange(start, _footer(content))]


def largest_numbers(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(_footer(content), len(content) - 16)
    content[start : start + 5] = b"\xff\xff\xff\xff\x0f"


def length_of_the_footer(content: bytearray, chance: random.Random) -> None:
    content[-8:-4] = struct.pack("<I", chance.choice([0, 1, 100, 2**31, 2**32 - 1, len(content)]))


BYTES: tuple[BytesDamage, ...] = (
    flip_anywhere, flip_pages, flip_pages, flip_pages, flip_footer, flip_footer, flip_footer, random_bytes, zeros,
    missing_bytes, extra_bytes, truncated, cut_out_of_the_middle, largest_numbers, length_of_the_footer,
)  # fmt: skip


def flip_page_with_checksum(source: Path, target: Path, chance: random.Random) -> None:
    """Change the last bytes of a column, which are the body of a page, in a file with checksums."""
    pq.write_table(pq.read_table(source), target, write_page_checksum=True)
    group = pq.read_metadata(target).row_group(0)
    chunk = group.column(chance.randrange(group.num_columns))
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    content = bytearray(target.read_bytes())
    content[start + chunk.total_compressed_size - chance.randrange(1, 3)] ^= 1 << chance.randrange(8)
    target.write_bytes(content)


# --- tables ---------------------------------------------------------------------------------------------------------


def _any(table: pa.Table, chance: random.Random) -> str:
    return str(chance.choice(table.column_names))


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, name, values)


def _some(table: pa.Table, chance: random.Random, name: str, value: Any) -> pa.Table:
    """Give some rows a value, as text; the column becomes one of strings."""
    texts = _texts(table.column(name))
    rows = {chance.randrange(len(texts)) for _ in range(chance.choice([1, 10, 500]))}
    return _with(table, name, pa.array([value if nr in rows else text for nr, text in enumerate(texts)], pa.string()))


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    if pa.types.is_temporal(column.type):  # of some Python holds no value
        column = column.cast(pa.string())
    return [None if v is None else str(v) for v in column.to_pylist()]


def shuffled_columns(table: pa.Table, chance: random.Random) -> pa.Table:
    return table.select(chance.sample(table.column_names, table.num_columns))


def dropped_columns(table: pa.Table, chance: random.Random) -> pa.Table:
    return table.drop_columns(chance.sample(table.column_names, chance.choice([1, 1, 3, table.num_columns - 1])))


def renamed_column(table: pa.Table, chance: random.Random) -> pa.Table:
    name = _any(table, chance)
    other = chance.choice([name.upper(), f" {name}", f"{name}\u200b", "x" * 5_000, "", "a.b", "row_nr", "select", '"'])
    return table.rename_columns([other if n == name else n for n in table.column_names])


def swapped_names(table: pa.Table, chance: random.Random) -> pa.Table:
    return table.rename_columns(chance.sample(table.column_names, table.num_columns))


def doubled_name(table: pa.Table, chance: random.Random) -> pa.Table:
    name, other = _any(table, chance), _any(table, chance)
    return pa.table([*table.columns, table.column(other)], names=[*table.column_names, name])


def _retyped(name: str, column: pa.ChunkedArray, chance: random.Random) -> pa.ChunkedArray | pa.Array:
    rows = len(column)
    makes: tuple[Callable[[], Any], ...] = (
        lambda: pa.array(_texts(column), pa.string()),
        lambda: pa.array(_texts(column), pa.large_string()),
        lambda: pa.array(_texts(column), pa.string_view()),
        lambda: pa.array(_texts(column)).dictionary_encode(),
        lambda: pa.array([None if t is None else t.encode() for t in _texts(column)], pa.binary()),
        lambda: pa.array([chance.randbytes(4) for _ in range(rows)], pa.binary(4)),
        lambda: pa.array([chance.choice([True, False, None]) for _ in range(rows)]),
        lambda: pa.array([chance.choice([0, 1, -1, 2**62, None]) for _ in range(rows)], pa.int64()),
        lambda: pa.array([chance.choice([0, 1, 2**64 - 1]) for _ in range(rows)], pa.uint64()),
        lambda: pa.array([chance.choice([0, 1, 127]) for _ in range(rows)], pa.int8()),
        lambda: pa.array([chance.choice([0.0, 1.5, 1e308, float("nan"), float("inf")]) for _ in range(rows)]),
        lambda: pa.array([1.5] * rows, pa.float16()),
        lambda: pa.array([Decimal(chance.randrange(10**30)).scaleb(-9)] * rows, pa.decimal128(38, 9)),
        lambda: pa.array([Decimal("1.5")] * rows, pa.decimal256(60, 20)),
        lambda: pa.array([chance.randrange(-(2**40), 2**40) for _ in range(rows)], pa.timestamp("ms")),
        lambda: pa.array([chance.choice([2**63 - 1, -(2**63) + 1, 0]) for _ in range(rows)], pa.timestamp("us")),
        lambda: pa.array([0] * rows, pa.timestamp("us", chance.choice(["UTC", "+05:30", "Asia/Tokyo"]))),
        lambda: pa.array([chance.randrange(-(10**5), 10**5) for _ in range(rows)], pa.date32()),
        lambda: pa.array([1] * rows, pa.time64("us")),
        lambda: pa.array([1] * rows, pa.duration("s")),
        lambda: pa.nulls(rows),
        lambda: pa.array([[t] for t in _texts(column)]),
        lambda: pa.array([{name: t, "other": 1} for t in _texts(column)]),
        lambda: pa.array([[("key", t)] for t in _texts(column)], pa.map_(pa.string(), pa.string())),
        lambda: pa.array([[[{"deep": t}], None] for t in _texts(column)]),
    )
    return chance.choice(makes)()


def retyped_column(table: pa.Table, chance: random.Random) -> pa.Table:
    name = _any(table, chance)
    return _with(table, name, _retyped(name, table.column(name), chance))


def retyped_columns(table: pa.Table, chance: random.Random) -> pa.Table:
    for _ in range(4):
        table = retyped_column(table, chance)
    return table


def odd_values(table: pa.Table, chance: random.Random) -> pa.Table:
    values = ["", " ", "\0", "\u00a0", "NULL", "nan", "'; DROP TABLE x; --", "ñ" * 300, "\U0001f600", "-1", "1e400"]
    for _ in range(3):
        table = _some(table, chance, _any(table, chance), chance.choice(values))
    return table


def huge_strings(table: pa.Table, chance: random.Random) -> pa.Table:
    return _some(table.slice(0, 50), chance, _any(table, chance), chance.choice("Ax\0 ") * 1_000_000)


def nulls_in_places(table: pa.Table, chance: random.Random) -> pa.Table:
    for _ in range(3):
        name = _any(table, chance)
        keep = pa.array([chance.random() > 0.2 for _ in range(table.num_rows)])
        column = table.column(name)
        table = _with(table, name, pc.if_else(keep, column, pa.scalar(None, column.type)))
    return table


def wrong_nullability(table: pa.Table, chance: random.Random) -> pa.Table:
    fields = [f.with_nullable(chance.random() < 0.5) for f in table.schema]
    return pa.table(table.columns, schema=pa.schema(fields))


def repeated_rows(table: pa.Table, chance: random.Random) -> pa.Table:
    return table.take(pa.array([chance.randrange(table.num_rows) for _ in range(table.num_rows)]))


def few_rows(table: pa.Table, chance: random.Random) -> pa.Table:
    return table.slice(0, chance.choice([0, 0, 1, 2]))


def many_columns(table: pa.Table, chance: random.Random) -> pa.Table:
    for nr in range(300):
        table = table.append_column(f"extra {nr}", pa.nulls(table.num_rows))
    return table


TABLES: tuple[TableDamage, ...] = (
    shuffled_columns, dropped_columns, renamed_column, renamed_column, swapped_names, doubled_name, retyped_column,
    retyped_column, retyped_column, retyped_columns, retyped_columns, odd_values, huge_strings, nulls_in_places,
    wrong_nullability, repeated_rows, few_rows, many_columns,
)  # fmt: skip


def _write(table: pa.Table, target: Path, chance: random.Random) -> None:
    pq.write_table(
        table,
        target,
        compression=chance.choice(["snappy", "zstd", "gzip", "none", "lz4", "brotli"]),
        use_dictionary=chance.random() < 0.7,
        row_group_size=chance.choice([50, 700, 10_000]),
        data_page_size=chance.choice([1_000, 2**20]),
        data_page_version=chance.choice(["1.0", "2.0"]),
        store_schema=chance.random() < 0.5,
        write_statistics=chance.random() < 0.8,
        write_page_checksum=chance.random() < 0.5,
    )


def corrupt(number: int, sources: list[Path], folder: Path) -> Case:
    """Make the damaged file of a number: half of them damaged in their bytes, half in their tables."""
    chance = random.Random(number)
    source = chance.choice(sources)
    target = folder / f"{number:04d}.parquet"
    draw = chance.random()
    if draw < 0.05:
        flip_page_with_checksum(source, target, chance)
        return Case(f"{number} flip_page_with_checksum {source.name}", target, certain=True)
    if draw < 0.5:
        damage = chance.choice(BYTES)
        content = bytearray(source.read_bytes())
        damage(content, chance)
        target.write_bytes(content)
        return Case(f"{number} {damage.__name__} {source.name}", target)
    change = chance.choice(TABLES)
    table = pq.read_table(source)
    if table.num_rows > 5_000:
        table = table.slice(chance.randrange(table.num_rows - 2_000), 2_000)
    changed = change(table, chance)
    names = [change.__name__]
    if chance.random() < 0.2:
        flips = chance.choice([flip_pages, flip_footer])
        _write(changed, target, chance)
        content = bytearray(target.read_bytes())
        flips(content, chance)
        target.write_bytes(content)
        names.append(flips.__name__)
    else:
        _write(changed, target, chance)
    return Case(f"{number} {' + '.join(names)} {source.name}", target)
