"""The files of a table that no contract describes yet, with those that are CSV or JSON lines as parquet."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from apex_ml.adapters.storage.csv_files import convert_csv
from apex_ml.adapters.storage.csv_guess import guess_format, is_named_csv, is_named_json_lines
from apex_ml.adapters.storage.files import name_errors
from apex_ml.adapters.storage.json_lines import convert_json_lines
from apex_ml.adapters.storage.raw_folder import RawFiles
from apex_ml.adapters.storage.text_rows import LINE, ConvertedFile, is_text_table
from apex_ml.contract.file_format import FileFormat
from apex_ml.errors import DataError

ANY_CSV, JSON_LINES = FileFormat(format="csv"), FileFormat(format="jsonl")


@dataclass(frozen=True)
class TextTable:
    """The files of a table as parquet."""

    files: RawFiles
    form: FileFormat | None = None
    """The format of those that were CSV or JSON lines; None without one."""
    bad_lines: dict[str, int] = field(default_factory=dict)
    """Lines that cannot be parsed, by the rule that they break."""
    notes: tuple[str, ...] = ()
    """What a person should know of the format."""
    all_csv: bool = False

    @property
    def decimal_signs(self) -> str:
        """The decimal signs of numbers in text: files that were parquet have points, and JSON has numbers itself."""
        if self.form is None or self.form.format != "csv":
            return ""
        return self.form.decimal if self.all_csv else f"{self.form.decimal}."


@contextmanager
def text_as_parquet(files: RawFiles) -> Iterator[TextTable]:
    """The files as parquet, with the guessed format of those that are CSV, or JSON lines, by their name.

    The format is that of the first one. What is converted is removed at the end.
    """
    named = [file for file in files.files if is_named_csv(file) and is_text_table(file, ANY_CSV)]
    lines = [file for file in files.files if is_named_json_lines(file) and is_text_table(file, JSON_LINES)]
    if named and lines:
        raise DataError(
            f"{files.name(named[0])} is CSV and {files.name(lines[0])} JSON lines; deliver all files in one format, or"
            " as parquet"
        )
    if not named and not lines:
        yield TextTable(files)
        return
    form, notes = JSON_LINES, tuple[str, ...]()
    if named:
        with name_errors(named[0], files.name(named[0])):
            form, notes = guess_format(named[0])
    bad: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix=".apex-csv-") as folder:
        root = Path(folder)
        paths = []
        for file in files.files:
            path = root / files.name(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            if file in named or file in lines:
                with name_errors(file, files.name(file)):
                    converted = _convert(file, path.parent, form)
                bad.update({label.removeprefix(f"{LINE}: "): rows for label, rows in converted.bad.items()})
                notes += tuple(note for note in converted.notes if note not in notes)
                converted.bad_path.unlink(missing_ok=True)
            else:
                path.symlink_to(file.absolute())
            paths.append(path)
        same = len(named) == len(files.files)
        yield TextTable(replace(files, root=root, files=tuple(paths)), form, dict(bad), notes, same)


def _convert(file: Path, folder: Path, form: FileFormat) -> ConvertedFile:
    if form.format == "jsonl":
        return convert_json_lines(file, folder, form, as_table=True)
    return convert_csv(file, folder, form, (), lambda name: False, as_table=True)
