"""The raw data of the main job: the folder that a user names, or simulated orders."""

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
from apex_ml.errors import ApexError, ConfigError, DataError
from apex_ml.file_names import hidden
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.simulate.files import is_simulated
from apex_ml.wording import counted

SIMULATED_ORDERS = 1_250_000
RAW = "locations.raw"
"""The key of the folder of raw files in a pipeline's file."""


def raw_folder(raw: str) -> Path:
    """Return the absolute folder of raw data.

    Raises :class:`~apex_ml.errors.ConfigError` when it is missing or holds no parquet file.
    """
    folder = local_folder(raw, "RAW").resolve()
    try:
        files = data_files(folder, "RAW")
    except DataError as error:
        raise ConfigError(str(error)) from error
    for file in files:
        with contextlib.suppress(ApexError):
            check_parquet(file)
            return folder
    raise ConfigError(f"RAW={folder}: no parquet file among its {counted(len(files), 'file')}, e.g. {files[0].name}")


@contextlib.contextmanager
def simulated_raw(settings: Settings, console: Console) -> Iterator[None]:
    """Fill an empty default raw folder with simulated orders while the block runs; wait for them at its end.

    A folder that a user chose is never filled. Raises :class:`~apex_ml.errors.ConfigError` when the simulator fails.
    """
    pipeline = load_pipeline(settings)
    folder = Path(pipeline.locations.raw)
    if pipeline.options.locations.raw or (folder.is_dir() and any(not hidden(name) for name in os.listdir(folder))):
        yield
        return
    refuse_foreign_simulation(settings)
    console.print(f"No raw data in {folder}: simulating {SIMULATED_ORDERS:,} orders", markup=False)
    command = [str(Path(sys.executable).with_name("apex")), "simulate", "--orders", str(SIMULATED_ORDERS)]
    # a separate process releases its memory before the training begins
    simulator = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "APEX_HOME": str(settings.home)},
    )
    try:
        yield
        output, _ = simulator.communicate()
    finally:
        if simulator.poll() is None:
            simulator.terminate()
            simulator.wait()
    if simulator.returncode:
        raise ConfigError(f"apex simulate failed (exit code {simulator.returncode}):\n{output.strip()}")
    console.print(output.strip(), markup=False)


def refuse_foreign_simulation(settings: Settings) -> None:
    """Raise ConfigError when the simulator cannot generate orders for the contract."""
    from apex_ml.simulate.process import load_process

    pipeline, process = load_pipeline(settings), load_process()
    contract = pipeline.contract
    roles = (contract.entity, contract.timestamp, contract.target)
    if roles != (process.entity, process.timestamp, process.target):
        raise ConfigError(
            f"no raw data in {pipeline.locations.raw}, and the simulator cannot generate any for {pipeline.file}"
            f" ({', '.join(roles)}): put parquet files there, or name your folder: RAW=/path/to/parquet make run"
        )


def has_generated_raw(settings: Settings) -> bool:
    """Whether all raw files are generated; then generated orders of the same clients do not mix with real data."""
    folder = local_folder(load_pipeline(settings).locations.raw, RAW)
    try:
        return is_simulated(folder, data_files(folder, RAW))
    except DataError:  # the retraining reports what is wrong with the folder
        return False
