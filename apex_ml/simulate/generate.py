"""Draw orders from a process, with each order's true class probabilities on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal, overload

import numpy as np
import pyarrow as pa

from apex_ml.adapters.storage.simulated_truth import TRUE_PREFIX
from apex_ml.contract.time_units import EPOCH
from apex_ml.errors import ConfigError
from apex_ml.simulate.draws import Codes, Days, Floats, pick, pick_each, stream
from apex_ml.simulate.leaf_tree import LeafTree
from apex_ml.simulate.logits import Logits, softmax
from apex_ml.simulate.process import Drift, Mode, Process, build_mode
from apex_ml.simulate.process_columns import AbsNormal, Choice, Integers
from apex_ml.simulate.turns import Turns, remember

NANOSECONDS_A_DAY = 86_400_000_000_000


@dataclass(frozen=True)
class _Draws:
    """What was drawn, before it becomes columns."""

    clients: int
    seed: int
    levels: dict[str, Codes]  # by attribute, a code for each client
    entities: Codes  # of each order, as are days and classes
    days: Days
    classes: Codes


def _encode(codes: Codes, levels: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(levels, pa.string()))


def _draw_entities(
    process: Process, drifts: list[Drift], levels: Mapping[str, Codes], days: Days, clients: int, seed: int
) -> Codes:
    """The entity of every order: uniform, and after a mix drift uniform within a level drawn from the new mix."""
    drawn = stream(seed, "entity").integers(0, clients, len(days), dtype=np.int32)
    for drift in sorted(drifts, key=lambda drift: drift.day):
        for column, weights in drift.mix.items():
            names = process.named(Choice)[column].levels
            members = np.argsort(levels[column], kind="stable").astype(np.int32)
            counts = np.bincount(levels[column], minlength=len(names))
            if empty := [name for name, count in zip(names, counts, strict=True) if weights.get(name) and not count]:
                raise ConfigError(f"drift of {column}: no client is {empty[0]}; simulate more clients")
            after = np.flatnonzero(days >= (drift.day - EPOCH).days)
            random = stream(seed, f"mix:{column}")
            level = pick(np.array([[weights.get(name, 0.0) for name in names]]), None, random.random(len(after)))
            starts = np.concatenate([[0], np.cumsum(counts)])
            drawn[after] = members[starts[level] + (random.random(len(after)) * counts[level]).astype(np.int64)]
    return drawn


def _draw_classes(
    logits: Logits, mode: Mode, process: Process, levels: Codes, entities: Codes, days: Days, clients: int, seed: int
) -> tuple[Codes, Floats]:
    """The class of every order and its true probabilities (orders, classes)."""
    uniforms = stream(seed, "target").random(len(days))
    if not (logits.trend.any() or logits.shifts or mode.persistence or any(mode.effect_sd.values())):
        table = np.exp(logits.table)
        return pick(table, levels, uniforms), table[levels]
    scores = logits.at(levels, days)
    for place, name in enumerate(process.classes):
        if sd := mode.effect_sd.get(name, 0.0):
            scores[:, place] += (sd * stream(seed, f"effect:{name}").standard_normal(clients))[entities]
    if not mode.persistence:
        probabilities = softmax(scores)
        return pick_each(probabilities, uniforms), probabilities
    probabilities = np.empty_like(scores)
    codes = np.empty(len(days), np.int32)
    last = np.full(clients, -1, np.int8)
    for rows in Turns.of(entities, days):
        owners = entities[rows]
        turn, previous = scores[rows], last[owners]
        known = np.flatnonzero(previous >= 0)
        turn[known, previous[known]] += mode.persistence
        probabilities[rows] = softmax(turn)
        codes[rows] = pick_each(probabilities[rows], uniforms[rows])
        remember(last, owners, codes[rows])
    return codes, probabilities


@overload
def simulate_orders(
    process: Process,
    *,
    orders: int,
    clients: int,
    seed: int,
    start: date | None = None,
    end: date | None = None,
    mode: str | Mode = "base",
    drift: Mapping[str, Drift] | None = None,
    probabilities: Literal[False] = False,
) -> pa.Table: ...
@overload
def simulate_orders(
    process: Process,
    *,
    orders: int,
    clients: int,
    seed: int,
    start: date | None = None,
    end: date | None = None,
    mode: str | Mode = "base",
    drift: Mapping[str, Drift] | None = None,
    probabilities: Literal[True],
) -> tuple[pa.Table, pa.Table]: ...
def simulate_orders(
    process: Process,
    *,
    orders: int,
    clients: int,
    seed: int,
    start: date | None = None,
    end: date | None = None,
    mode: str | Mode = "base",
    drift: Mapping[str, Drift] | None = None,
    probabilities: bool = False,
) -> pa.Table | tuple[pa.Table, pa.Table]:
    """Draw `orders` orders of `clients` entities; the same arguments give the same table.

    Columns and their order are the process's: strings dictionary-encoded, days as timestamp[ns] at midnight, rows in
    no order. `start` and `end` (both included) default to the process's window; the trend counts years from `start`.
    `mode` is a name in the process or a :class:`Mode`; `drift` replaces the mode's drift.
    With `probabilities`, a second table follows, row by row: ``p_true_<class>``, the probabilities each class was
    drawn with, given everything (the entity's own effect too).

    Raises ConfigError for counts below 1, a window that ends before it starts, an unknown mode or name.
    """
    first, final = start or process.window.start, end or process.window.end
    _check_size(orders, clients, seed, first, final)
    if isinstance(mode, str):
        mode = process.mode(mode)
    content = mode.model_dump() | ({} if drift is None else {"drift": dict(drift)})
    mode = build_mode(process, content)

    levels = _draw_attributes(process, clients, seed)
    days = stream(seed, "timestamp").integers((first - EPOCH).days, (final - EPOCH).days + 1, orders)
    entities = _draw_entities(process, list(mode.drift.values()), levels, days, clients, seed)
    logits = Logits.of(process, mode, first)
    known = levels[process.given][entities]
    classes, truth = _draw_classes(logits, mode, process, known, entities, days, clients, seed)
    table = _build_table(process, mode, _Draws(clients, seed, levels, entities, days, classes))
    if not probabilities:
        return table
    names = [TRUE_PREFIX + name for name in process.classes]
    return table, pa.table({name: truth[:, place] for place, name in enumerate(names)})


def _check_size(orders: int, clients: int, seed: int, first: date, final: date) -> None:
    if orders < 1 or clients < 1:
        raise ConfigError(f"orders {orders:,} and clients {clients:,} must both be 1 or more")
    if seed < 0:
        raise ConfigError(f"seed {seed} must be 0 or more")
    if final < first:
        raise ConfigError(f"the window ends on {final}, before it starts on {first}")


def _draw_attributes(process: Process, clients: int, seed: int) -> dict[str, Codes]:
    """The level of every client, by attribute."""
    levels: dict[str, Codes] = {}
    for name, choice in process.named(Choice).items():
        given = process.named(Choice)[choice.given].levels if choice.given else [""]
        weights = np.array([list(choice.rows[level].values()) for level in given])
        rows = levels[choice.given] if choice.given else None
        levels[name] = pick(weights, rows, stream(seed, f"column:{name}").random(clients))
    return levels


def _build_table(process: Process, mode: Mode, draws: _Draws) -> pa.Table:
    """The columns of the process, in its order."""
    tree = LeafTree.of(process)
    leaves = tree.draw(draws.seed, draws.clients)[draws.entities] if tree.columns else np.zeros(0, np.int64)
    arrays: dict[str, pa.Array] = {}
    for name, column in process.columns.items():
        random = stream(draws.seed, f"column:{name}")
        match column.kind:
            case "entity":
                names = [column.template.format(number) for number in range(1, draws.clients + 1)]
                arrays[name] = _encode(draws.entities, names)
            case "branch":
                codes, texts = tree.columns[name]
                arrays[name] = _encode(codes[leaves], texts)
            case "choice":
                arrays[name] = _encode(draws.levels[name][draws.entities], column.levels)
            case "timestamp":
                arrays[name] = pa.array(draws.days * NANOSECONDS_A_DAY).cast(pa.timestamp("ns"))
            case "target":
                arrays[name] = _encode(draws.classes, process.classes)
            case "abs_normal":
                arrays[name] = pa.array(_draw_amounts(name, column, mode, draws.days, random))
            case "integers":
                arrays[name] = _draw_integers(column, len(draws.days), random)
    return pa.table(arrays)


def _draw_amounts(name: str, column: AbsNormal, mode: Mode, days: Days, random: np.random.Generator) -> Floats:
    amounts: Floats = np.abs(random.normal(column.mean, column.sd, len(days)))
    for drift in mode.drift.values():
        if name in drift.scale:
            amounts = np.where(days >= (drift.day - EPOCH).days, amounts * drift.scale[name], amounts)
    return np.asarray(np.round(amounts, column.decimals), np.float64)


def _draw_integers(column: Integers, orders: int, random: np.random.Generator) -> pa.Array:
    return pa.array(random.integers(column.low, column.high + 1, orders))
