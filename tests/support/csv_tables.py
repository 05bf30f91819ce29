"""Tables as CSV files, as the programs of an office write them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any


def write_csv(path: Path, columns: Mapping[str, Sequence[Any]], *, bad_lines: Sequence[str] = ()) -> Path:
    """Write a table with semicolons, decimal commas and days as DD/MM/YYYY, in the encoding of Windows.

    The bad lines are behind the first row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="cp1252", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(columns)
        for nr, row in enumerate(zip(*columns.values(), strict=True)):
            writer.writerow(map(_cell, row))
            if nr == 0:
                file.writelines(f"{line}\r\n" for line in bad_lines)
    return path


def _cell(value: Any) -> str:
    if isinstance(value, date):
        return value.strftime("%d/%m/%Y")
    return str(value).replace(".", ",") if isinstance(value, float) else str(value)
