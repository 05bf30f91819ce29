"""The raw data of the main job: the folder that a user names, or sample data."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.parquet_files import check_parquet
from apex_ml.adapters.storage.raw_folder import data_files
from apex_ml.adapters.storage.text_rows import is_text_table
from apex_ml.contract.file_format import PARQUET, FileFormat
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.pipeline import Pipeline
from apex_ml.errors import ApexError, ConfigError, DataError
from apex_ml.file_names import hidden
from apex_ml.pipelines import load_pipeline
from apex_ml.services.raw_location import PLACE, is_copied
from apex_ml.settings import Settings
from apex_ml.simulate.files import is_simulated
from apex_ml.wording import counted

SAMPLE_PROGRAM = "sample_data.py"
"""Program beside a pipeline's file that fills a folder with sample data."""


def raw_place(raw: str, form: FileFormat = PARQUET) -> str:
    """The location of raw data as a pipeline keeps it: a URL of an object store, or an absolute folder.

    Raises as :func:`raw_folder` does; what is in an object store is seen when it is read.
    """
    return raw if is_object_store(raw) else str(raw_folder(raw, form))


def raw_folder(raw: str, form: FileFormat = PARQUET) -> Path:
    """Return the absolute folder of raw data.

    Raises :class:`~apex_ml.errors.ConfigError` when it is missing or holds no file of the format.
    """
    folder = local_folder(raw, "RAW").resolve()
    if is_copied(str(folder)):
        return folder
    try:
        files = data_files(folder, "RAW")
    except DataError as error:
        raise ConfigError(str(error)) from error
    for file in files:
        with contextlib.suppress(ApexError):
            if not is_text_table(file, form):
                check_parquet(file)
            return folder
    raise ConfigError(
        f"RAW={folder}: no {form.format} file among its {counted(len(files), 'file')}, e.g. {files[0].name}"
    )


@contextlib.contextmanager
def sample_raw(settings: Settings, console: Console) -> Iterator[None]:
    """Fill an empty default raw folder with sample data while the block runs; wait for it at its end.

    The program beside the pipeline's file, ``sample_data.py FOLDER``, writes the data. A folder that a user chose is
    never filled. Raises :class:`~apex_ml.errors.ConfigError` when there is no such program, or it fails.
    """
    pipeline = load_pipeline(settings)
    folder = Path(pipeline.locations.raw)
    if pipeline.options.locations.raw or (folder.is_dir() and any(not hidden(name) for name in os.listdir(folder))):
        yield
        return
    program = sample_program(pipeline)
    console.print(f"No raw data in {folder}: {program} writes sample data", markup=False)
    # a separate process releases its memory before the training begins
    process = subprocess.Popen(
        [sys.executable, str(program), str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "APEX_HOME": str(settings.home), "APEX_PIPELINE": pipeline.name},
    )
    try:
        yield
        output, _ = process.communicate()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        raise ConfigError(f"{program} failed (exit code {process.returncode}):\n{output.strip()}")
    console.print(output.strip(), markup=False)


def sample_program(pipeline: Pipeline) -> Path:
    """The program that writes sample data for a pipeline; ConfigError when there is none beside its file."""
    program = pipeline.file.with_name(SAMPLE_PROGRAM)
    if not program.is_file():
        raise ConfigError(
            f"no raw data in {pipeline.locations.raw}: put parquet files there, or name your folder:"
            f" RAW=/path/to/parquet make run (a program {program} could write sample data)"
        )
    return program


def has_generated_raw(settings: Settings) -> bool:
    """Whether all raw files are generated; then generated rows of the same entities do not mix with real data."""
    raw = load_pipeline(settings).locations.raw
    if is_object_store(raw):
        return False
    folder = local_folder(raw, PLACE)
    try:
        return is_simulated(folder, data_files(folder, PLACE))
    except DataError:  # the retraining reports what is wrong with the folder
        return False
