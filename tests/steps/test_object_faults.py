"""Scoring from an object store whose requests fail by a seed: nothing is lost, doubled or half visible."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path

import pytest

from apex_ml.contract.model import Contract
from apex_ml.simulate.drop import make_drop
from tests.support.apex_home import Apex
from tests.support.concurrent_reader import reading
from tests.support.faulty_store import Faults, faulty
from tests.support.ledger import counts
from tests.support.object_faults import score_under_faults
from tests.support.object_servers import ObjectServer, in_object_store

DROPS, ROWS = 4, 100


@pytest.mark.parametrize(("server", "seed"), [("moto", 1), ("rclone", 2)])
def test_under_faults_every_row_is_scored_exactly_once(
    scoring: Apex,
    raw: Path,
    contract: Contract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    server: str,
    seed: int,
) -> None:
    monkeypatch.setattr("apex_ml.adapters.storage.stores.RETRIES", {"max_retries": 1})
    real: ObjectServer = request.getfixturevalue(server)
    direct = in_object_store(scoring, real, monkeypatch)
    storage = direct.storage
    drops = {}
    for number in range(DROPS):
        path = tmp_path / f"{number}.parquet"
        make_drop(str(raw), date(2024, 8, 24), ROWS, number, path, contract)
        drops[path.name] = path.read_bytes()
    faults = Faults(seed, 0.25)
    with faulty(real, faults) as broken, reading(direct):
        monkeypatch.setenv("AWS_ENDPOINT_URL", broken.endpoint)
        tried = score_under_faults(direct, storage, drops, faults, random.Random(seed))
    assert faults.counts.total() > 10 and tried.failed
    assert counts(direct) == (DROPS, DROPS, DROPS * ROWS)
    contents = set()
    for file in storage.list("done/"):
        with storage.open(file.key) as stream:
            contents.add(stream.read())
    assert contents == set(drops.values())
    assert list(storage.list("quarantine/")) == []


def test_the_faults_of_a_seed_are_always_the_same() -> None:
    def drawn() -> list[str | None]:
        faults = Faults(3, 0.5)
        return [faults.draw(method) for method in ("GET", "PUT", "HEAD") * 20]

    assert drawn() == drawn() and len(set(drawn())) > 5
