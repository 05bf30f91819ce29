"""Check data against a pipeline's contract without keeping anything: what a run would accept and quarantine."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.engine import StrictConnection, connect_strict, errors_name
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.duckdb.table_source import find_table
from apex_ml.adapters.storage.raw_folder import RawFiles
from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_NR
from apex_ml.contract.per_use import Use
from apex_ml.errors import DataError
from apex_ml.settings import Settings
from apex_ml.sql.data_check import count_classes
from apex_ml.text import visible_lines
from apex_ml.wording import counted

MAX_READ = 20_000
"""Quarantined rows of a file among which examples are looked for."""


@dataclass(frozen=True)
class BadRow:
    """A row that a run would quarantine. `rules` are `column: rule` of every reason."""

    file: str
    row_nr: int
    """Position in the file, from 0; of CSV its line, from 1."""
    rules: tuple[str, ...]
    is_line: bool = False


@dataclass(frozen=True)
class DataCheck:
    """The result for all files. `refused` are files that cannot be read or lack columns, with the reason."""

    use: Use
    files: int
    reports: tuple[FileReport, ...]
    refused: dict[str, str]
    left_out: dict[str, str]
    examples: tuple[BadRow, ...]
    """Quarantined rows, the first of each rule."""
    classes: dict[str, int]
    """Accepted rows by class of the contract."""
    limit: float
    """Share of the rows that may be quarantined."""

    @property
    def rows(self) -> int:
        """Rows of the files that can be read."""
        return sum(report.rows for report in self.reports)

    @property
    def has_no_rows(self) -> bool:
        """Whether files can be read and none has a row; a drop of this kind is taken, and scores nothing."""
        return not self.rows and not self.refused

    @property
    def quarantined(self) -> int:
        """Rows that a run would quarantine."""
        return sum(report.quarantined for report in self.reports)

    @property
    def quarantined_share(self) -> float:
        """Share of the rows that a run would quarantine."""
        return self.quarantined / self.rows if self.rows else 0.0

    def problems(self) -> list[str]:
        """Why a run would refuse this data; empty when it would not."""
        problems = [f"{name}: {reason}" for name, reason in self.refused.items()]
        if self.use == "train" and self.has_no_rows:
            problems.append(f"there is no row in {counted(len(self.reports), 'file')}: deliver a file with rows")
        if self.quarantined_share > self.limit:
            problems.append(
                f"{self.quarantined_share:.1%} of the rows would be quarantined; quarantine.limit allows"
                f" {self.limit:.1%} ({self.use})"
            )
        if self.use == "train" and self.rows and (empty := [name for name, n in self.classes.items() if not n]):
            problems.append(f"no accepted row has the class {', '.join(empty)}")
        return problems


def check_data(
    settings: Settings,
    contract: Contract,
    path: Path,
    use: Use,
    progress: Callable[[str], None] = lambda name: None,
    keep: Path | None = None,
) -> DataCheck:
    """Run the row checks of a contract on a file, or on all files below a folder, in bounded memory.

    The accepted rows are kept in the folder `keep`, a file for each; by default they are not. A file that cannot be
    read, or lacks a column, is in the result. Raises :class:`~apex_ml.errors.DataError` when there is no file.
    """
    files = find_table(path)
    reports: list[FileReport] = []
    refused: dict[str, str] = {}
    examples: dict[str, BadRow] = {}
    classes: Counter[str] = Counter(dict.fromkeys(contract.classes, 0))
    with connect_strict(settings) as con, tempfile.TemporaryDirectory(prefix=".apex-check-") as folder:
        for number, file in enumerate(files.files):
            progress(files.name(file))
            kept = None if keep is None else keep / f"part-{number:05d}.parquet"
            try:
                report, rows_by_class = _check(con, contract, files, file, use, Path(folder), examples, kept)
            except DataError as error:
                refused[files.name(file)] = str(error).removeprefix(f"{files.name(file)}: ")
                continue
            reports.append(report)
            classes.update(rows_by_class)
    limit = contract.quarantine.limit.on(use)
    rows = tuple(dict.fromkeys(examples.values()))
    return DataCheck(use, len(files.files), tuple(reports), refused, files.left_out, rows, dict(classes), limit)


def refuse_problems(pipeline: str, checked: DataCheck) -> None:
    """Raise :class:`~apex_ml.errors.DataError` when a run of the pipeline would refuse the data."""
    if problems := checked.problems():
        raise DataError(f"{pipeline}: a run would refuse this data:\n  " + "\n  ".join(map(visible_lines, problems)))


def _check(
    con: StrictConnection,
    contract: Contract,
    files: RawFiles,
    file: Path,
    use: Use,
    folder: Path,
    examples: dict[str, BadRow],
    kept: Path | None,
) -> tuple[FileReport, dict[str, int]]:
    """Check one file; `examples` gets the first quarantined row of every new rule, `kept` the accepted rows."""
    accepted, quarantined = kept or folder / "accepted.parquet", folder / "quarantined.parquet"
    copy = kept is not None
    name = files.name(file)
    try:
        report = check_file(
            con, file, contract, use, as_of=None, accepted=accepted, quarantined=quarantined, copy=copy, name=name
        )
        with errors_name(name):
            rows = con.execute(count_classes(contract, report.query)).fetchall()
        if report.quarantined:
            _add_examples(examples, name, quarantined, report.has_lines)
        return report, {value: n for value, n in rows if value in contract.classes}
    finally:
        if not copy:
            accepted.unlink(missing_ok=True)
        quarantined.unlink(missing_ok=True)


def _add_examples(examples: dict[str, BadRow], name: str, quarantined: Path, is_line: bool) -> None:
    rows_read = 0
    with pq.ParquetFile(quarantined) as file:
        for batch in file.iter_batches(batch_size=1000, columns=[ROW_NR, "reasons"]):
            for row in batch.to_pylist():
                rules = tuple(f"{reason['column']}: {reason['rule']}" for reason in json.loads(row["reasons"]))
                bad = BadRow(name, row[ROW_NR], rules, is_line)
                for rule in rules:
                    examples.setdefault(rule, bad)
            rows_read += len(batch)
            if rows_read >= MAX_READ:
                return
