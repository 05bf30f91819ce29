"""Measure every target: ``python -m benchmarks [--only NAME] [--raw FOLDER]``.

Prints a table and writes build/bench.json. Exits with 1 when a target is missed or a measurement failed. It removes all
that it starts, also after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click
import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from apex_ml.services.run_folder import git_commit
from apex_ml.settings import CODE_ROOT
from benchmarks import (  # noqa: F401  (importing registers)
    any_table,
    dags,
    derived,
    drift,
    features,
    folder_drops,
    gate,
    idle,
    kills,
    lands,
    main_job,
    model_quality,
    models,
    object_stores,
    overview,
    page,
    pipelines,
    quality,
    retrain,
    score,
    score_large,
    serving,
    steps,
    suite,
    workers,
)
from benchmarks.registry import MEASUREMENTS, Row
from benchmarks.scene import Scene

PIPE_WIDTH = 170
REPORT = CODE_ROOT / "build" / "bench.json"


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(MEASUREMENTS)), help="Measure this alone; repeatable.")
@click.option(
    "--raw",
    envvar="APEX_TEST_RAW",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="Folder of raw parquet files. Default: APEX_TEST_RAW, else 1,250,000 generated rows.",
)
def bench(only: tuple[str, ...], raw: Path | None) -> None:
    """Measure every target of the project, each with a floor or a peer to compare."""
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ["APEX_PIPELINE"] = "orders"  # what is measured, unless a measurement names others
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)  # a pipe has no width: rich would fold at 80
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    scene = Scene(raw)
    load = [_load()]
    try:
        with scene.stack:
            for name in only or MEASUREMENTS:
                console.print(f"measuring {name}: {MEASUREMENTS[name].__doc__}", markup=False)
                try:
                    for row in MEASUREMENTS[name](scene):
                        rows.append({"measurement": name, **row.as_dict()})
                        console.print(f"  {_line(row)}", markup=False)
                except Exception as error:  # noqa: BLE001  a failed measurement must not hide the others
                    failed[name] = f"{type(error).__name__}: {error}"
                    console.print(f"  failed: {failed[name]}", markup=False)
    finally:
        load.append(_load())
        _write(rows, failed, raw, load)
    console.print(_table(rows))
    for name, reason in failed.items():
        console.print(f"{name} failed: {reason}", markup=False)
    console.print(f"load before {load[0]} and after {load[-1]}, on {os.cpu_count()} cores", markup=False)
    console.print(f"written to {REPORT.relative_to(CODE_ROOT)}", markup=False)
    sys.exit(1 if failed or any(row["ok"] is False for row in rows) else 0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _load() -> float:
    """Number of running processes. More than the cores means that others use the machine, too."""
    return round(os.getloadavg()[0], 2)


def _write(rows: list[dict[str, Any]], failed: dict[str, str], raw: Path | None, load: list[float]) -> None:
    commit, dirty = git_commit()
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": commit,
        "dirty": dirty,
        "machine": {
            "cpus": os.cpu_count(),
            "memory_mib": psutil.virtual_memory().total >> 20,
            "system": platform.system(),
            "python": platform.python_version(),
            "load_before_and_after": load,
        },
        "raw": "given" if raw else "generated",
        "rows": rows,
        "failed": failed,
    }
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _line(row: Row) -> str:
    return f"{row.name}: {_number(row.value)} {row.unit}".rstrip()


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="dim")
    for name in ("what", "value", "target", "ok", "beside it", "its value", "note"):
        table.add_column(name, justify="right" if "value" in name else "left", overflow="fold")
    for row in rows:
        beside = row["beside"] or {"name": "", "value": None}
        ok = {True: "[green]yes[/]", False: "[red]NO[/]", None: ""}[row["ok"]]
        target = "" if row["target"] is None else f"≤ {row['target']:g}"
        value = f"{_number(row['value'])} {row['unit']}".rstrip()
        table.add_row(row["name"], value, target, ok, beside["name"], _number(beside["value"]), row["note"])
    return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.5g}"


if __name__ == "__main__":
    bench()
