"""The row checks beside one DuckDB pass of the same aggregates, and Great Expectations beside both."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.file_schema import read_schema
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.duckdb.split_rows import count_doubts
from apex_ml.adapters.storage.raw_folder import data_files
from apex_ml.contract.checks import PatternCheck, RangeCheck
from apex_ml.contract.model import Contract
from apex_ml.contract.rules import PairsRule
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.sql.checked_file import CheckedFile
from apex_ml.sql.quote import identifier, identifiers, literal, literals
from apex_ml.sql.row_checks import compile_row_checks
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import APEX, Scene, clean_environment, run_measured

ROUNDS = 5
MIB_600 = 600.0


def floor_sql(contract: Contract, path: Path) -> str:
    """One aggregate pass over the file's own columns with the same rules: nulls, domains, patterns, ranges, pairs."""
    counts = ["count(*)"]
    for column in contract.columns.values():
        name = identifier(column.name)
        counts.append(f"count(*) FILTER (WHERE {name} IS NULL)")
        if column.domain is not None:
            levels = literals(column.domain.levels)
            counts.append(f"count(*) FILTER (WHERE {name} NOT IN ({levels}))")
        for check in column.checks:
            if isinstance(check, PatternCheck):
                counts.append(f"count(*) FILTER (WHERE NOT regexp_full_match({name}, {literal(check.regex)}))")
            elif isinstance(check, RangeCheck):
                counts += [
                    f"count(*) FILTER (WHERE {name} {sign} {literal(bound)})"
                    for sign, bound in (("<", check.min), (">", check.max))
                    if bound is not None
                ]
    for rule in contract.rules:
        if isinstance(rule, PairsRule):
            first, second = map(identifier, rule.columns)
            # four times as fast as one NOT IN over the pairs
            broken = " OR ".join(
                f"({first} = {literal(value)} AND {second} NOT IN ({literals(allowed)}))"
                for value, allowed in rule.allowed.items()
            )
            counts.append(f"count(*) FILTER (WHERE {broken})")
        elif rule.rule == "unique":
            columns = identifiers(contract.columns)
            counts.append(f"count(*) - count(DISTINCT hash({columns}))")
    return f"SELECT {', '.join(counts)} FROM read_parquet({literal(str(path))})"


def measure_masks(raw: Path, folder: Path) -> dict[str, Any]:
    """Seconds of a round over all files: the floor, the masks alone, and the whole check with its writing."""
    settings = Settings.load(home=folder)
    contract = load_pipeline(settings).contract
    files = data_files(raw, "--raw")
    seconds: dict[str, list[float]] = {"floor": [], "masks": [], "check": []}
    rows = 0
    with engine.connect(settings, folder) as con, engine.connect_strict(settings, folder) as strict:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for path in files:
                engine.one_row(con, floor_sql(contract, path))
            seconds["floor"].append(time.perf_counter() - began)
            began = time.perf_counter()
            rows = 0
            for path in files:
                checks = compile_row_checks(contract, "train", read_schema(path), None)
                doubts = count_doubts(strict, CheckedFile(path, checks))
                assert not doubts.doubtful
                assert not any(doubts.repeated)
                rows += doubts.rows
            seconds["masks"].append(time.perf_counter() - began)
            began = time.perf_counter()
            for number, path in enumerate(files):
                out = {"accepted": folder / f"{number}.parquet", "quarantined": folder / f"{number}.bad.parquet"}
                check_file(strict, path, contract, "train", as_of=None, **out)
            seconds["check"].append(time.perf_counter() - began)
    return {"rows": rows, **{name: median(values) for name, values in seconds.items()}}


@measurement
def quality(scene: Scene) -> Iterator[Row]:
    """Check the rows of all raw files, in a separate process."""
    code = "import sys; from benchmarks.quality import main; main(*sys.argv[1:])"
    env = clean_environment(PYTHONPATH=f"{CODE_ROOT}:{CODE_ROOT / 'plugins'}")
    ended = run_measured([sys.executable, "-c", code, str(scene.raw), str(scene.folder)], env)
    content = json.loads(ended.output.splitlines()[-1])
    floor = Beside("DuckDB, one aggregate pass, s", content["floor"])
    note = f"{content['rows']:,} rows, median of {ROUNDS}"
    yield Row("row masks / aggregate floor", content["masks"] / content["floor"], "×", 2.5, floor, note)
    yield Row("row masks", content["masks"], "s", None, floor, note)
    yield Row("row masks, checksums and writing accepted rows", content["check"], "s", None, floor, note)
    yield Row("row checks, peak memory", ended.peak_mib, "MiB", MIB_600)
    code = "import sys; from benchmarks.quality import expectations; expectations(*sys.argv[1:])"
    evaluated = run_measured([sys.executable, "-c", code, str(scene.folder)], env)
    gx = json.loads(evaluated.output.splitlines()[-1])
    yield Row("Great Expectations on the accepted batch", gx["seconds"], "s", None, floor, f"{gx['evaluated']} of them")


@measurement
def simulate(scene: Scene) -> Iterator[Row]:
    """Generate 1,250,000 rows and write them, beside writing a table of the same rows again."""
    seconds, peaks = [], []
    for number in range(3):
        out = scene.folder / f"simulated-{number}"
        command = [*APEX, "simulate", "--out", str(out)]
        ended = run_measured(command, clean_environment(APEX_HOME=str(scene.folder)))
        seconds.append(ended.seconds)
        peaks.append(ended.peak_mib)
    tables = [pq.read_table(path) for path in sorted(out.glob("*.parquet"))]
    began = time.perf_counter()
    for number, table in enumerate(tables):
        pq.write_table(table, scene.folder / f"again-{number}.parquet")
    floor = Beside("PyArrow writes the rows again", time.perf_counter() - began)
    yield Row("simulate 1,250,000 rows, whole command", median(seconds), "s", 5.0, floor, "median of 3")
    yield Row("simulate, peak memory", median(peaks), "MiB", None, floor)


def main(raw: str, folder: str) -> None:
    """Print what was measured."""
    print(json.dumps(measure_masks(Path(raw), Path(folder))))


def expectations(folder: str) -> None:
    """Print the seconds that the checkpoint takes, its import apart."""
    from datetime import date

    import great_expectations  # noqa: F401  (the import is not what is measured)
    from apex_ml.adapters.expectations.project import check_batch

    home = Path(folder)
    settings = Settings.load(home=home)
    batch = home / "batch"
    batch.mkdir(exist_ok=True)
    for path in home.glob("[0-9].parquet"):
        path.rename(batch / path.name)
    began = time.perf_counter()
    verdict = check_batch(settings, load_pipeline(settings), "train", batch, "bench", date(2100, 1, 1))
    print(json.dumps({"seconds": time.perf_counter() - began, "evaluated": verdict.evaluated}))
