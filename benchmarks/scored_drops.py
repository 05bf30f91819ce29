"""Put a drop into the inbox of a measured home, score it, and look into the database as its superuser."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

from apex_ml.contract.model import Contract
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.embedded.postgres.process import superuser_connection
from apex_ml.platform.embedded.postgres.server import locate_server
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop
from benchmarks.scene import Ended, Scene


def contract_of(settings: Settings) -> Contract:
    """The contract of the settings."""
    return load_pipeline(settings).contract


def put(scene: Scene, name: str, rows: int, seed: int) -> Path:
    """Put a drop of `rows` rows into the inbox."""
    as_of = date.fromisoformat(scene.chain["elt"].result["as_of"])
    inbox = Path(load_pipeline(scene.home.settings).locations.drops) / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    make_drop(str(scene.raw), as_of, rows, seed, inbox / name, contract_of(scene.home.settings))
    return inbox / name


def scored_once(scene: Scene, name: str, rows: int) -> tuple[Ended, dict[str, Any]]:
    """Score a drop of the inbox. Returns the measured command and its result for the drop."""
    ended = scene.home.apex("score", "--run", "bench", "--drops", json.dumps([name]))
    (drop,) = ended.result["drops"]
    assert (drop["state"], drop["rows_scored"]) == ("scored", rows), drop
    return ended, drop


def admin(settings: Settings) -> Any:
    """Return a connection of the database's superuser."""
    return superuser_connection(settings, locate_server(settings), "apex")
