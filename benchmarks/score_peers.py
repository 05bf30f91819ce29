"""What scoring a large drop is compared with: the server's own COPY, pandas with to_sql, and XGBoost with ADBC."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost as xgb

from apex_ml.adapters.mlflow.registry import CHAMPION, Registry
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.contract.model import Contract
from apex_ml.core.estimator import Model
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.embedded.postgres.server import locate_server
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.sql.tables import SCORED, partition_indexes
from benchmarks.scene import Scene, clean_environment, run_measured
from benchmarks.scored_drops import admin, contract_of
from tests.support.schema import SCHEMA

TABLE = "apex.bench_orders"


def create_table(cursor: Any) -> None:
    cursor.execute(f"CREATE TABLE {TABLE} (LIKE {SCHEMA}.{SCORED} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")


def index_table(cursor: Any, contract: Contract) -> None:
    cursor.execute("SET LOCAL maintenance_work_mem = '256MB'")
    for statement in partition_indexes(contract, TABLE):
        cursor.execute(statement)


def copied(settings: Settings, run_id: int) -> float:
    """Seconds of the server to copy a run's rows from a file into a table and to index it."""
    file = locate_server(settings).data / "bench.copy"
    with closing(admin(settings)) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"COPY (SELECT * FROM {SCHEMA}.{SCORED} WHERE run_id = {run_id:d}) TO '{file}' WITH (FORMAT binary)"
        )
        connection.commit()
        began = time.perf_counter()
        create_table(cursor)
        cursor.execute(f"COPY {TABLE} FROM '{file}' WITH (FORMAT binary)")
        index_table(cursor, contract_of(settings))
        connection.commit()
        seconds = time.perf_counter() - began
        cursor.execute(f"DROP TABLE {TABLE}")
        connection.commit()
    file.unlink()
    return seconds


def champion_of(settings: Settings) -> tuple[str, Model]:
    registry = Registry(settings, load_pipeline(settings).model_name)
    version = registry.by_alias(CHAMPION)
    assert version is not None
    return f"models:/{version.name}/{version.version}", Model.from_files(registry.files(version))


def attributes_of(contract: Contract, model: Model) -> list[str]:
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
    contract = contract_of(settings)
    uri, model = champion_of(settings)
    mlflow.set_tracking_uri(settings.tracking_uri)
    scorer = mlflow.pyfunc.load_model(uri)
    names = attributes_of(contract, model)
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
    p = [*probability_columns(contract.classes).values()]
    out = frame[["row_nr", contract.entity, contract.timestamp]].assign(run_id=1, predicted=scored["predicted"])
    out[p] = scored[p].astype("float32")
    out["confidence"] = out[p].max(axis=1)
    out = out.assign(model_version=1, scored_at=pd.Timestamp.now("UTC"))
    with engine.begin() as connection:
        cursor = connection.connection.cursor()
        create_table(cursor)
        out.to_sql(TABLE.split(".")[1], connection, schema="apex", if_exists="append", index=False)
        index_table(cursor, contract)
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
    contract = contract_of(settings)
    model = champion_of(settings)[1]
    names = attributes_of(contract, model)
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
            name: pa.array(np.ascontiguousarray(p[:, k]))
            for k, name in enumerate(probability_columns(contract.classes).values())
        }
        columns["confidence"] = pa.array(p[np.arange(n), best])
        columns["model_version"] = pa.array(np.full(n, 1, np.int32))
        columns["scored_at"] = pa.array(np.full(n, np.datetime64("now", "us"))).cast(pa.timestamp("us", "UTC"))
        create_table(cursor)
        cursor.adbc_ingest(TABLE.split(".")[1], pa.table(columns), mode="append", db_schema_name="apex")
        index_table(cursor, contract)
        connection.commit()
        print(json.dumps({"seconds": time.perf_counter() - began, "rows": n}))
        cursor.execute(f"DROP TABLE {TABLE}")
        connection.commit()


def run_peer(scene: Scene, name: str, path: Path, rows: int) -> float:
    """Seconds of a peer, a function of this module, in a process of its own."""
    code = f"import sys; from benchmarks.score_peers import {name}; {name}(*sys.argv[1:])"
    env = scene.home.env | clean_environment(PYTHONPATH=f"{CODE_ROOT}:{CODE_ROOT / 'plugins'}")
    ended = run_measured([sys.executable, "-W", "ignore", "-c", code, str(scene.home.settings.home), str(path)], env)
    content = json.loads(ended.output.splitlines()[-1])
    assert content["rows"] == rows, content
    return float(content["seconds"])


PANDAS, NATIVE = pandas_to_sql.__name__, native_with_adbc.__name__
