"""Draw orders from a process, with each order's true class probabilities on request."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Literal, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.adapters.storage.simulated_truth import TRUE_PREFIX
from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.process import AbsNormal, Branch, Choice, Drift, Integers, Mode, Process, Target, build_mode
from apex_ml.wording import counted

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]
Days = npt.NDArray[np.int64]

EPOCH = date(1970, 1, 1)
NANOSECONDS_A_DAY = 86_400_000_000_000
DAYS_A_YEAR = 365.25


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of one purpose. Streams are told apart by name, so a new column changes no other."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),))))


def pick(weights: Floats, rows: Codes | None, uniforms: Floats) -> Codes:
    """Level codes by inverse distribution: weights (rows, levels), `rows` the row each draw uses (None: the first)."""
    cumulative = np.cumsum(weights, axis=1)
    codes = np.zeros(len(uniforms), np.int32)
    for level in range(weights.shape[1] - 1):  # the last bound is never compared: it may round to just under 1
        bound = cumulative[0, level] if rows is None else cumulative[:, level][rows]
        codes += uniforms >= bound
    return codes


def pick_each(probabilities: Floats, uniforms: Floats) -> Codes:
    """Class codes where every draw has its own row of probabilities."""
    codes = np.zeros(len(uniforms), np.int32)
    bound = np.zeros(len(uniforms))
    for level in range(probabilities.shape[1] - 1):
        bound += probabilities[:, level]
        codes += uniforms >= bound
    return codes


def softmax(logits: Floats) -> Floats:
    """Probabilities of rows of logits."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


@dataclass(frozen=True)
class Logits:
    """The part of an order's logits that is known from its attribute and its day."""

    table: Floats  # (levels of the attribute, classes)
    trend: Floats  # (classes,) per year
    origin: int  # the day the trend starts from, days since 1970
    shifts: tuple[tuple[int, Floats], ...]  # (first day, (classes,))

    @classmethod
    def of(cls, process: Process, mode: Mode, origin: date) -> Logits:
        """Compile a mode."""
        classes = process.classes
        attribute = process.named(Choice)[process.given]
        table = process.named(Target)[process.target].table
        return cls(
            np.log([[table[level][name] for name in classes] for level in attribute.levels]),
            np.array([mode.trend.get(name, 0.0) for name in classes]),
            (origin - EPOCH).days,
            tuple(
                ((drift.day - EPOCH).days, np.array([drift.logits.get(name, 0.0) for name in classes]))
                for drift in mode.drift.values()
                if drift.logits
            ),
        )

    def at(self, levels: Codes, days: Days) -> Floats:
        """Logits (orders, classes) before the entity's effect and persistence."""
        logits: Floats = self.table[levels]
        if self.trend.any():
            logits = logits + ((days - self.origin) / DAYS_A_YEAR)[:, None] * self.trend
        for day, shift in self.shifts:
            logits = logits + np.where((days >= day)[:, None], shift, 0.0)
        return logits


@dataclass(frozen=True)
class Sequence:
    """Orders cut into turns: an entity's orders of one day share a turn, its next day is the next turn."""

    rows: npt.NDArray[np.int64]  # positions of the orders, turn by turn
    bounds: npt.NDArray[np.int64]  # turn t is rows[bounds[t]:bounds[t + 1]]

    @classmethod
    def of(cls, entities: Codes, days: Days) -> Sequence:
        """Turns of orders given the entity's code and the day of each."""
        if not len(entities):
            return cls(np.zeros(0, np.int64), np.zeros(1, np.int64))
        first = int(days.min())
        key = entities.astype(np.int64) * (int(days.max()) - first + 1) + (days - first)
        order = np.argsort(key, kind="stable")
        key, owner = key[order], entities[order]
        new_turn = np.concatenate([[True], key[1:] != key[:-1]])
        new_entity = np.concatenate([[True], owner[1:] != owner[:-1]])
        turns = np.cumsum(new_turn)
        turn = turns - turns[np.flatnonzero(new_entity)][np.cumsum(new_entity) - 1]
        return cls(order[np.argsort(turn, kind="stable")], np.concatenate([[0], np.cumsum(np.bincount(turn))]))

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        """Positions of the orders of each turn."""
        return (self.rows[a:b] for a, b in pairwise(self.bounds))


def remember(last: npt.NDArray[np.int8], entities: Codes, classes: Codes) -> None:
    """Set the last class of the entities of a turn; of several on one day, the one latest in the process's order."""
    last[entities] = -1
    np.maximum.at(last, entities, classes.astype(np.int8))


@dataclass(frozen=True)
class _Tree:
    """The leaves of the tree, in order, with the values of every branch column."""

    starts: npt.NDArray[np.int64]  # first leaf of each top branch, and the number of leaves
    columns: dict[str, tuple[Codes, list[str]]]  # code of each leaf, levels

    @classmethod
    def of(cls, process: Process) -> _Tree:
        leaves = [
            (top, middle, agency, leaf)
            for top, middles in process.tree.items()
            for middle, counts in middles.items()
            for agency, count in enumerate(counts, 1)
            for leaf in range(1, count + 1)
        ]
        tops = [leaf[0] for leaf in leaves]
        starts = [tops.index(top) for top in process.tree] + [len(leaves)]
        columns = {}
        for name, column in process.named(Branch).items():
            texts = [column.template.format(*leaf) for leaf in leaves]
            levels = list(dict.fromkeys(texts))
            place = {level: code for code, level in enumerate(levels)}
            columns[name] = (np.array([place[text] for text in texts], np.int32), levels)
        return cls(np.array(starts), columns)

    def draw(self, seed: int, entities: int) -> npt.NDArray[np.int64]:
        """A leaf per entity: top branch uniform, leaf uniform within it."""
        tops = stream(seed, "branch:top").integers(0, len(self.starts) - 1, entities)
        counts = np.diff(self.starts)[tops]
        return np.asarray(self.starts[tops] + (stream(seed, "branch:leaf").random(entities) * counts).astype(np.int64))


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
    for rows in Sequence.of(entities, days):
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
    if orders < 1 or clients < 1:
        raise ConfigError(f"orders {orders:,} and clients {clients:,} must both be 1 or more")
    if seed < 0:
        raise ConfigError(f"seed {seed} must be 0 or more")
    if final < first:
        raise ConfigError(f"the window ends on {final}, before it starts on {first}")
    if isinstance(mode, str):
        mode = process.mode(mode)
    content = mode.model_dump() | ({} if drift is None else {"drift": dict(drift)})
    mode = build_mode(process, content)
    logits = Logits.of(process, mode, first)

    levels: dict[str, Codes] = {}
    for name, choice in process.named(Choice).items():
        given = process.named(Choice)[choice.given].levels if choice.given else [""]
        weights = np.array([list(choice.rows[level].values()) for level in given])
        rows = levels[choice.given] if choice.given else None
        levels[name] = pick(weights, rows, stream(seed, f"column:{name}").random(clients))
    days = stream(seed, "timestamp").integers((first - EPOCH).days, (final - EPOCH).days + 1, orders)
    entities = _draw_entities(process, list(mode.drift.values()), levels, days, clients, seed)
    known = levels[process.given][entities]
    classes, truth = _draw_classes(logits, mode, process, known, entities, days, clients, seed)

    tree = _Tree.of(process)
    leaves = tree.draw(seed, clients)[entities] if tree.columns else np.zeros(0, np.int64)
    arrays: dict[str, pa.Array] = {}
    for name, column in process.columns.items():
        random = stream(seed, f"column:{name}")
        match column.kind:
            case "entity":
                arrays[name] = _encode(entities, [column.template.format(number) for number in range(1, clients + 1)])
            case "branch":
                codes, texts = tree.columns[name]
                arrays[name] = _encode(codes[leaves], texts)
            case "choice":
                arrays[name] = _encode(levels[name][entities], column.levels)
            case "timestamp":
                arrays[name] = pa.array(days * NANOSECONDS_A_DAY).cast(pa.timestamp("ns"))
            case "target":
                arrays[name] = _encode(classes, process.classes)
            case "abs_normal":
                arrays[name] = pa.array(_draw_amounts(name, column, mode, days, random))
            case "integers":
                arrays[name] = _draw_integers(column, orders, random)
    table = pa.table(arrays)
    if not probabilities:
        return table
    names = [TRUE_PREFIX + name for name in process.classes]
    return table, pa.table({name: truth[:, place] for place, name in enumerate(names)})


def _draw_amounts(name: str, column: AbsNormal, mode: Mode, days: Days, random: np.random.Generator) -> Floats:
    amounts: Floats = np.abs(random.normal(column.mean, column.sd, len(days)))
    for drift in mode.drift.values():
        if name in drift.scale:
            amounts = np.where(days >= (drift.day - EPOCH).days, amounts * drift.scale[name], amounts)
    return np.asarray(np.round(amounts, column.decimals), np.float64)


def _draw_integers(column: Integers, orders: int, random: np.random.Generator) -> pa.Array:
    return pa.array(random.integers(column.low, column.high + 1, orders))


def truth_matrix(truth: pa.Table) -> Floats:
    """The true probabilities (orders, classes) among the columns of a table."""
    names = [name for name in truth.column_names if name.startswith(TRUE_PREFIX)]
    return np.column_stack([truth.column(name).to_numpy() for name in names])


def bayes_log_loss(truth: pa.Table) -> float:
    """The mean entropy in nats of the true probabilities: what the best possible model's log loss is on average."""
    matrix = truth_matrix(truth)
    return float(-(matrix * np.log(matrix)).sum(axis=1).mean())


def log_loss(probabilities: Floats, classes: Codes) -> float:
    """The mean log loss in nats of probabilities (orders, classes) on the classes that came."""
    return float(-np.log(probabilities[np.arange(len(classes)), classes]).mean())


def class_codes(table: pa.Table, process: Process) -> Codes:
    """The class of every order as its place in the process's list.

    Raises DataError for a null or a class the process does not know.
    """
    column = table.column(process.target).cast(pa.string())
    codes = pc.index_in(column, pa.array(process.classes, pa.string()))
    if codes.null_count:
        raise DataError(
            f"{process.target}: {counted(codes.null_count, 'order')} with no class of {', '.join(process.classes)}"
        )
    return np.asarray(codes.to_numpy(), np.int32)
