"""Orders with many ties, and their features in plain Python, order by order, from the definitions."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.contract.recipes import HistoryRecipe
from apex_ml.contract.recipes.count import CountRecipe
from apex_ml.contract.recipes.count_distinct import CountDistinctRecipe
from apex_ml.contract.recipes.days_since_last import DaysSinceLastRecipe
from apex_ml.contract.recipes.extremes import MaxRecipe, MinRecipe
from apex_ml.contract.recipes.interface import Recipe, WindowedRecipe
from apex_ml.contract.recipes.last import LastRecipe
from apex_ml.contract.recipes.last_target import LastTargetRecipe
from apex_ml.contract.recipes.mean import MeanRecipe
from apex_ml.contract.recipes.target_share import TargetShareRecipe
from apex_ml.contract.recipes.target_trend import TargetTrendRecipe

FIRST = date(2024, 2, 20)
EPOCH = date(1970, 1, 1)
DAY = timedelta(days=1)
CLOCK = (timedelta(0), timedelta(hours=4, minutes=30), timedelta(hours=23), DAY - timedelta(microseconds=1))
"""Times of day, few, so that ties abound; one is the last instant of its day."""
SIGNUP = "signup"
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
                row[column.name] = moment(contract, FIRST + timedelta(days=int(random.integers(days))), random)
            elif column.type == "string":
                levels = column.domain.levels if column.domain else ("a", "b")
                row[column.name] = str(random.choice(levels))
            elif column.type == "date":
                row[column.name] = FIRST - timedelta(days=int(random.integers(-days, 400)))
            elif column.type == "int64":
                row[column.name] = int(random.integers(0, 20))
            else:
                row[column.name] = round(float(random.normal(50, 30)), column.decimals or 0)
            if column.role in ("attribute", "measure") and random.random() < 0.15:
                row[column.name] = None
        rows.append(row)
    return rows


def moment(contract: Contract, day: date, random: np.random.Generator | None = None) -> date:
    """A day, or a time of that day where rows have one: its first, or by `random` one of a few; in UTC with a zone."""
    if not contract.has_instants:
        return day
    clock = datetime.combine(day, time()) + (CLOCK[int(random.integers(len(CLOCK)))] if random else CLOCK[0])
    zone = contract.columns[contract.timestamp].timezone
    return clock if zone is None else clock.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def on_clock(contract: Contract, when: date) -> datetime:
    """A time of a row on the clock of its zone."""
    if not isinstance(when, datetime):
        return datetime.combine(when, time())
    zone = contract.columns[contract.timestamp].timezone
    return when if zone is None else when.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


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
    when, clock = order[contract.timestamp], on_clock(contract, order[contract.timestamp])
    out: Row = {name: order[name] for name in contract.features.attributes}
    for name in contract.features.days_since:
        out[f"days_since_{name}"] = (
            None if order[name] is None else (clock - datetime.combine(order[name], time())) / DAY
        )
    parts = {
        "day_of_week": clock.weekday(),
        "day_of_month": clock.day,
        "month": clock.month,
        "quarter": (clock.month + 2) // 3,
        "weekend": int(clock.weekday() >= 5),
        "hour": clock.hour,
    }
    out |= {f"{contract.timestamp}_{part}": parts[part] for part in contract.features.calendar}
    features = contract.features
    before = when - timedelta(days=features.history_lag_days, hours=features.history_lag_hours or 0)
    earlier: dict[tuple[str, ...], list[Row]] = {}
    for recipe in contract.features.history:
        by = (recipe.by,) if isinstance(recipe.by, str) else recipe.by or (contract.entity,)
        if by not in earlier:
            key = [order[name] for name in by]
            same = [r for r in rows if None not in key and [r[name] for name in by] == key]
            earlier[by] = [r for r in same if r[contract.timestamp] < before]
        window = recipe.window if isinstance(recipe, WindowedRecipe) else None
        days = int(window[:-1]) if window else None
        history = [r for r in earlier[by] if days is None or before - r[contract.timestamp] <= days * DAY]
        out |= _of_recipe(contract, recipe, history, when)
    return out


def _of_recipe(contract: Contract, recipe: Recipe, history: list[Row], when: date) -> Row:
    window = recipe.window if isinstance(recipe, WindowedRecipe) else None

    start = recipe.by if isinstance(recipe.by, str) else "_".join(recipe.by or ("history",))

    def name(of: str) -> str:
        return f"{start}_{of}_{window}" if window else f"{start}_{of}"

    last = max((r[contract.timestamp] for r in history), default=None)
    if isinstance(recipe, CountRecipe):
        return {name(("count" if window or recipe.by else "orders") if recipe.name is None else "rows"): len(history)}
    if isinstance(recipe, DaysSinceLastRecipe):
        return {name("days_since_last"): (when - last) / DAY if last else None}
    if isinstance(recipe, LastTargetRecipe):
        places = [contract.classes.index(r[contract.target]) for r in history if r[contract.timestamp] == last]
        return {name(f"last_{contract.target}"): contract.classes[max(places)] if places else None}
    if isinstance(recipe, TargetShareRecipe):
        counts = Counter(r[contract.target] for r in history)
        equal = recipe.smoothing / len(contract.classes)
        return {
            name(f"share_{level}"): (counts[level] + equal) / (len(history) + recipe.smoothing)
            for level in contract.classes
        }
    if isinstance(recipe, TargetTrendRecipe):
        years = [_utc_day(r[contract.timestamp]) / 365.25 for r in history]
        hits = [float(r[contract.target] == recipe.level) for r in history]
        middle = sum(years) / max(len(years), 1)
        squares = sum((x - middle) ** 2 for x in years)
        products = sum((x - middle) * y for x, y in zip(years, hits, strict=True))
        return {name(f"trend_{recipe.level}"): products / (squares + recipe.shrinkage)}
    if isinstance(recipe, CountDistinctRecipe):
        return {name(f"distinct_{n}"): len({r[n] for r in history if r[n] is not None}) for n in recipe.columns}
    assert isinstance(recipe, MeanRecipe | MinRecipe | MaxRecipe | LastRecipe)
    out: Row = {}
    for measure in recipe.columns:
        known = [(r[contract.timestamp], r[measure]) for r in history if r[measure] is not None]
        values = [value for _, value in known]
        if isinstance(recipe, MeanRecipe):
            value = sum(values) / len(values) if values else None
        elif isinstance(recipe, LastRecipe):
            value = max(known)[1] if known else None
        else:
            value = (min if recipe.recipe == "min" else max)(values, default=None)
        out[name(f"{recipe.recipe}_{measure}")] = value
    return out


def _utc_day(when: date) -> int:
    if not isinstance(when, datetime):
        return (when - EPOCH).days
    return (when.date() - EPOCH).days if when.tzinfo is None else (when.astimezone(UTC).date() - EPOCH).days


def with_times(contract: Contract, zone: str | None) -> Contract:
    """The contract with times of day: with a zone instants, else on a clock without one."""
    when = contract.columns[contract.timestamp]
    changed = when.model_copy(update={"type": "timestamp", "timezone": zone, "normalise": (), "checks": ()})
    calendar = tuple(dict.fromkeys((*contract.features.calendar, "hour")))
    columns = contract.columns | {when.name: changed}
    return with_features(contract.model_copy(update={"columns": columns}), calendar=calendar)


def with_features(contract: Contract, **changes: Any) -> Contract:
    return contract.model_copy(update={"features": contract.features.model_copy(update=changes)})


def with_every_recipe(contract: Contract, **changes: Any) -> Contract:
    """Every recipe over the whole history and, where it has one, over short and long windows; and a date of the row."""
    signup = {"name": SIGNUP, "description": "First day.", "type": "date", "role": "attribute", "nullable": True}
    contract = contract.model_copy(update={"columns": contract.columns | {SIGNUP: Column.model_validate(signup)}})
    measures, attributes = contract.named("measure")[:2], contract.features.attributes[:2]
    recipes = [{"recipe": "days_since_last"}, {"recipe": "last_target"}, {"recipe": "last", "columns": measures}]
    recipes.append({"recipe": "target_trend", "level": contract.classes[-1], "shrinkage": 0.5})
    for window in ({}, {"window": "1d"}, {"window": "5d"}, {"window": "30d"}):
        recipes += [
            {"recipe": "count", **window},
            {"recipe": "target_share", "smoothing": 4.0, **window},
            {"recipe": "count_distinct", "columns": attributes, **window},
            *({"recipe": kind, "columns": measures, **window} for kind in ("mean", "min", "max")),
        ]
    country, more = {"by": attributes[0]}, {"by": attributes}
    recipes += [
        *({"recipe": kind, **country} for kind in ("count", "days_since_last", "last_target")),
        {"recipe": "target_share", "smoothing": 4.0, "window": "5d", **country},
        {"recipe": "target_trend", "level": contract.classes[0], "shrinkage": 0.5, **country},
        *({"recipe": kind, "columns": measures, **country} for kind in ("mean", "min", "last")),
        {"recipe": "max", "columns": measures, "window": "30d", **country},
        {"recipe": "count", "window": "1d", **more},
        {"recipe": "count_distinct", "columns": (SIGNUP,), "window": "30d", **more},
        {"recipe": "count_distinct", "columns": (SIGNUP,), **more},
        *({"recipe": kind, "columns": measures, "window": "5d", **more} for kind in ("mean", "max")),
        {"recipe": "count", "by": (SIGNUP,)},
        {"recipe": "count", "window": "5d", "by": (contract.entity, attributes[0])},
        {"recipe": "last_target", "by": (contract.entity, attributes[0])},
    ]
    history = TypeAdapter(tuple[HistoryRecipe, ...]).validate_python(tuple(recipes))
    return with_features(contract, history=history, days_since=(SIGNUP,), **changes)
