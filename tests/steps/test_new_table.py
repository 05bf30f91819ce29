"""A table that Apex has never seen: `apex init` writes its pipeline, and the steps train, promote and score with it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from apex_ml.cli.main import main
from apex_ml.steps.elt import elt
from apex_ml.steps.promote import promote
from apex_ml.steps.score import score
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex, single_pipeline_home
from tests.support.stranger_tables import visits, write_table

NAME = "visits"


ROLES = {
    "proposed": (),
    "neither entity nor date nor key": ("--entity", "-", "--timestamp", "-", "--key", "-"),
}


@pytest.fixture(params=ROLES.values(), ids=ROLES)
def home(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    lasting_databases: Any,
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Apex:
    """A home whose only pipeline was written by `apex init --yes`."""
    write_table(tmp_path / "raw" / "visits.parquet", visits(4000))
    with monkeypatch.context() as patch:
        patch.setenv("APEX_HOME", str(tmp_path / "home"))
        patch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
        with pytest.raises(SystemExit) as left:
            main(["init", NAME, "--from", str(tmp_path / "raw"), "--target", "show", "--yes", *request.param])
        assert left.value.code == 0
    return single_pipeline_home(tmp_path, NAME, mlflow_server, lasting_databases.migrated())


def test_the_pipeline_of_a_new_table_is_trained_promoted_and_scores(home: Apex) -> None:
    context = home.context("first")
    assert validate(context, raw=None, as_of=None, force=False).to_json()["accepted"] == 4000
    elt(context)
    split(context, strategy="temporal")
    trained = home.call("train", "--run", "first")
    assert trained.code == 0, trained.err
    assert trained.result["winner"] in ("xgboost_native", "logistic")
    again = home.call("train", "--run", "first", "--reproduce")
    assert again.result["reproduced"], again.result
    promoted = promote(context, who="test").to_json()
    assert promoted["promoted"], promoted
    drop = {name: values for name, values in visits(300, seed=8).items() if name not in ("show", "minutes")}
    drop["day"] = [date(2024, 7, 20)] * 300
    write_table(home.inbox / "a.parquet", drop)
    result = score(home.context("scoring"), ["a.parquet"]).to_json()
    assert result["rows_scored"] == 300, result
    rows = home.sql("SELECT predicted, p_yes FROM visits.scored_current ORDER BY row_nr")
    # the age group decides, as in the data
    young = [p for group, (_, p) in zip(drop["age group"], rows, strict=True) if group == "young"]
    old = [p for group, (_, p) in zip(drop["age group"], rows, strict=True) if group == "old"]
    assert {predicted for predicted, _ in rows} == {"yes", "no"}
    assert sum(young) / len(young) < 0.3 and sum(old) / len(old) > 0.7
