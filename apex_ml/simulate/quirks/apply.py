"""Damage a table or a folder of files with one quirk, as deliveries are damaged in practice: at a rate, by seed."""

from __future__ import annotations

from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa

from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.draws import stream
from apex_ml.simulate.files import part_files
from apex_ml.simulate.process import Process, QuirkSettings
from apex_ml.simulate.quirks.catalog import quirk_of
from apex_ml.simulate.quirks.interface import Context, Mask, Quirk, Rate
from apex_ml.simulate.quirks.part_files import count_rows, decode_dictionaries, read_file, replace_file
from apex_ml.simulate.quirks.selection import check_rate, choose, mask_of, split_by_file


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
        return _damage(decode_dictionaries(what), mask_of(what.num_rows, rows), quirk, context)
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
    counts = [count_rows(path) for path in files]
    ends = np.cumsum(counts)
    if quirk.rate_of != "files":
        chosen = choose(int(ends[-1]), context.rate, context.random)
    else:
        picked = choose(len(files), context.rate, context.random)
        chosen = np.concatenate([np.arange(ends[place] - counts[place], ends[place]) for place in picked])
    touched = []
    for path, count, inside in zip(files, counts, split_by_file(counts, chosen), strict=True):
        if len(inside) or (quirk.rate_of == "clients" and context.rate != "one"):
            damaged = _damage(read_file(path), mask_of(count, inside), quirk, context)
            replace_file(damaged, path, arrow_schema=quirk.arrow_schema)
            touched.append(path)
    return touched
