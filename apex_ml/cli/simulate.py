"""The command `apex simulate`."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.simulated_truth import truth_beside
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.simulate.folder import Simulation, fill_folder
from apex_ml.simulate.log_loss import bayes_log_loss, class_codes
from apex_ml.simulate.process import DEFAULT_PROCESS, Process, load_process, override_mode
from apex_ml.simulate.quirks.catalog import QUIRKS, parse_quirk
from apex_ml.wording import counted

BESIDE = "(beside the folder)"
DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--out", help="Folder to fill. Default: the raw folder of the settings.")
@click.option("--orders", default=1_250_000, show_default=True, help="Number of orders.")
@click.option(
    "--clients",
    default=150_000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of clients of the orders.",
)
@click.option("--seed", default=7, show_default=True, help="The same seed and options give the same bytes.")
@click.option("--start", type=DAY, help="First day. Default: the process file's.")
@click.option("--end", type=DAY, help="Last day, included. Default: the process file's.")
@click.option("--mode", default="base", show_default=True, help="A mode of the process file: base, signal, year.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the mode: persistence=0.4, effect_sd.DIGITAL=1.2, drift.prices.day=2024-07-01, drift=null.",
)
@click.option("--files", default=8, show_default=True, help="Number of part files.")
@click.option(
    "--quirk",
    "quirks",
    multiple=True,
    metavar="NAME[:RATE[:COLUMN,…]]",
    help="Damage the files; RATE is a share (default 0.005) or 'one'. Repeatable, applied in order.",
)
@click.option("--list-quirks", is_flag=True, help="Say what every quirk does, and stop.")
@click.option(
    "--truth",
    is_flag=False,
    flag_value=BESIDE,
    metavar="[FILE]",
    help="Also write each order's true class probabilities and the best possible prediction, in the order of the "
    "undamaged files. Without a name: FOLDER.truth.parquet next to the folder, where training reads it.",
)
@click.option(
    "--process", "process_file", type=click.Path(path_type=Path), default=DEFAULT_PROCESS, help="Another process file."
)
@click.option("--overwrite", is_flag=True, help="Replace the part files already in the folder.")
def simulate(
    out: str | None,
    orders: int,
    clients: int,
    seed: int,
    start: datetime | None,
    end: datetime | None,
    mode: str,
    settings: tuple[str, ...],
    files: int,
    quirks: tuple[str, ...],
    list_quirks: bool,
    truth: str | None,
    process_file: Path,
    overwrite: bool,
) -> None:
    """Generate orders from a known process, so that the best possible log loss is known."""
    if list_quirks:
        for quirk in QUIRKS.values():
            click.echo(f"{quirk.name:<20} {quirk.rate_of:<6} {quirk.description}")
        return
    process = load_process(process_file)
    simulation = Simulation(
        process=process,
        quirks=tuple(parse_quirk(text, process) for text in quirks),
        mode=override_mode(process, mode, settings),
        orders=orders,
        clients=clients,
        seed=seed,
        start=start.date() if start else None,
        end=end.date() if end else None,
        files=files,
    )
    if orders < 1:
        raise ConfigError(f"--orders {orders}: must be 1 or more")
    if not 1 <= files <= orders:
        raise ConfigError(f"--files {files}: must be from 1 to the number of orders, {orders:,}")
    folder = local_folder(
        out or load_pipeline(Settings.load()).locations.raw, "--out" if out else "locations.raw"
    ).absolute()
    truth_file = _truth_file(truth, folder)

    began = time.perf_counter()
    table, probabilities = fill_folder(
        simulation, folder, truth_file, overwrite=overwrite, report=lambda line: click.echo(line, err=True)
    )
    seconds = time.perf_counter() - began
    click.echo(f"{_summary(process, table)}, mode {mode}, seed {seed}, in {seconds:.1f} s")
    click.echo(f"class mix: {_class_mix(process, table)}")
    click.echo(f"Bayes log loss: {bayes_log_loss(probabilities):.4f} nats (knowing each client's own effect, too)")
    click.echo(f"written to {folder}")


def _truth_file(truth: str | None, folder: Path) -> Path | None:
    if truth is None:
        return None
    file = truth_beside(folder) if truth == BESIDE else Path(truth).absolute()
    if file.is_dir():
        raise ConfigError(f"--truth {truth}: is a folder; name a file")
    if file.parent == folder:
        raise ConfigError(f"--truth {truth}: lies in the raw folder, where it would be read as orders; choose another")
    return file


def _class_mix(process: Process, table: pa.Table) -> str:
    shares = np.bincount(class_codes(table, process), minlength=len(process.classes)) / table.num_rows
    return " · ".join(f"{name} {share:.4f}" for name, share in zip(process.classes, shares, strict=True))


def _summary(process: Process, table: pa.Table) -> str:
    """Number of orders and clients, first and last day."""
    clients = len(table.column(process.entity).combine_chunks().indices.unique())
    bounds = pc.min_max(table.column(process.timestamp).cast(pa.timestamp("s")))
    first, last = (bounds[end].as_py().date() for end in ("min", "max"))
    return f"{counted(table.num_rows, 'order')} of {counted(clients, 'client')}, {first} to {last}"
