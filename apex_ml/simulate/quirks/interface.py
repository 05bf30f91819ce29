"""What a quirk is: one named kind of damage, of a table or of a folder of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from apex_ml.simulate.process import Process, QuirkSettings

Rate = float | Literal["one"]
RateOf = Literal["rows", "clients", "files"]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Context:
    """The inputs of a quirk: process, its settings, seed, rate, and its own random stream."""

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


Quirks = dict[str, Quirk]
"""Quirks by name, in the order in which they are listed."""


def row_quirk(quirks: Quirks, name: str, description: str, rate_of: RateOf = "rows") -> Callable[[RowQuirk], RowQuirk]:
    """Add to `quirks` one that changes chosen rows of a table."""

    def register(function: RowQuirk) -> RowQuirk:
        quirks[name] = Quirk(name, description, rate_of, on_table=function)
        return function

    return register


def column_quirk(
    quirks: Quirks, name: str, description: str, *, arrow_schema: bool = False
) -> Callable[[RowQuirk], RowQuirk]:
    """Add to `quirks` one that changes whole columns of chosen files."""

    def register(function: RowQuirk) -> RowQuirk:
        quirks[name] = Quirk(name, description, "files", on_table=function, arrow_schema=arrow_schema)
        return function

    return register


def folder_quirk(
    quirks: Quirks, name: str, description: str, rate_of: RateOf = "files"
) -> Callable[[FolderQuirk], FolderQuirk]:
    """Add to `quirks` one that changes the files of a folder."""

    def register(function: FolderQuirk) -> FolderQuirk:
        quirks[name] = Quirk(name, description, rate_of, on_folder=function)
        return function

    return register
