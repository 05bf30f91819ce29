"""A copy of the target among the attributes of the raw data stops training, by name, and leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import yaml

from apex_ml.settings import CODE_ROOT
from apex_ml.simulate.files import write_parts

COPY = "codigo_interno_txt"


def test_a_copy_of_the_target_is_detected_and_named(
    chain: Any, databases: Any, orders: pa.Table, contract: Any, mlflow_server: str, tmp_path: Path
) -> None:
    written = yaml.safe_load((CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml").read_text())
    written["columns"][COPY] = {"description": "A code of the back office.", "type": "string", "role": "attribute"}
    written["features"]["attributes"].append(COPY)
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    codes = {"DIGITAL": "10", "TELEFONO": "20", "VENDEDOR": "30"}
    copied = pa.array([codes[v] for v in orders[contract.target].to_pylist()])
    (tmp_path / "raw").mkdir()
    write_parts(orders.append_column(COPY, copied), tmp_path / "raw", 2, label="leak", entity=contract.entity)
    apex = chain.apex.but(
        home=tmp_path / "home",
        contract=own,
        raw_url=str(tmp_path / "raw"),
        processed_url=str(tmp_path / "processed"),
        model_name="leaking",
        **databases.migrated(),
    )
    for step in ("validate", "elt", "split"):
        done = apex.call(step, "--run", "leak")
        assert done.code == 0, done.err
    done = apex.call("train", "--run", "leak")
    assert done.code == 10 and done.result is None
    assert f"{COPY} (" in done.err and "suspicious_gain" in done.err and "Traceback" not in done.err
    result = httpx.get(f"{mlflow_server}/api/2.0/mlflow/registered-models/get", params={"name": "leaking"})
    assert result.status_code == 404
    assert apex.sql("SELECT count(*) FROM orders.model_versions") == [(0,)]
    assert apex.leftovers() == [] and not (apex.processed / "leak" / "train").exists()
