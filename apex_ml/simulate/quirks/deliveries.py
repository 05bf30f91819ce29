"""Quirks of deliveries: files come late, twice, cut short or empty."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.simulate.quirks.interface import Context, Quirks, folder_quirk
from apex_ml.simulate.quirks.part_files import count_rows, read_file, replace_file
from apex_ml.simulate.quirks.selection import choose, mask_of, split_by_file

QUIRKS: Quirks = {}
_folder = partial(folder_quirk, QUIRKS)


def _picked(files: list[Path], context: Context) -> list[Path]:
    return [files[place] for place in choose(len(files), context.rate, context.random)]


def _beside(path: Path, word: str) -> Path:
    """A name for a copy that sorts after the original file."""
    return path.with_name(f"{path.name.removesuffix('.snappy.parquet').removesuffix('.parquet')}_{word}.snappy.parquet")


@_folder("late_files", "Chosen rows are missing from their files and arrive in one later file.", "rows")
def _late_files(files: list[Path], context: Context) -> list[Path]:
    counts = [count_rows(path) for path in files]
    chosen = choose(sum(counts), context.rate, context.random)
    late, touched = [], []
    for path, count, inside in zip(files, counts, split_by_file(counts, chosen), strict=True):
        if len(inside):
            table, mask = read_file(path), pa.array(mask_of(count, inside))
            late.append(table.filter(mask))
            replace_file(table.filter(pc.invert(mask)), path)
            touched.append(path)
    target = _beside(files[-1], "late")
    replace_file(pa.concat_tables(late, promote_options="default"), target)
    return [*touched, target]


@_folder("duplicated_file", "A file occurs twice, byte for byte, under two names.")
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
        table = read_file(path)
        again.append(_beside(path, "again"))
        replace_file(table.take(pa.array(context.random.permutation(table.num_rows))), again[-1])
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
        replace_file(read_file(path).slice(0, 0), empty[-1])
    return empty


@_folder("zero_byte_file", "Further files of zero bytes.")
def _zero_byte_file(files: list[Path], context: Context) -> list[Path]:
    empty = [_beside(path, "nothing") for path in _picked(files, context)]
    for path in empty:
        path.touch()
    return empty
