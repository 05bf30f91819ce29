"""Columns of a file that are read from files beside it, as DuckDB cannot decode them there: DuckDB SQL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from apex_ml.sql.parquet import place_name, scan_parquet
from apex_ml.sql.quote import identifier, literal
from apex_ml.sql.row_checks import undecodable


@dataclass(frozen=True)
class RecoveredColumns:
    """Columns, by their places, that are not read from the file itself.

    `files` have a row for each row of the file. `hidden` are columns that cannot be read at all, each with the text
    that is shown in their place. `schema` is the file's, with the types of `files`.
    """

    schema: pa.Schema
    files: dict[int, Path]
    hidden: dict[int, str]

    @property
    def places(self) -> frozenset[int]:
        """Places of all these columns."""
        return frozenset(self.files) | frozenset(self.hidden)

    def columns(self, place: int) -> list[str]:
        """A column of :meth:`relation`, and its values that could not be decoded."""
        name = place_name(place)
        if place in self.files:
            return [f"{identifier(f'value {place}')} AS {name}", undecodable(place)]
        shown = f"CASE WHEN true THEN {literal(self.hidden[place])} END"
        return [f"CAST(NULL AS VARCHAR) AS {name}", f"{shown} AS {undecodable(place)}"]

    def relation(self, file: str) -> str:
        """The relation `file` with the columns beside it."""
        for place, path in self.files.items():
            names = f"{identifier(f'value {place}')}, {undecodable(place)}"
            file += f" POSITIONAL JOIN {scan_parquet(path)} AS {identifier(f'side {place}')}({names})"
        return file
