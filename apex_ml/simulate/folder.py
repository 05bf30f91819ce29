"""Fill a folder with simulated orders: draw them, write part files, damage them, and write the truth beside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa

from apex_ml.adapters.storage.simulated_truth import OPTIMUM_PREFIX, identity, write_truth
from apex_ml.simulate.draws import Floats
from apex_ml.simulate.files import mark_simulated, part_files, staged_folder, write_parts
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.posterior import posterior_predictive
from apex_ml.simulate.process import Mode, Process
from apex_ml.simulate.quirks.apply import apply_quirk
from apex_ml.simulate.quirks.interface import Rate
from apex_ml.wording import counted


@dataclass(frozen=True)
class Simulation:
    """What to simulate. Equal simulations write equal bytes."""

    process: Process
    mode: Mode
    orders: int
    clients: int
    seed: int
    start: date | None  # None: the process's, as for `end`
    end: date | None
    files: int
    quirks: tuple[tuple[str, Rate, list[str] | None], ...]  # name, rate, columns; applied in turn


def fill_folder(
    simulation: Simulation, folder: Path, truth_file: Path | None, *, overwrite: bool, report: Callable[[str], None]
) -> tuple[pa.Table, pa.Table]:
    """Write the part files, whole or not at all, and return the undamaged orders and their true probabilities.

    `report` gets a line after the draw and after each quirk. With `truth_file` the truth is written too.
    Raises ConfigError for a folder that must not be replaced, and as :func:`simulate_orders` and :func:`apply_quirk`.
    """
    s = simulation
    began = time.perf_counter()
    with staged_folder(folder, overwrite=overwrite) as stage:
        table, probabilities = simulate_orders(
            s.process,
            orders=s.orders,
            clients=s.clients,
            seed=s.seed,
            start=s.start,
            end=s.end,
            mode=s.mode,
            probabilities=True,
        )
        seconds = time.perf_counter() - began
        report(f"{counted(s.orders, 'order')} drawn in {seconds:.1f} s, writing {counted(s.files, 'file')}")
        label = f"{s.process!r} {s.mode!r} {s.orders} {s.clients} {s.seed} {[s.start, s.end]} {s.files}"
        write_parts(table, stage, s.files, label=label, entity=s.process.entity)
        for number, (name, rate, columns) in enumerate(s.quirks):
            touched = apply_quirk(stage, name, rate, s.seed + number, s.process, columns=columns)
            report(f"{name} at {rate}: {counted(len(touched), 'file')} changed or added")
        mark_simulated(stage)
        if truth_file is not None:
            best = posterior_predictive(s.process, table, mode=s.mode, start=s.start)
            write_truth(_truth_table(s.process, table, probabilities, best), truth_file, identity(part_files(stage)))
    return table, probabilities


def _truth_table(process: Process, orders: pa.Table, probabilities: pa.Table, best: Floats) -> pa.Table:
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
