"""What `apex prune` takes and what it leaves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from apex_ml.cli.tables import prune as command
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.steps.prune import find_prunable, prune
from tests.support.apex_home import Apex
from tests.support.ledger import ROWS, counts, run

OLD = timedelta(days=100)
Drop = Callable[..., Path]


@pytest.fixture
def aged(chain: Any, scoring: Apex) -> Apex:
    """A home with separate processed folders, all 100 days old: the champion's run and three more."""
    apex = scoring.but(processed_url=str(scoring.settings.home / "processed"))
    for name in ("first", "rejected", "used", "unfinished"):
        folder = apex.processed / name
        shutil.copytree(chain.apex.processed / "first", folder)
        for path in folder.glob("*/manifest.json"):
            manifest = json.loads(path.read_text()) | {"run": name}
            if name != "first":
                manifest["result"] |= {"as_of": "2024-01-01"}
            if name in ("rejected", "used") and path.parent.name == "elt":
                manifest["result"] |= {"snapshot_sha256": name}
            path.write_text(json.dumps(manifest))
    for path in (apex.processed / "unfinished").glob("*/manifest.json"):
        path.unlink()
    age(apex)
    about = "INSERT INTO orders.model_versions (model_name, model_version, mlflow_run_id, data_sha256, contract_sha256,"
    about += (
        " step_run, about) SELECT %s, v, 'f', 's', 's', r, '{}' FROM (VALUES (1, 'first'), (9, 'newest')) AS t (v, r)"
    )
    apex.sql(about, (load_pipeline(apex.settings).model_name,))
    return apex


def age(apex: Apex) -> None:
    stamp = (datetime.now(UTC) - OLD).timestamp()
    for path in [*apex.processed.rglob("*")]:
        os.utime(path, (stamp, stamp))


def folders(apex: Apex) -> list[str]:
    return sorted(p.name for p in apex.processed.iterdir())


def test_unreferenced_folders_are_removed_and_the_rest_stays_with_a_reason(aged: Apex, put_drop: Drop) -> None:
    put_drop()
    run(aged)
    aged.sql("UPDATE orders.scoring_runs SET feature_snapshot = 'used'")
    context = aged.context("prune")
    # the checks compare new raw data with recent runs
    assert [p.name for p in find_prunable(context, OLD - timedelta(1)).runs] == ["unfinished"]
    small = context.contract.model_copy(update={"batch": context.contract.batch.model_copy(update={"recent": 0})})
    context = replace(context, pipeline=replace(context.pipeline, contract=small))
    assert find_prunable(context, OLD + timedelta(1)).runs == []
    match = find_prunable(context, OLD - timedelta(1))
    assert [p.name for p in match.runs] == ["rejected", "unfinished"] and match.partitions == []
    assert match.kept["used"].startswith("scored rows made with") and set(match.kept) == {"first", "used"}
    prune(context, match)
    assert folders(aged) == ["first", "used"]
    put_drop("b.parquet", seed=2)
    assert run(aged, "b.parquet")["rows_scored"] == ROWS


def test_old_partitions_are_dropped_and_their_drops_are_not_scored_again(aged: Apex, put_drop: Drop) -> None:
    put_drop(rows=ROWS)
    run(aged)
    aged.sql("UPDATE orders.scoring_runs SET finished_at = now() - interval '100 days'")
    aged.sql("UPDATE orders.scored_partitions SET opened_at = opened_at - interval '100 days'")
    put_drop("b.parquet", seed=2)
    run(aged, "b.parquet")
    shown = CliRunner(env={k: v for k, v in aged.environment().items() if k.startswith("APEX_")})
    message = shown.invoke(command, ["--keep", "90d"], catch_exceptions=False).output
    assert "partition  runs 1 to 1000" in message and "Nothing is removed yet: add --apply" in message
    assert counts(aged) == (2, 2, 2 * ROWS)
    message = shown.invoke(command, ["--keep", "12w", "--apply"], catch_exceptions=False).output
    assert "Removed 1 partition" in message
    assert counts(aged) == (2, 2, ROWS)
    put_drop("a.parquet")
    assert run(aged)["already"] == 1 and counts(aged) == (2, 2, ROWS)


def test_a_killed_removal_is_finished_by_the_next(aged: Apex) -> None:
    (aged.processed / "rejected").rename(aged.processed / ".rejected.pruned.tmp")
    context = aged.context("prune")
    match = find_prunable(context, timedelta(days=10_000))
    assert [(run.name, run.is_going) for run in match.runs] == [("rejected", True)]
    prune(context, match)
    assert folders(aged) == ["first", "unfinished", "used"]


def test_an_invalid_age_is_refused(aged: Apex) -> None:
    with pytest.raises(ConfigError, match="--keep '3 months': give days or weeks, such as 90d or 12w"):
        CliRunner().invoke(command, ["--keep", "3 months"], catch_exceptions=False)
