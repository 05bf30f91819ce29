"""A Delta table: its pipeline is written, trained, and promoted, and everything names the version that was read."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.cli.main import main
from apex_ml.services.results import ValidateResult
from apex_ml.services.run_folder import step_manifest
from apex_ml.steps.elt import elt
from apex_ml.steps.promote import promote
from apex_ml.steps.score import score
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex, single_pipeline_home
from tests.support.stranger_tables import visits

NAME = "delta_visits"
ROWS = 3000


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table whose second version replaces a part of the first, and that was compacted."""
    folder, rows = tmp_path / "lake" / "visits", pa.table(visits(ROWS))
    write_deltalake(folder, rows.slice(0, 2000))
    write_deltalake(folder, rows.slice(1000, 500), mode="append")
    write_deltalake(folder, rows.slice(0, 2000), mode="overwrite")
    write_deltalake(folder, rows.slice(2000), mode="append")
    DeltaTable(folder).optimize.compact()
    return folder


@pytest.fixture
def home(
    table: Path, tmp_path: Path, lasting_databases: Any, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> Apex:
    """A home whose only pipeline was written by `apex init` from the table."""
    with monkeypatch.context() as patch:
        patch.setenv("APEX_HOME", str(tmp_path / "home"))
        patch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
        with pytest.raises(SystemExit) as left:
            main(["init", NAME, "--from", str(table), "--target", "show", "--yes"])
        assert left.value.code == 0
    return single_pipeline_home(tmp_path, NAME, mlflow_server, lasting_databases.migrated())


def drop_rows(rows: int, seed: int) -> pa.Table:
    columns = {name: values for name, values in visits(rows, seed=seed).items() if name not in ("show", "minutes")}
    return pa.table({**columns, "day": [date(2024, 7, 20)] * rows})


def test_the_version_of_the_table_is_named_from_the_manifest_to_the_lineage(home: Apex, table: Path) -> None:
    context = home.context("first")
    assert validate(context, raw=None, as_of=None, force=False).rows == ROWS
    known = DeltaTable(table)
    (read,) = step_manifest(context, ValidateResult).result.tables or ()
    assert (read["format"], read["name"], read["version"]) == ("delta", "visits", "4")
    assert read["table_id"] == str(known.metadata().id)
    elt(context)
    split(context, strategy="temporal")
    trained = home.call("train", "--run", "first")
    assert trained.code == 0, trained.err
    assert promote(context, who="test").to_json()["promoted"]

    version = Registry(home.settings, home.pipeline.model_name).by_version(1)
    assert version is not None
    assert version.tags["apex.tables"].startswith("visits: Delta version 4 of 20")
    assert f"| Table | {version.tags['apex.tables']} |" in version.description
    assert home.sql("SELECT tables FROM trained_versions") == [([dict(read)],)]

    # the appends to another table are the drops
    drops = str(table.with_name("visits_to_score"))
    scored = home.but(drops_url=drops, scoring__source="delta", scoring__first_version=0)
    write_deltalake(drops, drop_rows(50, seed=9))
    assert score(scored.context("scoring"), ["visits_to_score-v000000.parquet"]).rows_scored == 50
    lineage = home.sql("SELECT drop_name, training_tables, count(*) FROM lineage GROUP BY 1, 2")
    assert lineage == [("visits_to_score-v000000.parquet", [dict(read)], 50)]
