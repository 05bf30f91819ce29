"""Two pipelines on one platform: whatever happens to one, the other's rows, files and champion stay as they are."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.pipelines import load_pipeline
from apex_ml.simulate.drop import make_drop
from tests.support.apex_home import Apex
from tests.support.machines import NAME, ROW, both, machines  # noqa: F401  (fixtures)
from tests.support.scored_tables import AFTER, BEFORE, LARGE_ONLY

ROWS = 300
POINTS = [point for point in (*BEFORE, *AFTER) if point not in LARGE_ONLY]
TABLES_OF = "SELECT tablename::text FROM pg_tables WHERE schemaname = %s ORDER BY 1"


def content_of(apex: Apex, pipeline: str) -> dict[str, Any]:
    """Every row of the schema of a pipeline, as a digest by table, and every file of its drops."""
    digest = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY t::text))"
    names = [name for (name,) in apex.sql(TABLES_OF, (pipeline,))]
    rows = {name: apex.sql(f"{digest} FROM {pipeline}.{name} AS t") for name in names}
    drops = inbox_of(apex, pipeline).parent
    return rows | {str(path): path.stat().st_mtime_ns for path in sorted(drops.rglob("*.parquet"))}


def inbox_of(apex: Apex, pipeline: str) -> Path:
    named = apex.settings.model_copy(update={"pipeline": pipeline})
    folder = Path(load_pipeline(named).locations.drops) / "inbox"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def put_orders(apex: Apex, raw: Path, name: str) -> None:
    contract = load_pipeline(apex.settings.model_copy(update={"pipeline": "orders"})).contract
    make_drop(str(raw), date(2024, 8, 24), ROWS, 3, inbox_of(apex, "orders") / name, contract)


def put_machines(apex: Apex, name: str, heat: float = 70.0) -> None:
    columns = {key: [value] * ROWS for key, value in (ROW | {"heat": heat}).items()}
    columns["day"] = [date(2024, 4, 20)] * ROWS
    columns["machine"] = [f"M{n:05d}" for n in range(ROWS)]
    pq.write_table(pa.table(columns), inbox_of(apex, NAME) / name)


def score(apex: Apex, pipeline: str, name: str, **extra: str) -> Any:
    return apex.call("score", "--drops", json.dumps([name]), APEX_PIPELINE=pipeline, **extra)


def scored(apex: Apex, pipeline: str) -> list[tuple[Any, ...]]:
    return apex.sql(
        f"SELECT d.name, d.state, count(*), count(DISTINCT (s.run_id, s.row_nr)) FROM {pipeline}.drops AS d"
        f" JOIN {pipeline}.scoring_runs USING (drop_id) JOIN {pipeline}.scored AS s USING (run_id)"
        " GROUP BY 1, 2 ORDER BY 1"
    )


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_of_one_does_not_touch_the_other(both: Apex, raw: Path, point: str) -> None:  # noqa: F811
    put_orders(both, raw, "orders.parquet")
    put_machines(both, "before.parquet")
    assert score(both, NAME, "before.parquet").code == 0
    before = content_of(both, NAME)
    assert before[f"{inbox_of(both, NAME).parent}/done/before.parquet"]

    killed = score(both, "orders", "orders.parquet", APEX_FAULT=point)
    assert killed.code == -9, killed.err
    assert content_of(both, NAME) == before

    # the other goes on before the killed one has healed, and leaves what that left as it is
    left = content_of(both, "orders")
    put_machines(both, "after.parquet", heat=80.0)
    again = score(both, NAME, "after.parquet")
    assert again.code == 0, again.err
    assert content_of(both, "orders") == left
    assert scored(both, NAME) == [(name, "done", ROWS, ROWS) for name in ("after.parquet", "before.parquet")]

    healed = score(both, "orders", "orders.parquet")
    assert healed.code == 0, healed.err
    assert scored(both, "orders") == [("orders.parquet", "done", ROWS, ROWS)]


def test_each_has_its_own_champion_experiment_and_data_docs(both: Apex, raw: Path) -> None:  # noqa: F811
    """Both nights have run on one MLflow, and both score in one database."""
    put_orders(both, raw, "same.parquet")
    put_machines(both, "same.parquet")
    for pipeline in ("orders", NAME):
        assert score(both, pipeline, "same.parquet").code == 0
        assert scored(both, pipeline) == [("same.parquet", "done", ROWS, ROWS)]
    models = {
        pipeline: both.sql(f"SELECT DISTINCT model_name FROM {pipeline}.scoring_runs") for pipeline in ("orders", NAME)
    }
    assert models == {"orders": [("digital_orders_xgboost",)], NAME: [("machines",)]}
    predicted = {row[0] for row in both.sql(f"SELECT DISTINCT predicted FROM {NAME}.scored")}
    assert predicted <= {"RUNS", "STOPS"}
