"""Drops of JSON lines, alone and as parts of a folder, have the scores of the same rows in parquet."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from apex_ml.contract.model import Contract
from apex_ml.simulate.drop import make_drop
from tests.support.apex_home import Apex
from tests.support.ledger import run

SCORED = "SELECT cliente_id, fecha_pedido_dt, predicted, p_digital, confidence FROM orders.scored"


@pytest.fixture
def of_json(scoring: Apex, tmp_path: Path) -> Apex:
    """The home with the same pipeline, whose files are JSON lines."""
    sections = yaml.safe_load(scoring.pipeline.file.read_text()) | {"files": {"format": "jsonl"}}
    file = tmp_path / "pipelines" / "orders" / "pipeline.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(sections, sort_keys=False))
    return scoring.but(pipelines=tmp_path / "pipelines", pipeline="orders")


def test_scores_are_those_of_parquet_and_broken_lines_are_quarantined(
    of_json: Apex, raw: Path, contract: Contract, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    make_drop(str(raw), date(2024, 8, 24), 200, 1, path, contract)
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    lines = [json.dumps(row | {"fecha_pedido_dt": f"{row['fecha_pedido_dt']:%Y-%m-%d}"}) for row in rows]
    of_json.inbox.mkdir(parents=True, exist_ok=True)
    (of_json.inbox / "a.parquet").write_bytes(path.read_bytes())
    (of_json.inbox / "b.jsonl").write_text("\n".join([*lines[:100], "{broken", *lines[100:]]) + "\n")
    folder = of_json.inbox / "spark"
    folder.mkdir()
    (folder / "part-0.json").write_text("\n".join(lines[:150]))
    (folder / "part-1.json.gz").write_bytes(gzip.compress("\n".join(lines[150:]).encode()))
    (folder / "_SUCCESS").touch()
    result = run(of_json, "a.parquet", "b.jsonl", "spark")
    assert [drop["rows_scored"] for drop in result["drops"]] == [200, 200, 200]
    assert [drop["rows_quarantined"] for drop in result["drops"]] == [0, 1, 0]
    first, second, third = of_json.sql("SELECT run_id FROM orders.scoring_runs ORDER BY run_id")
    scores = [sorted(of_json.sql(f"{SCORED} WHERE run_id = {run_id}")) for (run_id,) in (first, second, third)]
    assert scores[0] == scores[1] == scores[2] != []
    assert of_json.sql("SELECT source_name, row_nr, row ->> 'line' FROM orders.quarantine") == [
        ("b.jsonl", 101, "{broken")
    ]
