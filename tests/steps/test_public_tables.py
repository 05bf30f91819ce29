"""Public tables, as installed packages ship them: `apex init --yes`, a night and a drop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from apex_ml.cli.main import main
from apex_ml.steps.elt import elt
from apex_ml.steps.promote import promote
from apex_ml.steps.score import score
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from benchmarks.public_tables import TABLES, PublicTable
from tests.support.apex_home import single_pipeline_home

INSTALLED = [table for table in TABLES if table.archive is None]
MAX_ROWS, DROP_ROWS = 3_000, 100


@pytest.mark.parametrize("table", INSTALLED, ids=lambda table: table.name)
def test_a_public_table_is_trained_promoted_and_scored(
    table: PublicTable, tmp_path: Path, databases: Any, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table.read()
    rows = rows.sample(min(len(rows), MAX_ROWS + DROP_ROWS), random_state=5)
    known, new = rows[:-DROP_ROWS], rows[-DROP_ROWS:]
    raw = tmp_path / "raw"
    raw.mkdir()
    known.to_parquet(raw / f"{table.name}.parquet", index=False)
    with monkeypatch.context() as patch:
        patch.setenv("APEX_HOME", str(tmp_path / "home"))
        patch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
        with pytest.raises(SystemExit) as left:
            main(["init", table.name, "--from", str(raw), "--target", table.target, "--yes"])
        assert left.value.code == 0
    apex = single_pipeline_home(tmp_path, table.name, mlflow_server, databases.migrated())
    context = apex.context("first")
    assert validate(context, raw=None, as_of=None, force=False).to_json()["accepted"] > 0.99 * len(known)
    elt(context)
    split(context, strategy=apex.context("first").pipeline.options.model.split)
    trained = apex.call("train", "--run", "first")
    assert trained.code == 0, trained.err
    promoted = promote(context, who="test").to_json()
    assert promoted["promoted"], promoted["reasons"]
    new.drop(columns=table.target).to_parquet(apex.inbox / "new.parquet", index=False)
    result = score(apex.context("scoring"), ["new.parquet"]).to_json()
    assert result["rows_scored"] == len(new), result
    predicted = [value for (value,) in apex.sql(f"SELECT predicted FROM {table.name}.scored_current ORDER BY row_nr")]
    right = sum(name == actual for name, actual in zip(predicted, map(str, new[table.target]), strict=True))
    shares = pd.Series(map(str, known[table.target])).value_counts(normalize=True)
    # a hundred rows are right at least as often as with the most frequent class, less what chance gives
    assert right / len(new) > shares.iloc[0] - 0.1
