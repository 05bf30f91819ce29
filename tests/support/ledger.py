"""Scoring drops in a test, and what is then in the ledger and the folders."""

from __future__ import annotations

from typing import Any

from apex_ml.contract.locations import is_object_store
from apex_ml.steps.score import score
from tests.support.apex_home import Apex

ROWS = 500
PARTS = ("inbox", "done", "quarantine")


def run(apex: Apex, *names: str) -> dict[str, Any]:
    return score(apex.context("scoring"), list(names) or ["a.parquet"]).to_json()


def scored_rows(apex: Apex) -> list[tuple[Any, ...]]:
    """All scored orders without what differs from call to call."""
    return apex.sql(
        "SELECT d.sha256, s.row_nr, s.cliente_id, s.fecha_pedido_dt, s.predicted, s.p_digital, s.p_telefono,"
        " s.p_vendedor, s.confidence, s.model_version"
        " FROM orders.scored AS s JOIN orders.scoring_runs USING (run_id) JOIN orders.drops AS d USING (drop_id)"
        " ORDER BY 1, 2"
    )


def counts(apex: Apex) -> tuple[int, int, int]:
    """Drops, runs, scored orders."""
    (rows,) = apex.sql(
        "SELECT (SELECT count(*) FROM orders.drops), (SELECT count(*) FROM orders.scoring_runs),"
        " (SELECT count(*) FROM orders.scored)"
    )
    return rows  # type: ignore[return-value]


def places(apex: Apex) -> dict[str, list[str]]:
    """The names in each folder of the drops."""
    url = apex.pipeline.locations.drops
    if is_object_store(url):
        return {part: sorted(file.name for file in apex.storage.list(f"{part}/")) for part in PARTS}
    root = apex.inbox.parent
    return {part: sorted(p.name for p in (root / part).iterdir()) if (root / part).exists() else [] for part in PARTS}
