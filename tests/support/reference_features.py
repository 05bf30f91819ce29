"""Orders with many ties, and their features in plain Python, order by order, from the definitions."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from apex_ml.contract.model import Contract
from apex_ml.contract.recipes.mean import MeanRecipe
from apex_ml.contract.recipes.target_share import TargetShareRecipe
from apex_ml.contract.recipes.target_trend import TargetTrendRecipe

FIRST = date(2024, 2, 20)
EPOCH = date(1970, 1, 1)
Row = dict[str, Any]


def random_orders(contract: Contract, seed: int, *, clients: int, orders: int, days: int) -> list[Row]:
    """Few clients and days, so that ties abound; some attributes and measures are null."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(orders):
        row: Row = {}
        for column in contract.columns.values():
            if column.role == "entity":
                row[column.name] = f"C{random.integers(clients):06d}"
            elif column.role == "timestamp":
                row[column.name] = FIRST + timedelta(days=int(random.integers(days)))
            elif column.type == "string":
                levels = column.domain.levels if column.domain else ("a", "b")
                row[column.name] = str(random.choice(levels))
            elif column.type == "int64":
                row[column.name] = int(random.integers(0, 20))
            else:
                row[column.name] = round(float(random.normal(50, 30)), column.decimals or 0)
            if column.role in ("attribute", "measure") and random.random() < 0.15:
                row[column.name] = None
        rows.append(row)
    return rows


def as_table(contract: Contract, rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=contract.arrow_schema())


def reference_example(contract: Contract, rows: list[Row], client: str) -> Row:
    """The client's example by the stated rule: last day, largest measures, last level, largest attributes."""
    mine = [r for r in rows if r[contract.entity] == client]
    last = max(r[contract.timestamp] for r in mine)

    def size(value: Any) -> tuple[int, Any]:
        return (0, 0) if value is None else (1, value)

    def rank(r: Row) -> tuple[Any, ...]:
        measures = [size(r[m]) for m in contract.named("measure")]
        attributes = [(0, "") if r[a] is None else (1, r[a]) for a in contract.named("attribute")]
        return (*measures, contract.classes.index(r[contract.target]), *attributes)

    return max((r for r in mine if r[contract.timestamp] == last), key=rank)


def reference_features(contract: Contract, rows: list[Row], order: Row) -> Row:
    """The features of an order, from the definitions."""
    when = order[contract.timestamp]
    before = when - timedelta(days=contract.features.history_lag_days)
    history = [r for r in rows if r[contract.entity] == order[contract.entity] and r[contract.timestamp] < before]
    out: Row = {name: order[name] for name in contract.features.attributes}
    parts = {
        "day_of_week": when.weekday(),
        "day_of_month": when.day,
        "month": when.month,
        "quarter": (when.month + 2) // 3,
        "weekend": int(when.weekday() >= 5),
    }
    out |= {f"{contract.timestamp}_{part}": parts[part] for part in contract.features.calendar}
    out["history_orders"] = len(history)
    last = max((r[contract.timestamp] for r in history), default=None)
    out["history_days_since_last"] = (when - last).days if last else None
    places = [contract.classes.index(r[contract.target]) for r in history if r[contract.timestamp] == last]
    out[f"history_last_{contract.target}"] = contract.classes[max(places)] if places else None
    smoothing = next(r.smoothing for r in contract.features.history if isinstance(r, TargetShareRecipe))
    for level in contract.classes:
        n = sum(r[contract.target] == level for r in history)
        out[f"history_share_{level}"] = (n + smoothing / len(contract.classes)) / (len(history) + smoothing)
    for recipe in contract.features.history:
        if isinstance(recipe, TargetTrendRecipe):
            years = [(r[contract.timestamp] - EPOCH).days / 365.25 for r in history]
            hits = [float(r[contract.target] == recipe.level) for r in history]
            middle = sum(years) / max(len(years), 1)
            squares = sum((x - middle) ** 2 for x in years)
            products = sum((x - middle) * y for x, y in zip(years, hits, strict=True))
            out[f"history_trend_{recipe.level}"] = products / (squares + recipe.shrinkage)
        for measure in recipe.columns if isinstance(recipe, MeanRecipe) else ():
            known = [r[measure] for r in history if r[measure] is not None]
            out[f"history_mean_{measure}"] = sum(known) / len(known) if known else None
    return out


def with_features(contract: Contract, **changes: Any) -> Contract:
    return contract.model_copy(update={"features": contract.features.model_copy(update=changes)})
