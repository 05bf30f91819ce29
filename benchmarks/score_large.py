"""Large drops compared with the server's own COPY and with usual Python code; queries; many tiny drops."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost as xgb
import yaml

from apex_ml.adapters.mlflow.registry import CHAMPION, Registry
from apex_ml.contract.model import Contract, load_contract
from apex_ml.core.estimator import Model
from apex_ml.platform.embedded.postgres.process import superuser_connection
from apex_ml.platform.embedded.postgres.server import locate_server
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.simulate.drop import make_drop
from apex_ml.sql.quote import identifier
from apex_ml.sql.tables import SCORED, partition_indexes, probability_column
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import APEX, Ended, Scene, clean_environment, run_measured
from tests.support.throwaway_home import open_folder

ROUNDS = 5
ORDERS, TIMES = 1_250_000, 10
TINY_DROPS, TINY_ROWS, TOGETHER = 10_000, 10, 2
QUERIES = 200
TABLE = "apex.bench_orders"


def _contract(settings: Settings) -> Contract:
    return load_contract(settings.contract)


def put(scene: Scene, name: str, rows: int, seed: int) -> Path:
    """Put a drop of `rows` orders into the inbox."""
    as_of = date.fromisoformat(scene.chain["elt"].result["as_of"])
    inbox = Path(scene.home.settings.drops) / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    make_drop(str(scene.raw), as_of, rows, seed, inbox / name, _contract(scene.home.settings))
    return inbox / name


def scored_once(scene: Scene, name: str, rows: int) -> tuple[Ended, dict[str, Any]]:
    """Score a drop of the inbox. Returns the measured command and its result for the drop."""
    ended = scene.home.apex("score", "--run", "bench", "--drops", json.dumps([name]))
    (drop,) = ended.result["drops"]
    assert (drop["state"], drop["rows_scored"]) == ("scored", rows), drop
    return ended, drop


def admin(settings: Settings) -> Any:
    """Return a connection of the database's superuser."""
    return superuser_connection(settings, locate_server(settings), "apex")


def _made(cursor: Any) -> None:
    cursor.execute(f"CREATE TABLE {TABLE} (LIKE {SCORED} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")


def _indexed(cursor: Any, contract: Contract) -> None:
    cursor.execute("SET LOCAL maintenance_work_mem = '256MB'")
    for statement in partition_indexes(contract, TABLE):
        cursor.execute(statement)


def copied(settings: Settings, run_id: int) -> float:
    """Seconds of the server to copy a run's rows from a file into a table and to index it."""
    file = locate_server(settings).data / "bench.copy"
    with closing(admin(settings)) as connection, connection.cursor() as cursor:
        cursor.execute(f"COPY (SELECT * FROM {SCORED} WHERE run_id = {run_id:d}) TO '{file}' WITH (FORMAT binary)")
        connection.commit()
        began = time.perf_counter()
        _made(cursor)
        cursor.execute(f"COPY {TABLE} FROM '{file}' WITH (FORMAT binary)")
        _indexed(cursor, _contract(settings))
        connection.commit()
        seconds = time.perf_counter() - began
        cursor.execute(f"DROP TABLE {TABLE}")
        connection.commit()
    file.unlink()
    return seconds


def _champion(settings: Settings) -> tuple[str, Model]:
    registry = Registry(settings, settings.model_name)
    version = registry.by_alias(CHAMPION)
    assert version is not None
    return f"models:/{version.name}/{version.version}", Model.from_files(registry.files(version))


def _attributes(contract: Contract, model: Model) -> list[str]:
    """Features of the champion, which the peers take directly from the drop, because they know no history."""
    names = list(model.encoder.names)
    assert set(names) <= set(contract.named("attribute")), f"the peers know only attributes, the champion has {names}"
    return names


def pandas_to_sql(home: str, path: str) -> None:
    """Print the seconds of pandas, mlflow.pyfunc and to_sql from file to committed, indexed rows."""
    import mlflow
    import pandas as pd
    import sqlalchemy

    settings = Settings.load(home=home)
    contract = _contract(settings)
    uri, model = _champion(settings)
    mlflow.set_tracking_uri(settings.tracking_uri)
    scorer = mlflow.pyfunc.load_model(uri)
    names = _attributes(contract, model)
    url = settings.writer_url.replace("postgresql://", "postgresql+psycopg2://", 1)
    engine = sqlalchemy.create_engine(url)
    began = time.perf_counter()
    frame = pd.read_parquet(path)
    good = frame[[contract.entity, contract.timestamp]].notna().all(axis=1)
    for name in contract.named("attribute"):
        if (domain := contract.columns[name].domain) is not None and name in frame:
            good &= frame[name].isna() | frame[name].isin(domain.levels)
    frame = frame[good].reset_index(names="row_nr")
    scored = scorer.predict(frame[names])
    p = [probability_column(level) for level in contract.classes]
    out = frame[["row_nr", contract.entity, contract.timestamp]].assign(run_id=1, predicted=scored["predicted"])
    out[p] = scored[p].astype("float32")
    out["confidence"] = out[p].max(axis=1)
    out = out.assign(model_version=1, scored_at=pd.Timestamp.now("UTC"))
    with engine.begin() as connection:
        cursor = connection.connection.cursor()
        _made(cursor)
        out.to_sql(TABLE.split(".")[1], connection, schema="apex", if_exists="append", index=False)
        _indexed(cursor, contract)
    print(json.dumps({"seconds": time.perf_counter() - began, "rows": len(out)}))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {TABLE}")


def native_with_adbc(home: str, path: str) -> None:
    """Print the seconds of XGBoost on its own categoricals and ADBC from file to committed, indexed rows.

    The booster has as many rounds as the champion and is fitted on the drop's own rows, which is not timed.
    """
    import adbc_driver_postgresql.dbapi as adbc
    import pandas as pd

    settings = Settings.load(home=home)
    contract = _contract(settings)
    model = _champion(settings)[1]
    names = _attributes(contract, model)
    rounds = xgb.Booster(model_file=bytearray(model.booster)).num_boosted_rounds()
    kinds = {n: pd.CategoricalDtype(contract.columns[n].domain.levels) for n in names}  # type: ignore[union-attr]
    some = pq.read_table(path, columns=names).slice(0, 100_000).to_pandas().astype(kinds)
    y = np.random.default_rng(1).integers(0, len(contract.classes), len(some))
    parameters = {"objective": "multi:softprob", "num_class": len(contract.classes), "nthread": settings.threads}
    parameters |= {"max_depth": 4, "tree_method": "hist"}
    booster = xgb.train(parameters, xgb.DMatrix(some, y, enable_categorical=True), rounds)
    classes = pa.array(contract.classes)
    with adbc.connect(settings.writer_url) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        table = pq.read_table(path)
        for name in contract.named("attribute"):
            if (domain := contract.columns[name].domain) is not None and name in table.column_names:
                known = pa.compute.is_in(table.column(name), value_set=pa.array(domain.levels))
                table = table.filter(pa.compute.or_(known, pa.compute.is_null(table.column(name))))
        frame = table.select(names).to_pandas().astype(kinds)
        p = booster.predict(xgb.DMatrix(frame, enable_categorical=True, nthread=settings.threads))
        best = p.argmax(axis=1)
        n = len(p)
        columns = {"run_id": pa.array(np.full(n, 1)), "row_nr": pa.array(np.arange(n))}
        columns[contract.entity] = table.column(contract.entity).cast(pa.string())
        columns[contract.timestamp] = table.column(contract.timestamp).cast(pa.date32())
        columns["predicted"] = classes.take(pa.array(best))
        columns |= {
            probability_column(c): pa.array(np.ascontiguousarray(p[:, k])) for k, c in enumerate(contract.classes)
        }
        columns["confidence"] = pa.array(p[np.arange(n), best])
        columns["model_version"] = pa.array(np.full(n, 1, np.int32))
        columns["scored_at"] = pa.array(np.full(n, np.datetime64("now", "us"))).cast(pa.timestamp("us", "UTC"))
        _made(cursor)
        cursor.adbc_ingest(TABLE.split(".")[1], pa.table(columns), mode="append", db_schema_name="apex")
        _indexed(cursor, contract)
        connection.commit()
        print(json.dumps({"seconds": time.perf_counter() - began, "rows": n}))
        cursor.execute(f"DROP TABLE {TABLE}")
        connection.commit()


def _peer(scene: Scene, name: str, path: Path) -> float:
    code = f"import sys; from benchmarks.score_large import {name}; {name}(*sys.argv[1:])"
    env = scene.home.env | clean_environment(PYTHONPATH=f"{CODE_ROOT}:{CODE_ROOT / 'plugins'}")
    ended = run_measured([sys.executable, "-W", "ignore", "-c", code, str(scene.home.settings.home), str(path)], env)
    content = json.loads(ended.output.splitlines()[-1])
    assert content["rows"] == ORDERS, content
    return float(content["seconds"])


def _rounds(scene: Scene, peers: Sequence[str]) -> tuple[dict[str, list[float]], list[Ended]]:
    """Seconds of Apex, of COPY and of the peers to score the same drop, a new one per round; and Apex's commands."""
    settings = scene.home.settings
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", "copy", *peers)}
    commands = []
    for seed in range(1, ROUNDS + 1):
        path = put(scene, f"large-{seed}.parquet", ORDERS, seed)
        ended, drop = scored_once(scene, path.name, ORDERS)
        done = Path(settings.drops) / "done" / path.name
        seconds["ours"].append(drop["ms_total"] / 1000)
        seconds["copy"].append(copied(settings, drop["run_id"]))
        for peer in peers:
            seconds[peer].append(_peer(scene, peer, done))
        commands.append(ended)
    return seconds, commands


def _times(seconds: dict[str, list[float]], peer: str) -> float:
    return median(ours / theirs for ours, theirs in zip(seconds["ours"], seconds[peer], strict=True))


PANDAS, NATIVE = pandas_to_sql.__name__, native_with_adbc.__name__


@measurement
def large(scene: Scene) -> Iterator[Row]:
    """A drop of 1,250,000 orders from file to committed rows, compared with COPY and its peers in the same rounds."""
    settings = scene.home.settings
    seconds, commands = _rounds(scene, (PANDAS, NATIVE))
    middle = {name: median(values) for name, values in seconds.items()}
    note = f"median of {ROUNDS}"
    floor = Beside("server-side binary COPY and the same indexes, s", middle["copy"])
    yield Row("score 1,250,000 orders / COPY", _times(seconds, "copy"), "×", 2.0, floor, note)
    yield Row("score 1,250,000 orders", middle["ours"], "s", None, floor, f"{note}, without start-up")
    startup = median(ended.seconds for ended in commands) - middle["ours"]
    yield Row("score 1,250,000 orders, start-up and imports", startup, "s")
    beside = Beside("pandas, pyfunc, to_sql, s", middle[PANDAS])
    yield Row("score 1,250,000 orders / pandas", _times(seconds, PANDAS), "×", 1 / 25, beside, "at least 25 × faster")
    features = len(_champion(settings)[1].encoder.columns)
    beside = Beside("native XGBoost, ADBC, s", middle[NATIVE])
    note = f"features of the champion: {features}; what COPY takes bounds it"
    yield Row("score 1,250,000 orders / native", _times(seconds, NATIVE), "×", None, beside, note)
    peak = max(ended.peak_mib for ended in commands)
    yield Row("score 1,250,000 orders, peak memory", peak, "MiB", 600.0)
    path = put(scene, "tenfold.parquet", TIMES * ORDERS, 99)
    ended, drop = scored_once(scene, path.name, TIMES * ORDERS)
    ratio = drop["ms_total"] / 1000 / middle["ours"]
    yield Row("score 12,500,000 orders / 1,250,000", ratio, "×", 10.5, Beside("s", drop["ms_total"] / 1000))
    yield Row("score 12,500,000 orders, peak memory", ended.peak_mib, "MiB", 600.0)
    yield from _queries(settings)


def _queries(settings: Settings) -> Iterator[Row]:
    """Queries of an analyst, each planned again."""
    contract = _contract(settings)
    entity = identifier(contract.entity)
    with closing(admin(settings)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {SCORED}")
        (rows,) = cursor.fetchone() or (0,)
        cursor.execute(f"SELECT DISTINCT {entity} FROM {SCORED} TABLESAMPLE SYSTEM (0.01) LIMIT {QUERIES}")
        clients = [row[0] for row in cursor.fetchall()]
    with closing(psycopg2.connect(settings.reader_url)) as connection, connection.cursor() as cursor:
        point, summary = [], []
        for client in clients:
            began = time.perf_counter()
            cursor.execute(f"SELECT * FROM apex.scored_orders_current WHERE {entity} = %s", (client,))
            assert cursor.fetchall()
            point.append(time.perf_counter() - began)
        for _ in range(ROUNDS):
            began = time.perf_counter()
            cursor.execute("SELECT * FROM apex.drop_summary")
            assert cursor.fetchall()
            summary.append(time.perf_counter() - began)
    note = f"over {rows:,} rows, median of {len(clients)} clients"
    yield Row("current scores of a client", median(point) * 1e3, "ms", 5.0, None, note)
    yield Row("drop summary", median(summary) * 1e3, "ms", 50.0)


@measurement
def many_features(scene: Scene) -> Iterator[Row]:
    """A drop of the same size with every attribute, on orders that depend on them. History is left out for the peer."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        contract = yaml.safe_load(Settings.load().contract.read_text(encoding="utf-8"))
        contract["features"] |= {"history": [], "calendar": []}
        contract["promotion"]["floor"] = 0.01  # these orders are easier to predict than the real ones
        (folder / "orders.yaml").write_text(yaml.safe_dump(contract, sort_keys=False), encoding="utf-8")
        run_measured([*APEX, "simulate", "--mode", "signal", "--out", str(folder / "raw")], clean_environment())
        inputs = {"contract": str(folder / "orders.yaml"), "selection": "none"}
        yield from _many_features(Scene(folder / "raw", stack, inputs))


def _many_features(scene: Scene) -> Iterator[Row]:
    seconds, _ = _rounds(scene, (NATIVE,))
    model = _champion(scene.home.settings)[1]
    trees = len(xgb.Booster(model_file=bytearray(model.booster)).get_dump())
    beside = Beside("native XGBoost, ADBC, s", median(seconds[NATIVE]))
    note = f"at least 2.5 × faster; {len(model.encoder.columns)} features, {trees} trees"
    yield Row("score with many features / native", _times(seconds, NATIVE), "×", 1 / 2.5, beside, note)
    floor = Beside("server-side binary COPY and the same indexes, s", median(seconds["copy"]))
    yield Row("score with many features / COPY", _times(seconds, "copy"), "×", 2.0, floor, f"median of {ROUNDS}")


@measurement
def tiny(scene: Scene) -> Iterator[Row]:
    """Ten thousand drops of ten orders, listed and then scored in chunks, two at a time, as in Airflow's pool."""
    settings = scene.home.settings
    inbox = put(scene, "many.parquet", TINY_DROPS * TINY_ROWS, 7)
    orders = pq.read_table(inbox)
    inbox.unlink()
    for number in range(TINY_DROPS):
        pq.write_table(orders.slice(number * TINY_ROWS, TINY_ROWS), inbox.with_name(f"tiny-{number:05d}.parquet"))
    began = time.perf_counter()
    chunks = scene.home.apex("score", "--list").result["chunks"]
    with ThreadPoolExecutor(TOGETHER) as pool:
        ended = list(
            pool.map(lambda c: scene.home.apex("score", "--run", "bench", f"--drops={json.dumps(c['drops'])}"), chunks)
        )
    seconds = time.perf_counter() - began
    assert sum(e.result["rows_scored"] for e in ended) == TINY_DROPS * TINY_ROWS
    with closing(admin(settings)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'apex.scored_orders'::regclass")
        partitions = cursor.fetchone()[0]  # type: ignore[index]
    note = f"{len(chunks)} tasks, {TOGETHER} at a time"
    yield Row(f"score {TINY_DROPS:,} drops of {TINY_ROWS} orders", seconds, "s", 180.0, None, note)
    yield Row(f"partitions after {TINY_DROPS:,} drops", partitions, "", 64.0)
