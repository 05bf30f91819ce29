"""A contract with difficult names: trained, promoted, scored, and shown unchanged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from apex_ml.adapters.mlflow.registry import metric_key
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.migrations import migrate
from apex_ml.adapters.postgres.quality import rows_with_outcome
from apex_ml.adapters.postgres.shadow import shadow_outcomes
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.reports import job
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.simulate.drop import make_drop
from apex_ml.simulate.files import write_parts
from apex_ml.steps.elt import elt
from apex_ml.steps.monitor import monitor
from apex_ml.steps.outcomes import outcomes
from apex_ml.steps.promote import promote
from apex_ml.steps.score import score
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex
from tests.support.online_service import served
from tests.support.schema import SCHEMA

RUN = "hostile"
ORDERS = 4_000
CLASSES = {"DIGITAL": '[/b] Web & "App\'s" <b>$x$', "TELEFONO": "Teléfono/100 %\\", "VENDEDOR": "V" * 300}
COLUMNS = {
    "tipo_cliente_cd": 'tipo & "cliente" %(s)s',
    "madurez_digital_cd": "madurez d'été; ¿cuál?",
    "pais_cd": "país `nuevo`",
    # names of the product's own that these columns never meet
    "agencia_id": "reasons",
    "ruta_id": "row",
    "estrellas_txt": "c0",
    "frecuencia_visitas_cd": "schema",
    "cajas_fisicas": "predicted",
    "materiales_distintos_val": "nth",
}


@dataclass(frozen=True)
class Hostile:
    apex: Apex
    raw: Path
    results: dict[str, dict[str, Any]]


def renamed(value: Any) -> Any:
    """The same YAML with other names of columns and classes."""
    names = CLASSES | COLUMNS
    if isinstance(value, dict):
        return {names.get(key, key): renamed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def hostile(
    orders: pa.Table, lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Hostile:
    folder = tmp_path_factory.mktemp("hostile")
    content = renamed(
        yaml.safe_load((CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml").read_text(encoding="utf-8"))
    )
    content["columns"]["canal_pedido_cd"]["normalise"] = []
    path = folder / "hostile.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    contract = load_contract(path)
    table = orders.slice(0, ORDERS)
    place = table.schema.get_field_index(contract.target)
    levels = pa.array(list(CLASSES.values())).take(
        pc.index_in(table.column(contract.target), value_set=pa.array(list(CLASSES))).combine_chunks()
    )
    table = table.set_column(place, contract.target, levels)
    table = table.rename_columns([COLUMNS.get(name, name) for name in table.column_names])
    raw = folder / "raw"
    raw.mkdir()
    write_parts(table, raw, 1, label="hostile", entity=contract.entity)
    settings = Settings.load(
        home=folder / "home",
        raw_url=str(raw),
        contract=path,
        mlflow_tracking_uri=mlflow_server,
        model_name="hostile_model",
        selection="none",  # features with every name reach the model
        threads=1,
        **lasting_databases.empty(),
    )
    migrate(settings, load_pipeline(settings))
    apex = Apex(settings)
    context = apex.context(RUN)
    results = {
        "validate": validate(context, raw=None, as_of=None, force=False).to_json(),
        "elt": elt(context).to_json(),
        "split": split(context, strategy="temporal").to_json(),
    }
    trained = apex.call("train", "--run", RUN)
    assert trained.code == 0, trained.err
    assert trained.result is not None
    results |= {"train": trained.result, "promote": promote(context, who="test").to_json()}
    make_drop(str(raw), date(2024, 8, 24), 201, 1, folder / "drop.parquet", contract)
    drop = pq.read_table(folder / "drop.parquet")
    clients = ["nobody", *drop.column(contract.entity).to_pylist()[1:]]
    place = drop.schema.get_field_index(contract.entity)
    pq.write_table(drop.set_column(place, contract.entity, pa.array(clients)), apex.inbox / "a.parquet")
    results["score"] = score(context, ["a.parquet"]).to_json()
    return Hostile(apex, raw, results)


def test_the_model_is_trained_promoted_and_scores(hostile: Hostile) -> None:
    assert hostile.results["promote"]["promoted"]
    assert hostile.results["score"]["rows_scored"] == 200
    ((column, row),) = hostile.apex.sql("SELECT column_name, row FROM orders.quarantine")
    assert (
        column == "cliente_id"
        and row["cliente_id"] == "nobody"
        and set(COLUMNS.values()) - {"predicted", "nth"} <= set(row)
    )


def test_names_are_encoded_in_sql_and_shown_unchanged(hostile: Hostile) -> None:
    rows = hostile.apex.sql(
        "SELECT column_name::text FROM information_schema.columns WHERE table_schema = 'orders'"
        " AND table_name = 'scored' AND starts_with(column_name, 'p_') ORDER BY ordinal_position"
    )
    columns = [name for (name,) in rows]
    assert columns[1] == "p_tel_xe9_fono_x2f_100_x20__x25__x5c_"
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,61}", name) for name in columns) and len(set(columns)) == 3
    predicted = {name for (name,) in hostile.apex.sql("SELECT DISTINCT predicted FROM orders.scored_current")}
    assert predicted and predicted <= set(CLASSES.values())
    together = " + ".join(f'"{name}"' for name in columns)
    ((total,),) = hostile.apex.sql(f"SELECT sum({together}) FROM orders.scored")
    assert total == pytest.approx(200, abs=1e-3)


def test_the_report_of_a_drop_shows_class_names_unchanged(hostile: Hostile) -> None:
    settings, out = hostile.apex.settings, StringIO()
    ((sha256,),) = hostile.apex.sql("SELECT sha256 FROM orders.drops")
    summary = job.drop_summary(settings, hostile.apex.pipeline, sha256)
    assert summary is not None
    job.print_drop(Console(width=1000, file=out), settings, hostile.apex.pipeline, summary)
    assert all(level in out.getvalue() for level in CLASSES.values())


def test_mlflow_has_a_metric_of_every_class(hostile: Hostile) -> None:
    base = f"{hostile.apex.settings.tracking_uri}/api/2.0/mlflow"
    run_id = hostile.results["train"]["mlflow_run_id"]
    answer = httpx.get(f"{base}/runs/get", params={"run_id": run_id}).json()["run"]
    keys = {metric["key"] for metric in answer["data"]["metrics"]}
    assert {metric_key(f"test_recall_{level}") for level in CLASSES.values()} <= keys
    ((message,),) = hostile.apex.sql("SELECT mlflow_run_id FROM orders.mlflow_outbox WHERE last_error IS NULL")
    answer = httpx.get(f"{base}/runs/get", params={"run_id": message}).json()["run"]
    keys = {metric["key"] for metric in answer["data"]["metrics"]}
    assert {metric_key(f"pred_count_{level}") for level in CLASSES.values()} <= keys


def test_what_follows_scoring_works_with_the_names(hostile: Hostile) -> None:
    settings, context = hostile.apex.settings, hostile.apex.context(RUN)
    assert outcomes(context).to_json()["matched"] == 0
    monitor(context)
    assert rows_with_outcome(settings, SCHEMA, context.contract, 1, date(2024, 8, 19)).num_rows == 0
    with bulk_transaction(settings, SCHEMA) as session:
        assert shadow_outcomes(session, context.contract, 2, 1).num_rows == 0
    assert hostile.apex.sql("SELECT * FROM orders.shadow_comparison") == []


def test_the_online_service_answers_and_records(hostile: Hostile) -> None:
    order = pq.read_table(hostile.apex.inbox.parent / "done").slice(1, 1).to_pylist()[0]
    order |= {name: value.date().isoformat() for name, value in order.items() if hasattr(value, "date")}
    with served(hostile.apex, serving_record_share=1) as client:
        answer = client.post("/predict", json={"orders": [order]})
        assert answer.status_code == 200, answer.text
        message = answer.json()["predictions"][0]
        assert set(message["probabilities"]) == set(CLASSES.values())
        label = message["predicted"].replace("\\", r"\\").replace('"', r"\"")
        assert f'="{label}"' in client.get("/metrics").text
    recorded = hostile.apex.sql("SELECT predicted FROM orders.online_answers")
    assert recorded == [(message["predicted"],)]
