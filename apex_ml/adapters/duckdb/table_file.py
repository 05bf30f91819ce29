"""A file as parquet: a parquet file itself, or CSV or JSON lines that are converted below a scratch folder."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from apex_ml.adapters.duckdb.engine import StrictConnection, errors_name
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.storage.csv_files import convert_csv
from apex_ml.adapters.storage.json_lines import convert_json_lines
from apex_ml.adapters.storage.text_rows import ConvertedFile, is_text_table
from apex_ml.contract.column_names import match_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import Use
from apex_ml.sql.bad_lines import copy_bad_lines


@dataclass(frozen=True)
class TableFile:
    """A parquet file with the rows of a file. `text` says what was converted, None for one that is parquet itself."""

    path: Path
    text: ConvertedFile | None = None


@contextmanager
def as_parquet(
    path: Path,
    contract: Contract,
    use: Use,
    scratch: Path,
    in_path: Collection[str] = (),
    *,
    is_part: bool = False,
) -> Iterator[TableFile]:
    """A file that the contract may have as CSV or JSON lines, as parquet. What is converted is removed at the end.

    `in_path` are the columns in the names of its folders. A part of a folder may have no row. Raises
    :class:`~apex_ml.errors.DataError` when its header cannot be read.
    """
    if not is_text_table(path, contract.files):
        yield TableFile(path)
        return
    with tempfile.TemporaryDirectory(prefix=".csv-", dir=scratch) as folder:
        to, columns = Path(folder), _FileColumns(contract, use, in_path)
        if contract.files.format == "csv":
            names = _names_without_header(contract, use)
            text = convert_csv(path, to, contract.files, names, columns.is_text)
        else:
            text = convert_json_lines(path, to, contract.files, columns.matched, columns.absent, may_be_empty=is_part)
        yield TableFile(text.path, text)


def _names_without_header(contract: Contract, use: Use) -> Sequence[Sequence[str]]:
    """The possible names of the columns of a file without a header; none where it has one."""
    names = contract.files.names
    if not names or use == "train":
        return [names] if names else []
    later = set(contract.file_columns) - set(contract.columns_of_drop())
    return [names, [name for name in names if name not in later]]


@dataclass(frozen=True)
class _FileColumns:
    """The columns of the contract by their names in a file."""

    contract: Contract
    use: Use
    in_path: Collection[str]

    def matched(self, name: str) -> str | None:
        """The column of the contract that a column of the file is."""
        return next(iter(match_columns(self.contract, [name]).places), None)

    def is_text(self, name: str) -> bool:
        """Whether a column of the file holds text. One that the contract does not mention does."""
        matched = self.matched(name)
        return matched is None or self.contract.columns[matched].type == "string"

    def absent(self, names: Sequence[str]) -> list[str]:
        """The required columns that no object of a file has, where they may be null: an absent key is null."""
        matched = match_columns(self.contract, names)
        present = {*matched.places, *matched.near, *matched.ambiguous, *self.in_path}
        return [
            name
            for name in self.contract.file_columns
            if (column := self.contract.columns[name]).required.on(self.use)
            and column.nullable.on(self.use)
            and name not in present
        ]


def add_bad_lines(con: StrictConnection, report: FileReport, text: ConvertedFile, quarantined: Path) -> FileReport:
    """Add the lines that cannot be parsed to the quarantined rows and to the report of the others."""
    # every column of such a file is text: that is no difference from the contract
    report = replace(report, cast=(), has_lines=True)
    if not text.bad_rows:
        return report
    with errors_name(text.path.name):
        checked = quarantined.exists()
        merged = text.bad_path.with_name("quarantined.parquet")
        con.execute(copy_bad_lines([*([quarantined] if checked else []), text.bad_path], merged))
    merged.replace(quarantined)
    return replace(
        report,
        rows=report.rows + text.bad_rows,
        quarantined=report.quarantined + text.bad_rows,
        reasons=text.bad | report.reasons,  # no label is in both
        examples=text.examples | report.examples,
    )
