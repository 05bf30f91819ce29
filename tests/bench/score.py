"""One drop of 100,000 orders through `apex score`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from statistics import median

import psycopg2

from apex_ml.contract.model import load_contract
from apex_ml.platform import postgres
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop
from tests.bench.registry import Beside, Row, measurement
from tests.bench.scene import Scene

ROUNDS = 3
ORDERS = 100_000


@measurement
def score(scene: Scene) -> Iterator[Row]:
    """Seconds of the whole command and of the drop itself, beside a server-side COPY of the same rows."""
    settings = scene.home.settings
    as_of = date.fromisoformat(scene.chain["elt"].result["as_of"])
    inbox = Path(settings.drops) / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    whole, inside, peaks = [], [], []
    for seed in range(1, ROUNDS + 1):
        name = f"bench-{seed}.parquet"
        make_drop(str(scene.raw), as_of, ORDERS, seed, inbox / name, load_contract(settings.contract))
        ended = scene.home.apex("score", "--run", "bench", "--drops", f'["{name}"]')
        (drop,) = ended.result["drops"]
        assert (drop["state"], drop["rows_scored"]) == ("scored", ORDERS), drop
        whole.append(ended.seconds)
        inside.append(drop["ms_total"] / 1000)
        peaks.append(ended.peak_mib)
    floor = Beside("server-side binary COPY of the rows", _copy_seconds(settings))
    yield Row("score 100,000 orders, whole command", median(whole), "s", None, floor)
    yield Row("score 100,000 orders, without start-up", median(inside), "s", None, floor)
    yield Row("score 100,000 orders, peak memory", max(peaks), "MiB", None, None)


def _copy_seconds(settings: Settings) -> float:
    """Median seconds in which the server copies the scored orders of a run from a file of its own into a table."""
    server = postgres.locate(settings)
    file = server.data / "bench.copy"
    with (
        closing(
            psycopg2.connect(
                host=str(server.socket),
                port=settings.pg_port,
                user=postgres.ADMIN,
                password=settings.pg_admin_password.get_secret_value(),
                dbname="apex",
            )
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT max(run_id) FROM apex.scored_orders")
        (run_id,) = cursor.fetchone() or (None,)
        cursor.execute(
            f"COPY (SELECT * FROM apex.scored_orders WHERE run_id = {run_id}) TO '{file}' WITH (FORMAT binary)"
        )
        cursor.execute("CREATE TABLE bench_copy AS SELECT * FROM apex.scored_orders WITH NO DATA")
        connection.commit()
        found = []
        for _ in range(ROUNDS):
            cursor.execute("TRUNCATE bench_copy")
            connection.commit()
            began = time.perf_counter()
            cursor.execute(f"COPY bench_copy FROM '{file}' WITH (FORMAT binary)")
            connection.commit()
            found.append(time.perf_counter() - began)
        cursor.execute("DROP TABLE bench_copy")
        connection.commit()
    file.unlink()
    return median(found)
