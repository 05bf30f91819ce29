"""The command `apex simulate`."""

from __future__ import annotations

import time
from datetime import date, datetime
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.simulated_truth import OPTIMUM_PREFIX, identity, truth_beside, write_truth
from apex_ml.errors import ConfigError
from apex_ml.settings import Settings
from apex_ml.simulate.files import mark_simulated, part_files, staged_folder, write_parts
from apex_ml.simulate.generate import bayes_log_loss, class_codes, simulate_orders
from apex_ml.simulate.posterior import posterior_predictive
from apex_ml.simulate.process import DEFAULT_PROCESS, Process, load_process, override_mode
from apex_ml.simulate.quirks import QUIRKS, apply_quirk, parse_quirk
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
    help="Number of clients they are drawn from.",
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
    help="Damage the files; RATE is a share (default 0.005) or 'one'. Repeatable, applied in turn.",
)
@click.option("--list-quirks", is_flag=True, help="Say what every quirk does, and stop.")
@click.option(
    "--truth",
    is_flag=False,
    flag_value=BESIDE,
    metavar="[FILE]",
    help="Also write each order's true class probabilities and the best that can be known of them, in the order of the "
    "undamaged files. Without a name: FOLDER.truth.parquet beside the folder, where training finds it.",
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
    """Generate orders whose process, and so the best reachable log loss, is known."""
    if list_quirks:
        for quirk in QUIRKS.values():
            click.echo(f"{quirk.name:<20} {quirk.rate_of:<6} {quirk.description}")
        return
    process = load_process(process_file)
    chosen = [parse_quirk(text, process) for text in quirks]
    drawn_mode = override_mode(process, mode, settings)
    if not 1 <= files <= orders:
        raise ConfigError(f"--files {files}: must be from 1 to the number of orders, {orders:,}")
    folder = local_folder(out or Settings.load().raw, "--out" if out else "APEX_RAW_URL").absolute()
    truth_file = None if truth is None else truth_beside(folder) if truth == BESIDE else Path(truth).absolute()
    if truth_file is not None and truth_file.is_dir():
        raise ConfigError(f"--truth {truth}: is a folder; name a file")
    if truth_file is not None and truth_file.parent == folder:
        raise ConfigError(f"--truth {truth}: lies in the raw folder, where it would be read as orders; choose another")

    began = time.perf_counter()
    days = [None if moment is None else moment.date() for moment in (start, end)]
    with staged_folder(folder, overwrite=overwrite) as stage:
        table, probabilities = simulate_orders(
            process,
            orders=orders,
            clients=clients,
            seed=seed,
            start=days[0],
            end=days[1],
            mode=drawn_mode,
            probabilities=True,
        )
        click.echo(
            f"{counted(orders, 'order')} drawn in {time.perf_counter() - began:.1f} s,"
            f" writing {counted(files, 'file')}",
            err=True,
        )
        label = f"{process!r} {drawn_mode!r} {orders} {clients} {seed} {days} {files}"
        write_parts(table, stage, files, label=label, entity=process.entity)
        for number, (name, rate, columns) in enumerate(chosen):
            touched = apply_quirk(stage, name, rate, seed + number, process, columns=columns)
            click.echo(f"{name} at {rate}: {counted(len(touched), 'file')} changed or added", err=True)
        mark_simulated(stage)
        if truth_file is not None:
            best = posterior_predictive(process, table, mode=drawn_mode, start=days[0])
            write_truth(_truth_table(process, table, probabilities, best), truth_file, identity(part_files(stage)))
    seconds = time.perf_counter() - began
    counts = np.bincount(class_codes(table, process), minlength=len(process.classes)) / orders
    mix = " · ".join(f"{name} {share:.4f}" for name, share in zip(process.classes, counts, strict=True))
    seen = len(table.column(process.entity).combine_chunks().indices.unique())
    first, last = _window(table, process.timestamp)
    click.echo(
        f"{counted(orders, 'order')} of {counted(seen, 'client')}, {first} to {last}, mode {mode}, seed {seed},"
        f" in {seconds:.1f} s"
    )
    click.echo(f"class mix: {mix}")
    click.echo(f"Bayes log loss: {bayes_log_loss(probabilities):.4f} nats (knowing all, each client's own effect too)")
    click.echo(f"written to {folder}")


def _window(table: pa.Table, timestamp: str) -> tuple[date, date]:
    days = table.column(timestamp).cast(pa.timestamp("s"))
    bounds = pc.min_max(days)
    return bounds["min"].as_py().date(), bounds["max"].as_py().date()


def _truth_table(process: Process, orders: pa.Table, probabilities: pa.Table, best: np.ndarray) -> pa.Table:
    """Entity, day, true probabilities and the best prediction of every order."""
    table = pa.table(
        {
            process.entity: orders.column(process.entity),
            process.timestamp: orders.column(process.timestamp).cast(pa.timestamp("s")).cast(pa.date32()),
        }
    )
    for name in probabilities.column_names:
        table = table.append_column(name, probabilities.column(name))
    for place, name in enumerate(process.classes):
        table = table.append_column(OPTIMUM_PREFIX + name, pa.array(best[:, place]))
    return table
