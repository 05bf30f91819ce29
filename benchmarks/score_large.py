"""Large drops compared with COPY and with usual Python code; queries; many tiny drops."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

import psycopg2
import pyarrow.parquet as pq
import xgboost as xgb
import yaml

from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier
from apex_ml.sql.tables import SCORED
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import APEX, Ended, Scene, clean_environment, run_measured
from benchmarks.score_peers import NATIVE, PANDAS, champion_of, copied, run_peer
from benchmarks.scored_drops import admin, contract_of, put, scored_once
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import open_folder

ROUNDS = 5
ROWS, TIMES = 1_250_000, 10
TINY_DROPS, TINY_ROWS, TOGETHER = 10_000, 10, 2
QUERIES = 200


def _rounds(scene: Scene, peers: Sequence[str]) -> tuple[dict[str, list[float]], list[Ended]]:
    """Seconds of Apex, of COPY and of the peers to score the same drop, a new one per round; and Apex's commands."""
    settings = scene.home.settings
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", "copy", *peers)}
    commands = []
    for seed in range(1, ROUNDS + 1):
        path = put(scene, f"large-{seed}.parquet", ROWS, seed)
        ended, drop = scored_once(scene, path.name, ROWS)
        done = Path(load_pipeline(settings).locations.drops) / "done" / path.name
        seconds["ours"].append(drop["ms_total"] / 1000)
        seconds["copy"].append(copied(settings, drop["run_id"]))
        for peer in peers:
            seconds[peer].append(run_peer(scene, peer, done, ROWS))
        commands.append(ended)
    return seconds, commands


def _times(seconds: dict[str, list[float]], peer: str) -> float:
    return median(ours / theirs for ours, theirs in zip(seconds["ours"], seconds[peer], strict=True))


@measurement
def large(scene: Scene) -> Iterator[Row]:
    """A drop of 1,250,000 rows from file to committed rows, compared with COPY and its peers in the same rounds."""
    settings = scene.home.settings
    seconds, commands = _rounds(scene, (PANDAS, NATIVE))
    middle = {name: median(values) for name, values in seconds.items()}
    note = f"median of {ROUNDS}"
    floor = Beside("server-side binary COPY and the same indexes, s", middle["copy"])
    yield Row("score 1,250,000 rows / COPY", _times(seconds, "copy"), "×", 2.0, floor, note)
    yield Row("score 1,250,000 rows", middle["ours"], "s", None, floor, f"{note}, without start-up")
    startup = median(ended.seconds for ended in commands) - middle["ours"]
    yield Row("score 1,250,000 rows, start-up and imports", startup, "s")
    beside = Beside("pandas, pyfunc, to_sql, s", middle[PANDAS])
    yield Row("score 1,250,000 rows / pandas", _times(seconds, PANDAS), "×", 1 / 25, beside, "at least 25 × faster")
    features = len(champion_of(settings)[1].encoder.columns)
    beside = Beside("native XGBoost, ADBC, s", middle[NATIVE])
    note = f"features of the champion: {features}; what COPY takes bounds it"
    yield Row("score 1,250,000 rows / native", _times(seconds, NATIVE), "×", None, beside, note)
    peak = max(ended.peak_mib for ended in commands)
    yield Row("score 1,250,000 rows, peak memory", peak, "MiB", 600.0)
    path = put(scene, "tenfold.parquet", TIMES * ROWS, 99)
    ended, drop = scored_once(scene, path.name, TIMES * ROWS)
    ratio = drop["ms_total"] / 1000 / middle["ours"]
    yield Row("score 12,500,000 rows / 1,250,000", ratio, "×", 10.5, Beside("s", drop["ms_total"] / 1000))
    yield Row("score 12,500,000 rows, peak memory", ended.peak_mib, "MiB", 600.0)
    yield from _queries(settings)


def _queries(settings: Settings) -> Iterator[Row]:
    """Queries of an analyst, each planned again."""
    contract = contract_of(settings)
    entity = identifier(contract.entity)
    with closing(admin(settings)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {SCHEMA}.{SCORED}")
        (rows,) = cursor.fetchone() or (0,)
        cursor.execute(f"SELECT DISTINCT {entity} FROM {SCHEMA}.{SCORED} TABLESAMPLE SYSTEM (0.01) LIMIT {QUERIES}")
        entities = [row[0] for row in cursor.fetchall()]
    with closing(psycopg2.connect(settings.reader_url)) as connection, connection.cursor() as cursor:
        point, summary = [], []
        for entity in entities:
            began = time.perf_counter()
            cursor.execute(f"SELECT * FROM orders.scored_current WHERE {entity} = %s", (entity,))
            assert cursor.fetchall()
            point.append(time.perf_counter() - began)
        for _ in range(ROUNDS):
            began = time.perf_counter()
            cursor.execute("SELECT * FROM orders.drop_summary")
            assert cursor.fetchall()
            summary.append(time.perf_counter() - began)
    note = f"over {rows:,} rows, median of {len(entities)} entities"
    yield Row("current scores of an entity", median(point) * 1e3, "ms", 5.0, None, note)
    yield Row("drop summary", median(summary) * 1e3, "ms", 50.0)


@measurement
def many_features(scene: Scene) -> Iterator[Row]:
    """A drop of the same size with every attribute, on rows that depend on them. History is left out for the peer."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        contract = yaml.safe_load(load_pipeline(Settings.load()).file.read_text(encoding="utf-8"))
        contract["features"] |= {"history": [], "calendar": []}
        contract["promotion"]["floor"] = 0.01  # these rows are easier to predict than the real ones
        (folder / "orders.yaml").write_text(yaml.safe_dump(contract, sort_keys=False), encoding="utf-8")
        run_measured([*APEX, "simulate", "--mode", "signal", "--out", str(folder / "raw")], clean_environment())
        inputs = {"contract": str(folder / "orders.yaml"), "selection": "none"}
        yield from _many_features(Scene(folder / "raw", stack, inputs))


def _many_features(scene: Scene) -> Iterator[Row]:
    seconds, _ = _rounds(scene, (NATIVE,))
    model = champion_of(scene.home.settings)[1]
    trees = len(xgb.Booster(model_file=bytearray(model.booster)).get_dump())
    beside = Beside("native XGBoost, ADBC, s", median(seconds[NATIVE]))
    note = f"at least 2.5 × faster; {len(model.encoder.columns)} features, {trees} trees"
    yield Row("score with many features / native", _times(seconds, NATIVE), "×", 1 / 2.5, beside, note)
    floor = Beside("server-side binary COPY and the same indexes, s", median(seconds["copy"]))
    yield Row("score with many features / COPY", _times(seconds, "copy"), "×", 2.0, floor, f"median of {ROUNDS}")


@measurement
def tiny(scene: Scene) -> Iterator[Row]:
    """Ten thousand drops of ten rows, listed and then scored in chunks, two at a time, as in Airflow's pool."""
    settings = scene.home.settings
    inbox = put(scene, "many.parquet", TINY_DROPS * TINY_ROWS, 7)
    rows = pq.read_table(inbox)
    inbox.unlink()
    for number in range(TINY_DROPS):
        pq.write_table(rows.slice(number * TINY_ROWS, TINY_ROWS), inbox.with_name(f"tiny-{number:05d}.parquet"))
    began = time.perf_counter()
    chunks = scene.home.apex("score", "--list").result["chunks"]
    with ThreadPoolExecutor(TOGETHER) as pool:
        ended = list(
            pool.map(lambda c: scene.home.apex("score", "--run", "bench", f"--drops={json.dumps(c['drops'])}"), chunks)
        )
    seconds = time.perf_counter() - began
    assert sum(e.result["rows_scored"] for e in ended) == TINY_DROPS * TINY_ROWS
    with closing(admin(settings)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'orders.scored'::regclass")
        partitions = cursor.fetchone()[0]  # type: ignore[index]
    note = f"{len(chunks)} tasks, {TOGETHER} at a time"
    yield Row(f"score {TINY_DROPS:,} drops of {TINY_ROWS} rows", seconds, "s", 180.0, None, note)
    yield Row(f"partitions after {TINY_DROPS:,} drops", partitions, "", 64.0)
