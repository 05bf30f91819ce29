"""Challengers score the champion's orders in shadow, once, without an effect on the drops."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.versions import PostgresVersions, VersionRecord
from apex_ml.adapters.storage.files import UnreadableError
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError
from apex_ml.pipelines import load_pipeline
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.manual_override import force
from apex_ml.steps.promote import promote
from apex_ml.steps.reconsider import MIN_OUTCOMES, reconsider
from apex_ml.steps.score import score
from apex_ml.steps.shadow import shadow
from tests.support.apex_home import Apex
from tests.support.schema import SCHEMA

ROWS = 200
PAIRS = """
SELECT s.model_version, s.row_nr FROM orders.shadow_scores AS s JOIN orders.scored AS c USING (run_id, row_nr)
WHERE (s.predicted, s.p_digital, s.p_telefono, s.p_vendedor) = (c.predicted, c.p_digital, c.p_telefono, c.p_vendedor)
ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Night:
    """Version 1 is champion, version 2 was rejected; both have the same files."""

    apex: Apex
    put: Callable[..., Path]

    def shadow(self) -> dict[str, Any]:
        return shadow(self.apex.context("shadow")).to_json()

    def score(self, name: str = "a.parquet") -> None:
        assert score(self.apex.context("scoring"), [name]).to_json()["scored"] == 1


@pytest.fixture
def night(nights: Any, raw: Path, contract: Contract) -> Night:
    apex: Apex = nights.apex.but(shadow_days=3)
    for run, version in nights.versions.items():
        record = VersionRecord(version, "f0", "d", "c", None, run, {"promotable": True})
        with transaction(apex.settings, SCHEMA) as session:
            PostgresVersions(session, load_pipeline(apex.settings).model_name).record(record)
        promote(apex.context(run), who="test")

    def put(name: str = "a.parquet", seed: int = 1, rows: int = ROWS) -> Path:
        path = apex.inbox / name
        make_drop(str(raw), date(2024, 8, 24), rows, seed, path, contract)
        table = pq.read_table(path)
        observed = pa.array((["DIGITAL", "VENDEDOR", None] * rows)[: table.num_rows])
        pq.write_table(table.append_column(contract.target, observed), path)
        return path

    return Night(apex, put)


def test_a_rejected_challenger_scores_the_same_orders_once(night: Night) -> None:
    night.put()
    night.score()
    result = night.shadow()
    assert (result["shadowed"], result["rows_scored"], result["later"]) == (1, ROWS, 0)
    # the same files give the same predictions as the champion's, order by order
    assert night.apex.sql(PAIRS) == [(2, nr) for nr in range(ROWS)]
    assert "no challenger has a drop to score" in night.shadow()["skip"]
    night.put("b.parquet", seed=2)
    night.score("b.parquet")
    assert night.shadow()["shadowed"] == 1
    assert night.apex.sql("SELECT count(*), count(DISTINCT run_id) FROM orders.shadow_scores") == [(2 * ROWS, 2)]
    assert night.apex.leftovers() == []


def test_both_log_losses_are_shown_where_the_outcome_is_known(night: Night) -> None:
    night.put()
    night.score()
    night.shadow()
    losses = [
        -log({"DIGITAL": digital, "VENDEDOR": vendedor}[observed])
        for observed, digital, vendedor in night.apex.sql(
            "SELECT observed, p_digital, p_vendedor FROM orders.outcomes JOIN orders.scored USING (run_id, row_nr)"
        )
    ]
    ((champion, challenger, orders, same, outcomes, theirs, ours),) = night.apex.sql(
        "SELECT champion_version, challenger_version, rows, same_prediction, outcomes, challenger_log_loss,"
        " champion_log_loss FROM orders.shadow_comparison"
    )
    assert (champion, challenger, orders, same, outcomes) == (1, 2, ROWS, 1.0, len(losses))
    assert len(losses) == ROWS - ROWS // 3
    assert theirs == pytest.approx(sum(losses) / len(losses)) == ours


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("UPDATE orders.model_versions SET recorded_at = now() - interval '73 hours'", "its days are over"),
        ("UPDATE orders.model_versions SET about = '{\"promotable\": false}'", "it is not promotable"),
        ("UPDATE orders.model_versions SET recorded_at = now() + interval '1 hour'", "the drop came before it"),
        (None, "it became champion"),
        ("0", "it is switched off"),
    ],
)
def test_no_other_drop_and_no_other_version(night: Night, change: str | None, why: str) -> None:
    night.put()
    night.score()
    if change is None:
        force(night.apex.context("x"), version=2, reason="x", who="test")
    elif change == "0":
        night = Night(night.apex.but(shadow_days=0), night.put)
    else:
        night.apex.sql(change)
    assert "skip" in night.shadow(), why
    assert night.apex.sql("SELECT 1 FROM orders.shadow_runs") == []


def test_a_file_on_a_failing_disk_blocks_no_other(night: Night) -> None:
    for seed, name in enumerate(("a.parquet", "b.parquet")):
        night.put(name, seed=seed)
        night.score(name)
    done = night.apex.inbox.parent / "done" / "a.parquet"
    kept = done.rename(done.with_name("kept"))
    done.symlink_to("/proc/self/mem")  # it says what a failing disk has the system say
    with pytest.raises(UnreadableError, match=r"a\.parquet: cannot be read for now"):
        night.shadow()
    assert night.apex.sql(
        "SELECT name FROM orders.shadow_runs JOIN orders.scoring_runs USING (run_id) JOIN orders.drops USING (drop_id)"
    ) == [("b.parquet",)]
    kept.rename(done)
    assert night.shadow()["shadowed"] == 1


def test_a_missing_file_is_reported_once_and_the_drop_is_unchanged(night: Night) -> None:
    night.put()
    night.score()
    before = night.apex.sql("SELECT * FROM orders.drop_summary")
    (night.apex.inbox.parent / "done" / "a.parquet").unlink()
    night.put("b.parquet", seed=2)
    night.score("b.parquet")
    with pytest.raises(
        DataError, match=r"1 of 2 could not be .*\na.parquet by version 2: a.parquet: the file with sha"
    ):
        night.shadow()
    assert night.apex.sql("SELECT state, rows_scored FROM orders.shadow_runs ORDER BY run_id") == [
        ("failed", 0),
        ("done", ROWS),
    ]
    assert night.apex.sql("SELECT * FROM orders.drop_summary WHERE name = 'a.parquet'") == before
    assert "skip" in night.shadow()


def test_a_drop_that_is_not_moved_yet_is_scored_next_time(night: Night) -> None:
    path = night.put()
    content = path.read_bytes()
    night.score()
    (night.apex.inbox.parent / "done" / "a.parquet").unlink()
    path.write_bytes(content)
    assert (night.shadow()["later"], night.apex.sql("SELECT 1 FROM orders.shadow_runs")) == (1, [])
    assert score(night.apex.context("scoring"), ["a.parquet"]).to_json()["already"] == 1
    assert night.shadow()["shadowed"] == 1


def test_a_killed_shadow_leaves_nothing_and_the_next_one_finishes(night: Night) -> None:
    night.put()
    night.score()
    killed = night.apex.call("shadow", APEX_FAULT="shadow_written")
    assert killed.code == -signal.SIGKILL
    assert night.apex.sql("SELECT (SELECT count(*) FROM orders.shadow_runs), count(*) FROM orders.shadow_scores") == [
        (0, 0)
    ]
    assert night.shadow()["rows_scored"] == ROWS
    assert len(night.apex.sql(PAIRS)) == ROWS


# the gate looks again, at what became known


def outcomes_known(night: Night, orders: int, *, blurred: bool) -> None:
    """Orders that both versions scored, with outcomes drawn from the challenger's own probabilities.

    `blurred` makes the champion's probabilities less sure of the same classes.
    """
    night.put(rows=orders)
    night.score()
    assert night.shadow()["rows_scored"] == orders
    apex = night.apex
    apex.sql("DELETE FROM orders.outcomes RETURNING 1")
    scores = apex.sql(
        "SELECT run_id, row_nr, p_digital, p_telefono, p_vendedor FROM orders.shadow_scores ORDER BY 1, 2"
    )
    p = np.array([row[2:] for row in scores])
    drawn = (np.random.default_rng(3).random((orders, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=2)
    with transaction(apex.settings, SCHEMA) as session:
        for (run_id, row_nr, *_), k in zip(scores, drawn, strict=True):
            observed = ("DIGITAL", "TELEFONO", "VENDEDOR")[k]
            session.execute("INSERT INTO orders.outcomes VALUES (%s, %s, %s, 'test')", (run_id, row_nr, observed))
        if blurred:
            mixed = ", ".join(f"{c} = 0.05 * {c} + 0.95 / 3" for c in ("p_digital", "p_telefono", "p_vendedor"))
            session.execute(f"UPDATE orders.scored SET {mixed}")


def look_again(night: Night, run: str = "again", version: int | None = None) -> dict[str, Any]:
    return reconsider(night.apex.context(run), version=version, who="test").to_json()


def test_a_challenger_that_is_better_on_later_orders_becomes_champion(night: Night) -> None:
    outcomes_known(night, 1500, blurred=True)
    result = look_again(night)
    assert result["promoted"], result["reasons"]
    assert (result["challenger_version"], result["champion_version"]) == (2, 2)
    assert result["evidence"]["holdout_rows"] == 1500 and result["evidence"]["looks"] == 2
    assert result["decision_report_url"].endswith("/artifacts/decision_by_outcomes/report.html")
    assert night.apex.sql("SELECT action, to_version FROM orders.promotions ORDER BY promotion_id DESC LIMIT 1") == [
        ("promote", 2)
    ]
    assert look_again(night)["skip"].startswith("no challenger scored enough rows beside version 2")


def test_an_equal_challenger_is_rejected_again_and_the_look_is_counted(night: Night) -> None:
    outcomes_known(night, 1200, blurred=False)
    result = look_again(night)
    assert not result["promoted"] and result["evidence"]["gain"] == 0 and result["evidence"]["looks"] == 2
    assert look_again(night)["reasons"] == result["reasons"]
    assert look_again(night, "third", version=2)["evidence"]["looks"] == 3
    assert night.apex.sql("SELECT count(*) FROM orders.promotions WHERE action = 'reject'") == [(3,)]


def test_too_few_outcomes_decide_nothing(night: Night) -> None:
    assert "0 of 1,000" in look_again(night)["skip"]
    night.put()
    night.score()
    night.shadow()
    assert f"{ROWS - ROWS // 3:,} of {MIN_OUTCOMES:,}" in look_again(night, version=2)["skip"]
    assert "version 9 scored" not in look_again(night)["skip"]
    assert "version 9 scored enough" in look_again(night, version=9)["skip"]
    assert night.apex.sql("SELECT count(*) FROM orders.promotions") == [(2,)]
