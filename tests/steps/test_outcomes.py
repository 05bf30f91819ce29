"""Outcomes of scored orders from later raw orders: where there is no doubt, once, and never over a known outcome."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.contract.model import Contract
from apex_ml.errors import DataError, TransientError
from apex_ml.steps.outcomes import outcomes
from tests.support.apex_home import Apex
from tests.support.manifests import leave_manifest

DAY = date(2024, 8, 1)
NEXT = DAY + timedelta(days=1)
AS_OF = date(2024, 8, 10)
NONE = {"matched": 0, "already_known": 0, "ambiguous": 0, "contradicted": 0}


class Ledger:
    """Scored drops and validated runs, written directly."""

    def __init__(self, apex: Apex, contract: Contract) -> None:
        self.apex, self.contract = apex, contract
        self._files = 0

    def drop(self, *orders: tuple[str, date], drop_id: int | None = None) -> tuple[int, int]:
        """Score orders as one drop, or an earlier one again; returns (drop_id, run_id)."""
        self._files += 1
        if drop_id is None:
            ((drop_id,),) = self.apex.sql(
                "INSERT INTO orders.drops (sha256, name, bytes, state) VALUES (lpad(%s, 64, '0'), %s, 1, 'done')"
                " RETURNING drop_id::int",
                (str(self._files), f"{self._files}.parquet"),
            )
        ((run_id,),) = self.apex.sql(
            "INSERT INTO orders.scoring_runs (run_id, drop_id, step_run, model_name, model_version, mlflow_run_id,"
            " feature_snapshot, snapshot_as_of, rows_in, rows_scored, rows_quarantined, ms_total, ms_check,"
            " ms_features, ms_predict, ms_write, started_at, finished_at)"
            " OVERRIDING SYSTEM VALUE VALUES (orders.take_run_id(false), %s, 's', 'm', 1, 'f', 'f', %s, 1, 1, 0,"
            " 1, 1, 1, 1, 1, now(), now()) RETURNING run_id::int",
            (drop_id, DAY),
        )
        self.apex.sql(
            "INSERT INTO orders.mlflow_outbox (run_id, batch, sent_at) VALUES (%(run)s, %(run)s::text, now())",
            {"run": run_id},
        )
        for row_nr, (client, day) in enumerate(orders):
            self.apex.sql(
                "INSERT INTO orders.scored VALUES (%s, %s, %s, %s, 'DIGITAL', 0.6, 0.1, 0.3, 0.6, 1, now())",
                (run_id, row_nr, client, day),
            )
        return drop_id, run_id

    def raw(self, run: str, *files: Sequence[tuple[str, date, str]], as_of: date = AS_OF) -> None:
        """Leave the accepted orders of a validated run; two of one key differ in their agency."""
        folder = self.apex.processed / run / "validate"
        (folder / "accepted").mkdir(parents=True, exist_ok=True)
        for number, orders in enumerate(files):
            rows = [
                dict.fromkeys(self.contract.columns)
                | {self.contract.entity: client, self.contract.timestamp: day, self.contract.target: channel.strip("+")}
                | {"agencia_id": f"A{channel.count('+')}"}
                for client, day, channel in orders
            ]
            table = pa.Table.from_pylist(rows, self.contract.arrow_schema())
            pq.write_table(table, folder / "accepted" / f"part-{number:05d}.parquet")
        leave_manifest(folder.parent, "validate", run, data_sha256=run, as_of=as_of.isoformat())

    def match(self, run: str = "night", **options: Any) -> dict[str, int]:
        """Call the step; its counts."""
        result = outcomes(self.apex.context(run), **options).to_json()
        return {kind: result[kind] for kind in NONE}

    def known(self) -> list[tuple[Any, ...]]:
        return self.apex.sql("SELECT run_id::int, row_nr::int, observed, source FROM orders.outcomes ORDER BY 1, 2")


@pytest.fixture
def ledger(home: Any, databases: Any, contract: Contract) -> Ledger:
    return Ledger(Apex(home(**databases.migrated())), contract)


def test_unique_pairs_are_matched_once(ledger: Ledger) -> None:
    _, run = ledger.drop(("C000001", DAY), ("C000002", DAY), ("C000003", DAY), ("C000003", NEXT))
    ledger.raw(
        "night",
        [("C000001", DAY, "DIGITAL"), ("C000002", NEXT, "VENDEDOR"), ("C000009", DAY, "TELEFONO")],
        [("C000003", NEXT, "TELEFONO")],
    )
    assert ledger.match() == NONE | {"matched": 2}
    assert ledger.known() == [(run, 0, "DIGITAL", "raw"), (run, 3, "TELEFONO", "raw")]
    assert ledger.match() == NONE | {"already_known": 2}
    assert len(ledger.known()) == 2
    assert ledger.apex.leftovers() == []


@pytest.mark.parametrize(
    ("scored", "raw", "ambiguous"),
    [
        ([1], ["DIGITAL", "DIGITAL+"], 1),  # two orders, though of one channel
        ([1], ["DIGITAL", "VENDEDOR"], 1),
        ([2], ["DIGITAL"], 2),
        ([1, 1], ["DIGITAL"], 2),
        ([1, 1], ["DIGITAL", "VENDEDOR"], 2),
    ],
    ids=["two in raw", "two channels", "two in a drop", "two drops", "both"],
)
def test_ambiguous_pairs_are_counted_and_not_matched(
    ledger: Ledger, scored: list[int], raw: list[str], ambiguous: int
) -> None:
    for number in scored:
        ledger.drop(*[("C000001", DAY)] * number)
    ledger.raw("night", [("C000001", DAY, channel) for channel in raw])
    assert ledger.match() == NONE | {"ambiguous": ambiguous}
    assert ledger.known() == []


def test_a_row_that_was_delivered_twice_is_one_order(ledger: Ledger) -> None:
    ledger.drop(("C000001", DAY))
    ledger.raw("night", [("C000001", DAY, "DIGITAL")], [("C000001", DAY, "DIGITAL")])
    assert ledger.match() == NONE | {"matched": 1}


def test_late_arrivals_on_either_side_are_added(ledger: Ledger) -> None:
    ledger.drop(("C000001", DAY), ("C000002", DAY))
    ledger.raw("night", [("C000001", DAY, "DIGITAL"), ("C000003", DAY, "TELEFONO")])
    assert ledger.match() == NONE | {"matched": 1}
    ledger.drop(("C000003", DAY))
    assert ledger.match() == NONE | {"matched": 1, "already_known": 1}
    ledger.raw("later", [("C000001", DAY, "DIGITAL"), ("C000003", DAY, "TELEFONO")], [("C000002", DAY, "VENDEDOR")])
    assert ledger.match("later") == NONE | {"matched": 1, "already_known": 2}
    assert [observed for _, _, observed, _ in ledger.known()] == ["DIGITAL", "VENDEDOR", "TELEFONO"]


def test_superseded_drops_and_older_runs_do_not_count(ledger: Ledger) -> None:
    old, _ = ledger.drop(("C000001", DAY))
    new, _ = ledger.drop(("C000001", DAY))
    ledger.apex.sql("UPDATE orders.drops SET superseded_by = %s WHERE drop_id = %s", (new, old))
    _, second = ledger.drop(("C000001", DAY), drop_id=new)
    ledger.raw("night", [("C000001", DAY, "VENDEDOR")])
    assert ledger.match() == NONE | {"matched": 1}
    assert ledger.known() == [(second, 0, "VENDEDOR", "raw")]


def test_a_different_outcome_is_reported_and_does_not_overwrite(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    _, run = ledger.drop(*[(f"C00000{n}", DAY) for n in range(5)])
    first = [("C000000", DAY, "DIGITAL"), ("C000001", DAY, "DIGITAL"), ("C000002", DAY, "DIGITAL")]
    ledger.raw("night", first)
    assert ledger.match() == NONE | {"matched": 3}
    ledger.apex.sql(
        "INSERT INTO orders.outcomes (run_id, row_nr, observed, source)"
        " VALUES (%(run)s, 3, 'TELEFONO', 'drop'), (%(run)s, 4, 'TELEFONO', 'drop')",
        {"run": run},
    )
    before = ledger.known()
    # 0: corrected; 1: its first row is still there; 2: unchanged; 3: one of two orders of that day; 4: none of them
    changed = [("C000000", DAY, "VENDEDOR"), ("C000001", DAY, "VENDEDOR"), ("C000003", DAY, "TELEFONO")]
    ledger.raw("later", first[1:], [*changed, ("C000003", DAY, "VENDEDOR"), ("C000004", DAY, "DIGITAL")])
    assert ledger.match("later") == NONE | {"contradicted": 3, "already_known": 2}
    assert ledger.known() == before
    assert f"outcome_contradicted run_id={run} row_nr=0 known=DIGITAL raw=['VENDEDOR']" in caplog.text


def test_coverage_by_age_and_by_day(ledger: Ledger) -> None:
    ledger.drop(("C000001", DAY), ("C000002", DAY), ("C000001", AS_OF))
    ledger.drop(("C000003", DAY - timedelta(days=120)))
    ledger.raw("night", [("C000001", DAY, "DIGITAL"), ("C000003", DAY, "DIGITAL")])
    result = outcomes(ledger.apex.context("night")).to_json()
    assert result["coverage"] == {
        "coming": {"scored": 1, "with_outcome": 0, "share": 0.0},
        "8-14": {"scored": 2, "with_outcome": 1, "share": 0.5},
        "91-": {"scored": 1, "with_outcome": 0, "share": 0.0},
    }
    assert ledger.apex.sql(
        "SELECT day, scored::int, with_outcome::int, share FROM orders.outcome_coverage ORDER BY 1"
    ) == [
        (DAY - timedelta(days=120), 1, 0, 0.0),
        (DAY, 2, 1, 0.5),
        (AS_OF, 1, 0, 0.0),
    ]


def test_runs_with_new_outcomes_are_logged_to_mlflow_again(ledger: Ledger) -> None:
    _, gained = ledger.drop(("C000001", DAY))
    ledger.drop(("C000002", DAY))
    ledger.raw("night", [("C000001", DAY, "DIGITAL")])
    unsent = "SELECT run_id::int FROM orders.mlflow_outbox WHERE sent_at IS NULL"
    ledger.match()
    assert ledger.apex.sql(unsent) == [(gained,)]
    ledger.apex.sql("UPDATE orders.mlflow_outbox SET sent_at = now()")
    ledger.match()
    assert ledger.apex.sql(unsent) == []


def test_killed_before_the_commit_nothing_is_written(ledger: Ledger) -> None:
    ledger.drop(("C000001", DAY))
    ledger.raw("night", [("C000001", DAY, "DIGITAL")])
    killed = ledger.apex.call("outcomes", "--run", "night", APEX_FAULT="outcomes_written")
    assert killed.code == -signal.SIGKILL and ledger.known() == []
    done = ledger.apex.call("outcomes", "--run", "night")
    assert done.code == 0 and done.result is not None, done.err
    assert (done.result["matched"], len(ledger.known())) == (1, 1)


def test_the_newest_validated_run_can_be_selected(ledger: Ledger) -> None:
    nothing = outcomes(ledger.apex.context("any"), newest=True).to_json()
    assert nothing["skip"] == "no raw rows have been validated yet"
    with pytest.raises(DataError, match="validate has not finished; run: apex validate --force --run any"):
        ledger.match("any")
    ledger.drop(("C000001", DAY), ("C000002", DAY))
    ledger.raw("a", [("C000001", DAY, "DIGITAL")], as_of=AS_OF)
    ledger.raw("b", [("C000002", DAY, "DIGITAL")], as_of=DAY)
    assert ledger.match("any", newest=True) == NONE | {"matched": 1}
    assert ledger.match("a") == NONE | {"already_known": 1}


@pytest.mark.parametrize("scored", [True, False])
def test_with_nothing_on_one_side_nothing_happens(ledger: Ledger, scored: bool) -> None:
    if scored:
        ledger.drop(("C000001", DAY))
    ledger.raw("night", [] if scored else [("C000001", DAY, "DIGITAL")])
    assert ledger.match() == NONE


def test_without_postgres_outcomes_is_a_transient_error(ledger: Ledger, tmp_path: Path) -> None:
    ledger.raw("night", [("C000001", DAY, "DIGITAL")])
    deaf = ledger.apex.but(database_url="postgresql://nobody@127.0.0.1:1/apex")
    with pytest.raises(TransientError, match="nothing was written"):
        outcomes(deaf.context("night"))
