"""The raw rows of a pipeline as parquet files, for what draws rows from them: a load test, invented drops."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apex_ml.adapters.storage.raw_folder import data_files
from apex_ml.adapters.storage.text_rows import is_text_table
from apex_ml.contract.pipeline import Pipeline
from apex_ml.errors import DataError
from apex_ml.services.data_check import check_data
from apex_ml.services.raw_location import PLACE, local_raw
from apex_ml.settings import Settings


@contextmanager
def raw_as_parquet(settings: Settings, pipeline: Pipeline) -> Iterator[Path]:
    """The folder of raw files; of CSV and JSON lines one with the rows that a run would accept, while the block runs.

    Raises :class:`~apex_ml.errors.DataError` when there is no file, or no row can be read.
    """
    folder = local_raw(settings, pipeline)
    with accepted_rows(settings, pipeline, folder, data_files(folder, PLACE)) as place:
        yield place


@contextmanager
def accepted_rows(settings: Settings, pipeline: Pipeline, path: Path, files: list[Path]) -> Iterator[Path]:
    """A file or a folder of files, as it is where all are parquet; else a folder with the accepted rows."""
    if not any(is_text_table(file, pipeline.contract.files) for file in files):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=".apex-rows-") as kept:
        checked = check_data(settings, pipeline.contract, path, "train", keep=Path(kept))
        if not checked.rows - checked.quarantined:
            raise DataError(f"{path}: no row can be read; `apex check {pipeline.name}` says why")
        yield Path(kept)
