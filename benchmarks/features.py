"""Features with the full history, compared with the fastest query for an entity's last row; and ten times the rows."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Literal

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import SortedRows, accepted_files
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.storage.raw_folder import data_files
from apex_ml.contract.model import Contract
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.sql.quote import identifier, literal
from apex_ml.steps.elt import make_examples
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene, clean_environment, run_measured

ROUNDS = 5
TIMES = 10
GRAINS: dict[Literal["last_row_per_entity", "every_row"], float] = {
    "last_row_per_entity": 2.5,
    "every_row": 8.0,
}


def floor_sql(contract: Contract, folder: Path) -> str:
    """One query: target and day of every entity's last row, and five of its attributes."""
    when = identifier(contract.timestamp)
    attributes = ", ".join(f"any_value({identifier(name)})" for name in contract.features.attributes[:5])
    return (
        f"SELECT {identifier(contract.entity)}, arg_max({identifier(contract.target)}, {when}),"
        f" arg_max({when}, {when}),"
        f" {attributes} FROM read_parquet({literal(str(folder / '*.parquet'))}) GROUP BY 1"
    )


def accept(raw: str, folder: str) -> None:
    """Write the accepted rows of the raw files, as `validate` does."""
    settings = Settings.load(home=folder)
    contract = load_pipeline(settings).contract
    accepted = Path(folder) / "accepted"
    accepted.mkdir()
    with engine.connect_strict(settings, Path(folder)) as con:
        for number, path in enumerate(data_files(Path(raw), "--raw")):
            out, bad = accepted / f"part-{number:05d}.parquet", Path(folder) / f"bad-{number}.parquet"
            check_file(con, path, contract, "train", as_of=None, accepted=out, quarantined=bad)


def multiply(folder: str, target: str, times: int = TIMES) -> None:
    """Write several copies of every file, each with other entities."""
    settings = Settings.load(home=target)
    entity = identifier(load_pipeline(settings).contract.entity)
    Path(target).mkdir()
    with engine.connect(settings, Path(target)) as con:
        for path in sorted(Path(folder).glob("*.parquet")):
            for number in range(times):
                renamed = f"SELECT * REPLACE (left({entity}, 1) || '{number}' || substr({entity}, 2) AS {entity})"
                out = literal(str(Path(target) / f"part-{number}-{path.name}"))
                con.execute(f"COPY ({renamed} FROM read_parquet({literal(str(path))})) TO {out} (COMPRESSION snappy)")


def multiply_raw(raw: Path, target: Path) -> None:
    """Write several copies of the raw files, in a separate process."""
    _call("multiply", str(raw), str(target))


def make(accepted: str, grain: Any, rounds: int, with_floor: bool) -> None:
    """Print the median seconds of all examples and of the floor in the same rounds, and their median ratio."""
    settings = Settings.load(home=Path(accepted).parent)
    contract = load_pipeline(settings).contract
    contract = contract.model_copy(update={"features": contract.features.model_copy(update={"grain": grain})})
    files = accepted_files(Path(accepted))
    seconds: dict[str, list[float]] = {"floor": [], "features": []}
    examples = 0
    for _ in range(rounds):
        if with_floor:
            with engine.connect(settings, Path(accepted).parent) as con:
                began = time.perf_counter()
                con.execute(floor_sql(contract, Path(accepted))).to_arrow_table()
                seconds["floor"].append(time.perf_counter() - began)
        with engine.connect(settings, Path(accepted).parent) as con:
            began = time.perf_counter()
            rows = SortedRows(con, contract, files)
            examples = sum(t.num_rows for t in make_examples(rows, settings.threads))
            seconds["features"].append(time.perf_counter() - began)
    result = {name: median(values) for name, values in seconds.items() if values}
    # in alternating rounds, because others can use the machine
    ratios = [ours / floor for ours, floor in zip(seconds["features"], seconds["floor"], strict=False)]
    print("\n" + json.dumps({"examples": examples, "ratio": median(ratios) if ratios else None, **result}))


def _call(name: str, *arguments: str, numbers: tuple[Any, ...] = ()) -> Any:
    code = f"import sys; from benchmarks.features import {name}; {name}(*sys.argv[1:], *{numbers!r})"
    env = clean_environment(PYTHONPATH=f"{CODE_ROOT}:{CODE_ROOT / 'plugins'}")
    return run_measured([sys.executable, "-W", "ignore", "-c", code, *arguments], env)


@measurement
def features(scene: Scene) -> Iterator[Row]:
    """All features of the accepted rows, in a separate process for each grain; then of ten times the rows."""
    _call("accept", str(scene.raw), str(scene.folder))
    accepted, tenfold = str(scene.folder / "accepted"), str(scene.folder / "tenfold")
    _call("multiply", accepted, tenfold)
    for grain, target in GRAINS.items():
        ended = _call("make", accepted, grain, numbers=(ROUNDS, True))
        content = json.loads(ended.output.splitlines()[-1])
        floor = Beside("DuckDB, last class of every entity, s", content["floor"])
        note = f"{content['examples']:,} examples, median of {ROUNDS}"
        yield Row(f"features, {grain} / floor", content["ratio"], "×", target, floor, note)
        yield Row(f"features, {grain}", content["features"], "s", None, floor, note)
        first, many = (_call("make", files, grain, numbers=(1, False)) for files in (accepted, tenfold))
        seconds = [json.loads(done.output.splitlines()[-1])["features"] for done in (first, many)]
        yield Row(f"features, {grain}, peak memory", first.peak_mib, "MiB", 600.0)
        beside = Beside("once, s", seconds[0])
        yield Row(f"features, {grain}, {TIMES} × the rows", seconds[1] / seconds[0], "×", 11.0, beside)
        yield Row(
            f"features, {grain}, {TIMES} × the rows, peak memory",
            many.peak_mib,
            "MiB",
            None,
            Beside("once", first.peak_mib),
        )
