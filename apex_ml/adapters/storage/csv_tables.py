"""The files of a table that no contract describes yet, with those that are CSV as parquet."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from apex_ml.adapters.storage.csv_files import convert_csv, is_csv
from apex_ml.adapters.storage.csv_guess import guess_format, is_named_csv
from apex_ml.adapters.storage.files import name_errors
from apex_ml.adapters.storage.raw_folder import RawFiles
from apex_ml.contract.file_format import FileFormat

ANY_CSV = FileFormat(format="csv")


@dataclass(frozen=True)
class CsvTable:
    """The files of a table as parquet."""

    files: RawFiles
    form: FileFormat | None = None
    """The format of those that were CSV; None without one."""
    bad_lines: dict[str, int] = field(default_factory=dict)
    """Lines that cannot be parsed, by the rule that they break."""
    notes: tuple[str, ...] = ()
    """What a person should know of the format."""
    all_csv: bool = False

    @property
    def decimal_signs(self) -> str:
        """The decimal signs of numbers in text: files that were parquet have points."""
        return "" if self.form is None else self.form.decimal if self.all_csv else f"{self.form.decimal}."


@contextmanager
def csv_as_parquet(files: RawFiles) -> Iterator[CsvTable]:
    """The files as parquet, with the guessed format of those that are CSV by their name.

    The format is that of the first one. What is converted is removed at the end.
    """
    csv_files = [file for file in files.files if is_named_csv(file) and is_csv(file, ANY_CSV)]
    if not csv_files:
        yield CsvTable(files)
        return
    with name_errors(csv_files[0], files.name(csv_files[0])):
        form, notes = guess_format(csv_files[0])
    bad: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix=".apex-csv-") as folder:
        root = Path(folder)
        paths = []
        for file in files.files:
            path = root / files.name(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            if file in csv_files:
                with name_errors(file, files.name(file)):
                    converted = convert_csv(file, path.parent, form, (), lambda name: False, as_table=True)
                bad.update(converted.bad)
                converted.bad_path.unlink(missing_ok=True)
            else:
                path.symlink_to(file.absolute())
            paths.append(path)
        same = len(csv_files) == len(files.files)
        yield CsvTable(replace(files, root=root, files=tuple(paths)), form, dict(bad), notes, same)
