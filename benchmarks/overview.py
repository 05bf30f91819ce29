"""How long the overview of many pipelines takes."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from apex_ml.adapters.postgres.migrations import migrate_schema
from apex_ml.contract.pipeline_file import load_contract
from benchmarks.page import request_page
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene
from tests.support.page_rows import fill
from tests.support.pipeline_files import ORDERS, write_pipelines
from tests.support.throwaway_home import plain_postgres

PIPELINES, RUNS = 50, 1000


@measurement
def overview(scene: Scene) -> Iterator[Row]:
    """Ask for the overview of 50 pipelines with 1,000 scoring runs each; beside it, the overview of one of them."""
    names = ["orders", *(f"pipeline_{number:02}" for number in range(1, PIPELINES))]
    all_of_them, one = scene.folder / "pipelines", scene.folder / "one"
    write_pipelines(all_of_them, names)
    write_pipelines(one, names[:1])
    contract = load_contract(ORDERS)
    with plain_postgres() as database:
        settings = database.settings.model_copy(update={"pipelines": all_of_them})
        for name in names:
            migrate_schema(settings, contract, name)
            fill(settings, contract.classes, runs=RUNS, schema=name)
        milliseconds = request_page(scene, settings, "/")
        of_one = request_page(scene, settings.model_copy(update={"pipelines": one}), "/?all=true")
    yield Row(
        f"overview of {PIPELINES} pipelines with {RUNS:,} scoring runs each",
        median(milliseconds),
        "ms",
        300.0,
        Beside("the overview of one, and the names of the others", median(of_one)),
        note=f"slowest of {len(milliseconds)}: {max(milliseconds):.0f} ms",
    )
