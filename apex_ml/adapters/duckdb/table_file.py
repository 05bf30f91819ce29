"""A file as parquet: a parquet file itself, or a CSV file that is converted below a scratch folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from apex_ml.adapters.duckdb.engine import StrictConnection, errors_name
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.storage.csv_files import LINE, ConvertedCsv, convert_csv, is_csv
from apex_ml.contract.column_names import match_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import Use
from apex_ml.sql.bad_lines import copy_bad_lines


@dataclass(frozen=True)
class TableFile:
    """A parquet file with the rows of a file. `csv` says what was converted, None for a file that is parquet itself."""

    path: Path
    csv: ConvertedCsv | None = None


@contextmanager
def as_parquet(path: Path, contract: Contract, use: Use, scratch: Path) -> Iterator[TableFile]:
    """A file that the contract may have as CSV, as parquet. What is converted is removed at the end.

    Raises :class:`~apex_ml.errors.DataError` when its header cannot be read.
    """
    if not is_csv(path, contract.files):
        yield TableFile(path)
        return
    with tempfile.TemporaryDirectory(prefix=".csv-", dir=scratch) as folder:
        names = _names_without_header(contract, use)
        csv = convert_csv(path, Path(folder), contract.files, names, _TextColumns(contract))
        yield TableFile(csv.path, csv)


def _names_without_header(contract: Contract, use: Use) -> Sequence[Sequence[str]]:
    """The possible names of the columns of a file without a header; none where it has one."""
    names = contract.files.names
    if not names or use == "train":
        return [names] if names else []
    later = set(contract.file_columns) - set(contract.columns_of_drop())
    return [names, [name for name in names if name not in later]]


class _TextColumns:
    """Whether a column of a file, by its name there, holds text. One that the contract does not mention does."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def __call__(self, name: str) -> bool:
        matched = next(iter(match_columns(self._contract, [name]).places), None)
        return matched is None or self._contract.columns[matched].type == "string"


def add_bad_lines(con: StrictConnection, report: FileReport, csv: ConvertedCsv, quarantined: Path) -> FileReport:
    """Add the lines that cannot be parsed to the quarantined rows and to the report of the others."""
    # every column of a CSV file is text: that is no difference from the contract
    report = replace(report, cast=(), has_lines=True)
    if not csv.bad:
        return report
    with errors_name(csv.path.name):
        checked = quarantined.exists()
        merged = csv.bad_path.with_name("quarantined.parquet")
        con.execute(copy_bad_lines([*([quarantined] if checked else []), csv.bad_path], merged))
    merged.replace(quarantined)
    n = sum(csv.bad.values())
    return replace(
        report,
        rows=report.rows + n,
        quarantined=report.quarantined + n,
        reasons={f"{LINE}: {rule}": rows for rule, rows in csv.bad.items()} | report.reasons,
        examples={f"{LINE}: {rule}": texts for rule, texts in csv.examples.items()} | report.examples,
    )
