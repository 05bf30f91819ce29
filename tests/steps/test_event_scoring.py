"""Scoring when the events of an object store are lost, doubled, reordered, late or nonsense: each row exactly once."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path

import pytest

from apex_ml.contract.model import Contract
from apex_ml.simulate.drop import make_drop
from tests.support.apex_home import Apex
from tests.support.ledger import counts
from tests.support.object_events import KINDS, score_on_events
from tests.support.object_servers import ObjectServer, in_object_store

DROPS, ROWS = 2 * len(KINDS), 50


def test_events_only_decide_when_rows_are_scored(
    scoring: Apex, raw: Path, contract: Contract, moto: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apex_airflow.triggers.objects.SHORTEST_PAUSE", 0.1)
    apex = in_object_store(scoring, moto, monkeypatch)
    monkeypatch.setenv("APEX_HOME", str(apex.settings.home))
    monkeypatch.setenv("APEX_ORDERS__LOCATIONS__DROPS", apex.pipeline.locations.drops)
    drops = {}
    for number in range(DROPS):
        path = tmp_path / f"{number}.parquet"
        make_drop(str(raw), date(2024, 8, 24), ROWS, number, path, contract)
        drops[path.name] = path.read_bytes()
    heard = score_on_events(apex, apex.storage, moto.queue("unreliable"), drops, random.Random(3))
    assert set(heard.sent) == set(KINDS) and heard.runs > 1 and heard.seconds
    assert counts(apex) == (DROPS, DROPS, DROPS * ROWS)
    assert list(apex.storage.list("inbox/")) == []
