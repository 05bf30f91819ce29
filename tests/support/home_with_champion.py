"""Fixtures: one trained champion per worker, and homes with it for single tests. A conftest imports them."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.mlflow.registry import CHAMPION, ModelVersion, Registry
from apex_ml.contract.model import Contract
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.elt import elt
from apex_ml.steps.promote import promote
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import ORIGIN, Apex
from tests.support.ledger import ROWS

RUN = "first"


@dataclass(frozen=True)
class Chain:
    """The first run on the small raw data: the home and the result of every step."""

    apex: Apex
    results: dict[str, dict[str, Any]]


_chains: dict[str, Chain] = {}
"""The chain by its MLflow server. Each test folder with the fixtures has its own `chain`; all share this one."""


@pytest.fixture(scope="session")
def chain(raw: Path, lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """validate → elt → split → train → promote, once. Shared: a test must not change this home."""
    if mlflow_server not in _chains:
        _chains[mlflow_server] = _make(raw, lasting_databases, mlflow_server, tmp_path_factory)
    return _chains[mlflow_server]


def _make(raw: Path, lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    settings = Settings.load(
        home=tmp_path_factory.mktemp("chain"),
        raw_url=str(raw),
        mlflow_tracking_uri=mlflow_server,
        threads=1,
        origin=ORIGIN,
        **lasting_databases.migrated(),
    )
    apex = Apex(settings)
    context = apex.context(RUN)
    results = {
        "validate": validate(context, raw=None, as_of=None, force=False).to_json(),
        "elt": elt(context).to_json(),
        "split": split(context, strategy="temporal").to_json(),
    }
    # in a separate process, because importing MLflow warns and cannot be undone
    trained = apex.call("train", "--run", RUN)
    assert trained.code == 0, trained.err
    results |= {"train": trained.result, "promote": promote(context, who="test").to_json()}
    return Chain(apex, results)


@pytest.fixture
def scoring(chain: Chain, databases: Any, tmp_path: Path) -> Apex:
    """A home with an empty ledger and inbox; the champion and the history snapshot are the chain's."""
    changes = {
        "home": tmp_path / "home",
        "processed_url": str(chain.apex.processed),
        "drops_url": "",
        "upload_minutes": 0,  # a truncated file is bad immediately
        **databases.migrated(),
    }
    return chain.apex.but(**changes)


_names = itertools.count(1)


def register(settings: Settings, name: str, like: ModelVersion) -> int:
    """Register the files of a version again under a name; returns the new version."""
    base = f"{settings.tracking_uri}/api/2.0/mlflow"
    httpx.post(f"{base}/registered-models/create", json={"name": name})
    content = {
        "name": name,
        "source": f"models:/{like.model_id}",
        "run_id": like.run_id,
        "model_id": like.model_id,
        "tags": [{"key": k, "value": v} for k, v in like.tags.items()],
    }
    answer = httpx.post(f"{base}/model-versions/create", json=content)
    answer.raise_for_status()
    return int(answer.json()["model_version"]["version"])


@dataclass(frozen=True)
class Nights:
    """Runs whose models wait for the gate: `versions` by run. All have the same files."""

    apex: Apex
    versions: dict[str, int]
    like: ModelVersion

    def more(self, number: int) -> list[int]:
        """Register further versions with the same files."""
        return [
            register(self.apex.settings, load_pipeline(self.apex.settings).model_name, self.like) for _ in range(number)
        ]

    def champion(self) -> int | None:
        """Version of the alias champion."""
        result = Registry(self.apex.settings, load_pipeline(self.apex.settings).model_name).by_alias(CHAMPION)
        return result.version if result else None

    def ledger(self) -> list[tuple[Any, ...]]:
        """(action, from, to, state), oldest first."""
        return self.apex.sql(
            "SELECT action, from_version, to_version, state FROM orders.promotions ORDER BY promotion_id"
        )


@pytest.fixture
def nights(chain: Chain, databases: Any, tmp_path: Path) -> Nights:
    """Two runs with equal models under a separate registered name; nothing is promoted yet."""
    name = f"model_{next(_names)}"
    apex = chain.apex.but(home=tmp_path / "home", processed_url="", model_name=name, **databases.migrated())
    first = chain.apex.processed / RUN
    like = Registry(chain.apex.settings, load_pipeline(chain.apex.settings).model_name).by_alias(CHAMPION)
    assert like is not None
    versions = {}
    for run in ("one", "two"):
        folder = apex.processed / run
        for step in ("elt", "split", "train"):
            shutil.copytree(first / step, folder / step)
            path = folder / step / "manifest.json"
            manifest = json.loads(path.read_text()) | {"run": run}
            if step == "train":
                versions[run] = register(apex.settings, name, like)
                manifest["result"]["model_version"] = versions[run]
            path.write_text(json.dumps(manifest))
    return Nights(apex, versions, like)


@pytest.fixture
def put_drop(scoring: Apex, raw: Path, contract: Contract) -> Callable[..., Path]:
    """Put a drop into the inbox: `changed` gets its table and returns another."""

    def put(
        name: str = "a.parquet",
        *,
        seed: int = 1,
        rows: int = ROWS,
        day: date = date(2024, 8, 24),
        changed: Callable[[pa.Table], pa.Table] | None = None,
    ) -> Path:
        path = scoring.inbox / name
        if changed is None:
            make_drop(str(raw), day, rows, seed, path, contract)
            return path
        plain = scoring.inbox.parent / ".made.parquet"
        plain.unlink(missing_ok=True)
        make_drop(str(raw), day, rows, seed, plain, contract)
        pq.write_table(changed(pq.read_table(plain)), path)
        return path

    return put


VERSION = "model_name, model_version, mlflow_run_id, data_sha256, contract_sha256, step_run, contract_identity, about"


def copy_champion_record(apex: Apex, chain: Any) -> None:
    """Insert the champion of the chain into the database of a home, as training would."""
    for row in chain.apex.sql(f"SELECT {VERSION} FROM orders.model_versions"):
        apex.sql(
            f"INSERT INTO orders.model_versions ({VERSION}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            (*row[:-1], json.dumps(row[-1])),
        )
