"""A second pipeline that has nothing of the orders: a small table of machines, of which some stop within a day."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from apex_ml.adapters.postgres.migrations import migrate_schema
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.simulate.files import write_parts
from apex_ml.steps.elt import elt
from apex_ml.steps.promote import promote
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex, single_pipeline_home

NAME = "machines"
PIPELINE = """\
name: machines
version: 1
description: Daily readings of machines.
columns:
  machine:
    description: The machine.
    type: string
    role: entity
    checks:
      - {rule: pattern, regex: "M[0-9]{5}"}
  day:
    description: Day of the reading.
    type: date
    role: timestamp
  hall:
    description: Where it stands.
    type: string
    role: attribute
    nullable: true
    domain: {levels: [EAST, WEST], closed: {train: true, score: false}}
  heat:
    description: Temperature.
    type: double
    role: attribute
    nullable: true
    unit: °C
  state:
    description: What the machine does on the next day.
    type: string
    role: target
    required: {train: true, score: false}
    nullable: {train: false, score: true}
    domain: {levels: [RUNS, STOPS], closed: {train: true, score: false}}
  pieces:
    description: What it made on that day.
    type: int64
    role: measure
    required: false
    nullable: true
rules: []
quarantine:
  limit: 0.5
batch:
  recent: 7
  rules:
    - {rule: row_count, low: 0.1, high: 10.0}
features:
  grain: last_row_per_entity
  attributes: [hall, heat]
  calendar: [day_of_week]
  history:
    - {recipe: count, name: history_rows}
    - {recipe: last_target}
  suspicious_gain: 0.9
split:
  fractions: {train: 0.6, validation: 0.2, test: 0.2}
  gap_days: 0
promotion:
  margin: 0.001
  alpha: 0.05
  mode: sequential
  floor: 0.05
"""
FIRST_DAY, DAYS, MACHINES = date(2024, 3, 1), 40, 2_000
ROW = {"machine": "M00001", "day": "2030-01-01", "hall": "EAST", "heat": 71.5}
"""A row of a request, after every day of the data."""


def add_machines(pipelines: Path, processed: Path | None = None, raw: Path | None = None) -> Path:
    """Write the pipeline into a folder of pipelines; returns its file."""
    return write_pipeline(pipelines, NAME, PIPELINE, processed, raw)


def write_pipeline(pipelines: Path, name: str, text: str, processed: Path | None, raw: Path | None) -> Path:
    """Write a pipeline whose files are in these folders."""
    folders = {"processed": processed, "raw": raw}
    lines = [f"  {key}: {folder}\n" for key, folder in folders.items() if folder]
    file = pipelines / name / "pipeline.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + ("locations:\n" + "".join(lines) if lines else ""), encoding="utf-8")
    return file


def write_readings(folder: Path, seed: int = 5) -> None:
    """Raw readings of every machine on some days; hot machines stop more often."""
    random = np.random.default_rng(seed)
    rows = MACHINES * 5
    heat = np.round(random.normal(70, 10, rows), 1)
    stops = random.random(rows) < 1 / (1 + np.exp(-(heat - 75) / 4))
    days = [FIRST_DAY + timedelta(days=int(n)) for n in random.integers(0, DAYS, rows)]
    table = pa.table(
        {
            "machine": [f"M{n:05d}" for n in np.arange(rows) % MACHINES],
            "day": pa.array(days, pa.date32()),
            "hall": random.choice(["EAST", "WEST"], rows),
            "heat": heat,
            "state": np.where(stops, "STOPS", "RUNS"),
            "pieces": random.integers(0, 500, rows),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_parts(table, folder, 2, label=NAME, entity="machine")


_chains: dict[str, Apex] = {}
"""The trained pipeline by its MLflow server. Every test folder with the fixture shares it."""


@pytest.fixture(scope="session")
def machines(lasting_databases: Any, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Apex:
    """validate → elt → split → train → promote of the machines, once. Shared: a test must not change this home."""
    if mlflow_server not in _chains:
        folder = tmp_path_factory.mktemp(NAME)
        write_readings(folder / "raw")
        add_machines(folder / "pipelines", folder / "processed", folder / "raw")
        apex = single_pipeline_home(folder, NAME, mlflow_server, lasting_databases.migrated())
        context = apex.context("first")
        validate(context, raw=None, as_of=None, force=False)
        elt(context)
        split(context, strategy="temporal")
        trained = apex.call("train", "--run", "first")  # in a separate process, as importing MLflow warns
        assert trained.code == 0, trained.err
        assert promote(context, who="test").to_json()["promoted"]
        _chains[mlflow_server] = apex
    return _chains[mlflow_server]


@pytest.fixture
def both(chain: Any, machines: Apex, databases: Any, tmp_path: Path) -> Apex:
    """A home with the orders and the machines, a champion of each, and a database without a row."""
    pipelines = tmp_path / "pipelines"
    orders = (CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml").read_text(encoding="utf-8")
    write_pipeline(pipelines, "orders", orders, chain.apex.processed, None)
    of_machines = load_pipeline(machines.settings)
    add_machines(pipelines, machines.processed, Path(of_machines.locations.raw))
    settings = Settings.load(
        home=tmp_path / "home",
        pipelines=pipelines,
        pipeline="",
        mlflow_tracking_uri=chain.apex.settings.mlflow_tracking_uri,
        threads=1,
        **databases.migrated(),
    )
    settings.home.mkdir()
    migrate_schema(settings, of_machines.contract, NAME)
    return Apex(settings)
