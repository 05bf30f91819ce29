"""A run of the step validate on a folder, without Postgres and Great Expectations, with all its outputs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.expectations import project
from apex_ml.errors import DataError
from apex_ml.settings import Settings
from apex_ml.simulate.files import part_files
from apex_ml.steps import validate as step
from tests.support.apex_home import context_of


@dataclass
class Night:
    """The outcome of a folder. `accepted` and `quarantined` hold tables by file name; `error` of a failed run."""

    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    reports: dict[str, FileReport] = field(default_factory=dict)
    accepted: dict[str, pa.Table] = field(default_factory=dict)
    quarantined: dict[str, pa.Table] = field(default_factory=dict)
    rows_in: int = 0
    unusable: list[str] = field(default_factory=list)

    def total(self, kind: str) -> dict[str, int]:
        """Counts of `reasons`, `warnings` or `normalised` over all files, by rule."""
        results: dict[str, int] = {}
        for report in self.reports.values():
            for rule, n in getattr(report, kind).items():
                results[rule] = results.get(rule, 0) + n
        return results

    @property
    def rows(self) -> pa.Table:
        """All accepted rows, sorted by their values."""
        table = pa.concat_tables(self.accepted.values())
        return table.sort_by([(name, "ascending") for name in table.column_names])


def rows_of(path: Path) -> int | None:
    """Number of rows in the footer of a file; None without a footer."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError):
        return None


@dataclass(frozen=True)
class Nights:
    """Runs in one home; successful ones are the history of later ones."""

    settings: Settings
    patch: pytest.MonkeyPatch

    def run(self, folder: Path, name: str, as_of: date | None = None) -> Night:
        """Validate a folder. In every case each row is accepted, quarantined or in a reported file."""
        night = Night()

        def spy(con: Any, path: Path, *args: Any, accepted: Path, quarantined: Path, **options: Any) -> FileReport:
            report = check_file(con, path, *args, accepted=accepted, quarantined=quarantined, **options)
            night.reports[path.name] = report
            night.accepted[path.name] = pq.read_table(accepted)
            night.quarantined[path.name] = (
                pq.read_table(quarantined) if quarantined.exists() else pa.table({"row_nr": pa.array([], pa.int64())})
            )
            return report

        verdict = project.BatchVerdict(0, (), (), project.docs_index(self.settings, "orders"))
        self.patch.setattr(step, "check_file", spy)
        self.patch.setattr(step, "latest_input", lambda *_: None)
        self.patch.setattr(step, "keep_quarantined", lambda *_: None)
        self.patch.setattr(project, "check_batch", lambda *_: verdict)
        context = context_of(self.settings, name)
        try:
            night.result = step.validate(context, raw=str(folder), as_of=as_of, force=True).to_json()
        except DataError as error:
            night.error = str(error)
        self._nothing_is_lost(folder, night)
        return night

    def _nothing_is_lost(self, folder: Path, night: Night) -> None:
        contents: dict[bytes, str] = {}
        for path in part_files(folder):
            first = contents.setdefault(path.read_bytes(), path.name)
            if first not in night.reports:
                assert re.search(rf"\b{re.escape(path.name)}\b", night.error), f"{path.name} is not named"
                night.unusable.append(path.name)
                continue
            if first != path.name:
                assert night.error or path.name in night.result["redelivered"]
                continue
            report = night.reports[path.name]
            accepted, quarantined = night.accepted[path.name], night.quarantined[path.name]
            assert report.rows == rows_of(path)
            assert report.rows == report.accepted + report.quarantined
            assert (report.accepted, report.quarantined) == (accepted.num_rows, quarantined.num_rows)
            for row in quarantined.slice(0, 100).to_pylist():
                assert json.loads(row["reasons"]), "quarantined without a reason"
                json.loads(row["row"], parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
            night.rows_in += report.rows
