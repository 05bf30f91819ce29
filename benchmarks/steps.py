"""The steps of a retraining, each in its own process, on the full raw data."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb

from apex_ml.pipelines import load_pipeline
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene, run_python

# the attribute that determines the target in these rows: a table of it is hard to beat
TABLE_OF = "madurez_digital_cd"

# the minimum work of each step: read, aggregate or import
FLOORS = {
    "validate": (
        "DuckDB copies the raw files",
        "import duckdb, sys; duckdb.sql('SET threads = 2'); duckdb.sql("
        "f\"COPY (SELECT * FROM read_parquet('{sys.argv[1]}/*.parquet')) TO '{sys.argv[3]}/copy.parquet'"
        ' (COMPRESSION zstd, COMPRESSION_LEVEL 1)")',
    ),
    "elt": (
        "DuckDB finds the last rows",
        "import duckdb, sys; duckdb.sql('SET threads = 2'); duckdb.sql("
        "f\"COPY (SELECT * FROM read_parquet('{sys.argv[2]}/validate/accepted/*.parquet') QUALIFY row_number() OVER"
        " (PARTITION BY {sys.argv[4]} ORDER BY {sys.argv[5]} DESC) = 1) TO '{sys.argv[3]}/last.parquet'\")",
    ),
    "split": (
        "PyArrow copies the examples",
        "import sys, pyarrow.parquet as pq; pq.write_table(pq.read_table(f'{sys.argv[2]}/elt/examples.parquet'),"
        " f'{sys.argv[3]}/examples.parquet', compression='zstd')",
    ),
    "train": ("import mlflow, xgboost, matplotlib", "import mlflow, xgboost, matplotlib.pyplot"),
    "promote": ("import xgboost, httpx, psycopg2", "import xgboost, httpx, psycopg2"),
}


@measurement
def steps(scene: Scene) -> Iterator[Row]:
    """Seconds and peak memory of every step, and its log loss compared with a frequency table."""
    contract = load_pipeline(scene.home.settings).contract
    ended = scene.chain
    folder = f"{load_pipeline(scene.home.settings).locations.processed}/bench"
    for step, run in ended.items():
        name, code = FLOORS[step]
        arguments = (str(scene.raw), folder, str(scene.folder), contract.entity, contract.timestamp)
        floor = run_python(code, *arguments)
        yield Row(f"{step}, seconds", run.seconds, "s", None, Beside(name, floor.seconds))
        yield Row(f"{step}, peak memory", run.peak_mib, "MiB", None, Beside(name, floor.peak_mib))
    loss = float(ended["train"].result["validation_log_loss"])
    table = table_log_loss(f"{folder}/split", TABLE_OF, contract.target, "validation")
    beside = Beside(f"log loss of a frequency table of {TABLE_OF}", table)
    yield Row("validation log loss, ratio to the table's", loss / table, "", 1.005, beside, f"log loss {loss:.5f}")


def table_log_loss(parts: str, column: str, target: str, part: str) -> float:
    """Log loss on a part of the class shares by level, counted on the training part."""
    query = f"""
        WITH counts AS (SELECT {column}, {target}, count(*) AS n FROM '{parts}/train.parquet' GROUP BY ALL),
             shares AS (SELECT {column}, {target}, n / sum(n) OVER (PARTITION BY {column}) AS share FROM counts)
        SELECT avg(-ln(share)), count(*) FILTER (WHERE share IS NULL)
        FROM '{parts}/{part}.parquet' LEFT JOIN shares USING ({column}, {target})
    """
    loss, unknown = duckdb.execute(query).fetchall()[0]
    assert unknown == 0, f"{unknown} {part} rows of a kind that the training part does not have"
    return float(loss)
