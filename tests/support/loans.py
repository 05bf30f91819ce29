"""A third pipeline: loans, whose columns have the types that neither orders nor machines have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from apex_ml.steps.elt import elt
from apex_ml.steps.promote import promote
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex, single_pipeline_home
from tests.support.machines import write_pipeline

NAME = "loans"
FIRST_DAY, DAYS = date(2024, 3, 1), 60
NEWEST = FIRST_DAY + timedelta(days=DAYS)
"""A day after every row of the raw data."""
ROWS = 4_000
PIPELINE = """\
name: loans
version: 1
description: Loans of a small bank.
columns:
  borrower:
    description: The borrower.
    type: int64
    role: entity
  day:
    description: Day of the loan.
    type: date
    role: timestamp
  member:
    description: Whether the borrower is a member of the bank.
    type: boolean
    role: attribute
    nullable: true
  rate:
    description: Interest rate.
    type: decimal
    decimals: 3
    role: attribute
    unit: percent
  asked_at:
    description: When the borrower asked.
    type: timestamp
    timezone: Europe/Madrid
    role: attribute
  hour:
    description: Hour in Madrid at which the borrower asked.
    type: int64
    role: attribute
    derive: hour(asked_at)
  rooms:
    description: Rooms of the flat.
    type: int64
    role: attribute
    domain: {levels: [1, 2, 3], closed: {train: true, score: false}}
  repaid:
    description: Whether the loan was repaid.
    type: boolean
    role: target
    required: {train: true, score: false}
    nullable: {train: false, score: true}
    domain: {levels: [false, true], closed: {train: true, score: false}}
  cost:
    description: What the loan cost in the end.
    type: decimal
    decimals: 2
    role: measure
    required: false
    nullable: true
rules: []
quarantine: {limit: 0.5}
batch: {recent: 7}
features:
  grain: every_row
  attributes: [member, rate, asked_at, rooms]
  calendar: [day_of_week]
  history:
    - {recipe: count, name: history_rows}
    - {recipe: last_target}
    - {recipe: target_share, smoothing: 3}
    - {recipe: mean, columns: [cost]}
    - {recipe: count, window: 14d}
    - {recipe: count_distinct, columns: [rooms, rate]}
    - {recipe: target_share, smoothing: 10, window: 30d, by: rooms}
    - {recipe: mean, columns: [cost], by: [member, rooms]}
    - {recipe: count, by: [rooms, hour], window: 30d}
  suspicious_gain: 0.9
split:
  fractions: {train: 0.6, validation: 0.2, test: 0.2}
promotion: {margin: 0.001, floor: 0.05}
model:
  name: loans_model
  selection: none
  decision: cost
  costs:
    # a loan that is not repaid costs four times as much as a good one that is refused
    - {actual: false, predicted: true, cost: 4}
    - {actual: true, predicted: false, cost: 1}
"""


def loans(rows: int, seed: int = 3, day: date | None = None) -> pa.Table:
    """Loans of members at low rates are repaid more often. With a day all are of that day, without a target."""
    random = np.random.default_rng(seed)
    member, rate = random.random(rows) < 0.5, random.integers(1000, 9000, rows)
    rooms = random.integers(1, 4, rows)
    repaid = random.random(rows) < 1 / (1 + np.exp(-(2.0 * member + rooms - rate / 2000)))
    days = [day or FIRST_DAY + timedelta(days=int(n)) for n in np.sort(random.integers(0, DAYS, rows))]
    asked = [
        datetime(d.year, d.month, d.day, int(h), tzinfo=UTC)
        for d, h in zip(days, random.integers(8, 12, rows), strict=True)
    ]
    table = {
        "borrower": pa.array(random.integers(0, max(rows // 4, 1), rows)),
        "day": pa.array(days, pa.date32()),
        "member": pa.array(member, mask=random.random(rows) < 0.05),
        "rate": pa.array([Decimal(int(r)).scaleb(-3) for r in rate], pa.decimal128(9, 3)),
        "asked_at": pa.array(asked, pa.timestamp("ms", "UTC")),
        "rooms": pa.array(rooms),
    }
    if day is None:
        cost = [Decimal(int(c)).scaleb(-2) for c in random.integers(0, 100_000, rows)]
        table |= {"repaid": pa.array(repaid), "cost": pa.array(cost, pa.decimal128(18, 2))}
    return pa.table(table)


def changed(**parts: Any) -> str:
    """The pipeline with other parts: a mapping is merged, key by key; None removes."""

    def merge(old: Any, new: Any) -> Any:
        if not isinstance(old, dict) or not isinstance(new, dict):
            return new
        merged = old | {key: merge(old.get(key), value) for key, value in new.items()}
        return {key: value for key, value in merged.items() if value is not None}

    return yaml.safe_dump(merge(yaml.safe_load(PIPELINE), parts), sort_keys=False)


@dataclass(frozen=True)
class Trained:
    """A home with a trained and promoted model, and the results of the steps."""

    apex: Apex
    results: dict[str, dict[str, Any]]


def requested(row: dict[str, Any]) -> dict[str, Any]:
    """A row of :func:`loans` as a request has it."""
    return row | {"day": row["day"].isoformat(), "asked_at": row["asked_at"].isoformat(), "rate": str(row["rate"])}


def train_loans(
    folder: Path,
    databases: Any,
    mlflow_server: str,
    text: str = PIPELINE,
    edit: Callable[[pa.Table], pa.Table] = lambda table: table,
    strategy: str = "temporal",
) -> Trained:
    """validate → elt → split → train → promote of loans, by a pipeline and with the raw table edited."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    pq.write_table(edit(loans(ROWS)), raw / "loans.parquet")
    (raw / "_SUCCESS").touch()
    write_pipeline(folder / "pipelines", NAME, text, folder / "processed", raw)
    apex = single_pipeline_home(folder, NAME, mlflow_server, databases)
    context = apex.context("first")
    results = {
        "validate": validate(context, raw=None, as_of=None, force=False).to_json(),
        "elt": elt(context).to_json(),
        "split": split(context, strategy=strategy).to_json(),
    }
    trained = apex.call("train", "--run", "first")  # in a separate process, as importing MLflow warns
    assert trained.code == 0, trained.err
    assert trained.result is not None
    results |= {"train": trained.result, "promote": promote(context, who="test").to_json()}
    return Trained(apex, results)
